//! xDS, incremental: each response has the resources that the caller does not have yet, and names the removed ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use countersign_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use tonic::Status;

use super::super::caller::Admitted;
use super::secret::{Named, Secrets, validation_for};
use super::{Conversation, check_names, nonce};
use crate::config::{SdsConfig, Validation};
use crate::sync::Snapshot;

/// Asks for everything there is.
const WILDCARD: &str = "*";

/// One stream.
pub(super) struct Delta {
    config: Arc<SdsConfig>,
    version: u64,
    validation: Validation,
    type_url: String,
    first: bool,
    wildcard: bool,
    /// The names that are wanted.
    wanted: BTreeSet<String>,
    /// What the caller has been sent for each name.
    sent: BTreeMap<String, Sent>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Sent {
    /// It has this version.
    Version(String),
    /// There is no such thing.
    Absent,
}

impl Delta {
    pub(super) fn new(config: Arc<SdsConfig>) -> Self {
        Self {
            validation: config.validation,
            config,
            version: 0,
            type_url: String::new(),
            first: true,
            wildcard: false,
            wanted: BTreeSet::new(),
            sent: BTreeMap::new(),
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

    fn rejection(request: &DeltaDiscoveryRequest) -> Option<&str> {
        request.error_detail.as_ref().map(|e| e.message.as_str())
    }

    /// Confirmations and rejections change nothing here: a rejected version is not sent again, the next one is.
    fn request(&mut self, request: DeltaDiscoveryRequest) -> Result<bool, Status> {
        let DeltaDiscoveryRequest {
            node,
            type_url,
            resource_names_subscribe,
            resource_names_unsubscribe,
            initial_resource_versions,
            response_nonce: _,
            error_detail: _,
        } = request;
        // Envoy introduces itself once.
        if node.is_some() {
            self.validation = validation_for(self.config.validation, node.as_ref());
        }
        if self.first {
            self.first = false;
            check_names([&type_url].into_iter())?;
            self.type_url = type_url;
            // A first request without names subscribes to everything (xDS).
            self.wildcard = resource_names_subscribe.is_empty();
            let had = initial_resource_versions.into_iter();
            self.sent = had
                .map(|(name, version)| (name, Sent::Version(version)))
                .collect();
            check_names(self.sent.keys())?;
        } else if resource_names_subscribe.is_empty() && resource_names_unsubscribe.is_empty() {
            return Ok(false);
        }
        for name in resource_names_unsubscribe {
            if name == WILDCARD {
                self.wildcard = false;
            }
            self.wanted.remove(&name);
            self.sent.remove(&name);
        }
        for name in resource_names_subscribe {
            if name == WILDCARD {
                self.wildcard = true;
                continue;
            }
            // Asked for once more means: sent once more. What it has from before the stream counts.
            if !self.wanted.insert(name.clone()) {
                self.sent.remove(&name);
            }
        }
        check_names(self.wanted.iter())?;
        let (wanted, wildcard) = (&self.wanted, self.wildcard);
        self.sent
            .retain(|name, _| wildcard || wanted.contains(name));
        Ok(true)
    }

    fn news(&mut self) -> bool {
        self.version += 1;
        !self.first
    }

    fn answer(
        &mut self,
        snapshot: &Snapshot,
        admitted: &Admitted,
    ) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        let selectors = admitted.subscription.selectors();
        let config = Arc::clone(&self.config);
        let secrets = Secrets::new(snapshot, selectors, &config.names, self.validation);
        let present = self.present(&secrets);

        let gone: Vec<String> = self
            .wanted
            .iter()
            .chain(self.sent.keys())
            .filter(|name| !present.contains_key(*name))
            .filter(|name| self.sent.get(*name) != Some(&Sent::Absent))
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let mut resources = Vec::new();
        for (name, named) in present {
            let version = version(&named.any.value);
            if self.sent.get(&name) != Some(&Sent::Version(version.clone())) {
                self.sent
                    .insert(name.clone(), Sent::Version(version.clone()));
                resources.push(Resource {
                    version,
                    resource: Some(named.any),
                    name,
                });
            }
        }
        for name in &gone {
            if self.wanted.contains(name) {
                self.sent.insert(name.clone(), Sent::Absent);
            } else {
                self.sent.remove(name);
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
