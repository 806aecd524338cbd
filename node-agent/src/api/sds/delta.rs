//! Incremental xDS: each response has the resources that the caller lacks, and the names of the removed ones.

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

/// Subscribes to every resource (xDS, "Wildcard subscriptions").
const WILDCARD: &str = "*";

/// The state of one stream.
pub(super) struct Delta {
    config: Arc<SdsConfig>,
    version: u64,
    validation: Validation,
    type_url: String,
    first: bool,
    wildcard: bool,
    /// The subscribed names.
    wanted: BTreeSet<String>,
    /// What the caller has, by name.
    sent: BTreeMap<String, Sent>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Sent {
    /// It has this version.
    Version(String),
    /// It was sent as a removed resource.
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

    /// The subscribed resources that exist, by name.
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

    /// An ACK or NACK changes nothing here: a rejected version is not sent again, only the next one.
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
        // xDS clients send `node` only in the first request of a stream.
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
            // Subscribing again requests the resource again. Versions from `initial_resource_versions` still count for
            // a first subscription.
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

/// The version is a digest of the content, so that it survives a restart of the node agent: Envoy reconnects with the
/// versions that it has, and gets only what has changed.
fn version(secret: &[u8]) -> String {
    let digest = digest(&SHA256, secret);
    digest
        .as_ref()
        .iter()
        .take(16)
        .map(|b| format!("{b:02x}"))
        .collect()
}
