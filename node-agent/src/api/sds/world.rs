//! The state of the world: each answer has all that was asked for.

use std::collections::HashSet;
use std::sync::Arc;

use countersign_proto::envoy::config::core::v3::Node;
use countersign_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use tonic::Status;

use super::super::caller::Admitted;
use super::secret::Secrets;
use super::{Conversation, Due, Settings, nonce};
use crate::sync::Snapshot;

/// One stream.
pub(super) struct World {
    settings: Arc<Settings>,
    /// How many times what the caller has was told or changed.
    version: u64,
    /// Of the last answer.
    nonce: Option<String>,
    node: Option<Node>,
    /// The last request that counted.
    last: Option<DiscoveryRequest>,
}

impl World {
    pub(super) const fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            version: 0,
            nonce: None,
            node: None,
            last: None,
        }
    }
}

impl Conversation for World {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    /// An answer is due to the first request, and to one that asks for other names. Confirmations and rejections of the
    /// last answer get none, and what is about an earlier answer is outdated.
    fn request(&mut self, mut request: DiscoveryRequest) -> Result<Due, Status> {
        if let Some(error) = &request.error_detail {
            tracing::warn!(error = error.message, "Envoy did not take the last secrets");
        }
        if let Some(nonce) = &self.nonce
            && *nonce != request.response_nonce
        {
            tracing::debug!("A request from before the last answer is ignored");
            return Ok(Due::No);
        }
        // Envoy introduces itself once.
        if request.node.is_some() {
            self.node = request.node.take();
        }
        let changed = self
            .last
            .as_ref()
            .is_none_or(|last| differ(&last.resource_names, &request.resource_names));
        self.last = Some(request);
        Ok(if changed { Due::Now } else { Due::No })
    }

    fn news(&mut self) -> Due {
        self.version += 1;
        if self.last.is_some() {
            Due::Now
        } else {
            Due::No
        }
    }

    fn answer(
        &mut self,
        snapshot: &Snapshot,
        admitted: &Admitted,
    ) -> Result<Option<DiscoveryResponse>, Status> {
        let Some(request) = &self.last else {
            return Ok(None);
        };
        let validation = self.settings.validation.for_node(self.node.as_ref());
        let selectors = admitted.subscription.selectors();
        let secrets = Secrets::new(snapshot, selectors, &self.settings.names, validation);
        let resources = secrets.requested(&request.resource_names)?;
        let nonce = nonce();
        self.nonce = Some(nonce.clone());
        Ok(Some(DiscoveryResponse {
            version_info: self.version.to_string(),
            resources: resources.into_iter().map(|named| named.any).collect(),
            type_url: request.type_url.clone(),
            nonce,
        }))
    }
}

fn differ(old: &[String], new: &[String]) -> bool {
    let old_set: HashSet<&String> = old.iter().collect();
    old.len() != new.len() || new.iter().any(|name| !old_set.contains(name))
}
