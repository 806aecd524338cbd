//! Incremental: each answer has what the caller does not have yet, and names what is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use countersign_proto::envoy::config::core::v3::Node;
use countersign_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use tonic::Status;

use super::super::caller::Admitted;
use super::secret::{Named, Secrets};
use super::{Conversation, Due, Settings, nonce};
use crate::limits;
use crate::sync::Snapshot;

/// Asks for everything there is.
const WILDCARD: &str = "*";

/// One stream.
pub(super) struct Delta {
    settings: Arc<Settings>,
    version: u64,
    node: Option<Node>,
    type_url: String,
    first: bool,
    wildcard: bool,
    /// The names that are wanted.
    wanted: BTreeSet<String>,
    /// What the caller has been told of each name.
    told: BTreeMap<String, Told>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    /// It has this version.
    Version(String),
    /// There is no such thing.
    Absent,
}

impl Delta {
    pub(super) const fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            version: 0,
            node: None,
            type_url: String::new(),
            first: true,
            wildcard: false,
            wanted: BTreeSet::new(),
            told: BTreeMap::new(),
        }
    }

    /// What is there of all that is wanted, by name.
    fn present(&self, secrets: &Secrets<'_>) -> BTreeMap<String, Named> {
        let everything = if self.wildcard { secrets.all() } else { vec![] };
        self.wanted
            .iter()
            .filter_map(|name| secrets.one(name))
            .chain(everything)
            .map(|named| (named.name.clone(), named))
            .collect()
    }
}

impl Conversation for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    /// Confirmations and rejections change nothing here: a rejected version is not sent again, the next one is.
    fn request(&mut self, request: DeltaDiscoveryRequest) -> Result<Due, Status> {
        let DeltaDiscoveryRequest {
            node,
            type_url,
            resource_names_subscribe,
            resource_names_unsubscribe,
            initial_resource_versions,
            response_nonce: _,
            error_detail,
        } = request;
        if let Some(error) = error_detail {
            tracing::warn!(error = error.message, "Envoy did not take the last secrets");
        }
        self.node = node.or(self.node.take());
        if self.first {
            self.first = false;
            self.type_url = type_url;
            // Whoever names nothing at the beginning wants everything.
            self.wildcard = resource_names_subscribe.is_empty();
            let had = initial_resource_versions.into_iter();
            self.told = had
                .map(|(name, version)| (name, Told::Version(version)))
                .collect();
            check(self.told.keys())?;
        } else if resource_names_subscribe.is_empty() && resource_names_unsubscribe.is_empty() {
            return Ok(Due::No);
        }
        for name in resource_names_unsubscribe {
            if name == WILDCARD {
                self.wildcard = false;
            }
            self.wanted.remove(&name);
            self.told.remove(&name);
        }
        for name in resource_names_subscribe {
            if name == WILDCARD {
                self.wildcard = true;
                continue;
            }
            // Asked for once more means: sent once more. What it has from before the stream counts.
            if !self.wanted.insert(name.clone()) {
                self.told.remove(&name);
            }
        }
        check(self.wanted.iter())?;
        let (wanted, wildcard) = (&self.wanted, self.wildcard);
        self.told
            .retain(|name, _| wildcard || wanted.contains(name));
        Ok(Due::Now)
    }

    fn news(&mut self) -> Due {
        self.version += 1;
        if self.first { Due::No } else { Due::Now }
    }

    fn answer(
        &mut self,
        snapshot: &Snapshot,
        admitted: &Admitted,
    ) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        let validation = self.settings.validation.for_node(self.node.as_ref());
        let selectors = admitted.subscription.selectors();
        let settings = Arc::clone(&self.settings);
        let secrets = Secrets::new(snapshot, selectors, &settings.names, validation);
        let present = self.present(&secrets);

        let gone: Vec<String> = self
            .wanted
            .iter()
            .chain(self.told.keys())
            .filter(|name| !present.contains_key(*name))
            .filter(|name| self.told.get(*name) != Some(&Told::Absent))
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let mut resources = Vec::new();
        for (name, named) in present {
            let version = version(&named.any.value);
            if self.told.get(&name) != Some(&Told::Version(version.clone())) {
                self.told
                    .insert(name.clone(), Told::Version(version.clone()));
                resources.push(Resource {
                    version,
                    resource: Some(named.any),
                    name,
                });
            }
        }
        for name in &gone {
            if self.wanted.contains(name) {
                self.told.insert(name.clone(), Told::Absent);
            } else {
                self.told.remove(name);
            }
        }
        if resources.is_empty() && gone.is_empty() {
            return Ok(None);
        }
        Ok(Some(DeltaDiscoveryResponse {
            system_version_info: self.version.to_string(),
            resources,
            type_url: self.type_url.clone(),
            nonce: nonce(),
            removed_resources: gone,
        }))
    }
}

/// A version is the content: the same after a restart of the node agent, so that what Envoy has is not sent again.
fn version(secret: &[u8]) -> String {
    let digest = digest(&SHA256, secret);
    digest
        .as_ref()
        .iter()
        .take(16)
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// A stream's names are kept as long as it lasts.
fn check<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> Result<(), Status> {
    if names.len() > limits::SDS_NAMES {
        return Err(Status::resource_exhausted(format!(
            "one stream may ask for at most {} secrets: open another one",
            limits::SDS_NAMES
        )));
    }
    let longest = names.map(String::len).max().unwrap_or_default();
    if longest > limits::SDS_NAME_BYTES {
        return Err(Status::invalid_argument(format!(
            "the name of a secret is longer than {} bytes",
            limits::SDS_NAME_BYTES
        )));
    }
    Ok(())
}
