//! xDS, state of the world: each response has all resources that were asked for.

use std::collections::HashSet;
use std::sync::Arc;

use countersign_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use tonic::Status;

use super::super::caller::Admitted;
use super::secret::{Secrets, validation_for};
use super::{Conversation, check_names, nonce};
use crate::config::{SdsConfig, Validation};
use crate::sync::Snapshot;

/// One stream.
pub(super) struct StateOfTheWorld {
    config: Arc<SdsConfig>,
    /// Counts the changes of the caller's secrets.
    version: u64,
    /// Of the last answer.
    nonce: Option<String>,
    validation: Validation,
    /// What the last request that counted asked for. The request itself may be large.
    wanted: Option<Wanted>,
}

struct Wanted {
    names: Vec<String>,
    type_url: String,
}

impl StateOfTheWorld {
    pub(super) fn new(config: Arc<SdsConfig>) -> Self {
        Self {
            validation: config.validation,
            config,
            version: 0,
            nonce: None,
            wanted: None,
        }
    }
}

impl Conversation for StateOfTheWorld {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn rejection(request: &DiscoveryRequest) -> Option<&str> {
        request.error_detail.as_ref().map(|e| e.message.as_str())
    }

    /// An answer is due to the first request, and to one that asks for other names. Confirmations and rejections of the
    /// last answer get none, and what is about an earlier answer is outdated.
    fn request(&mut self, request: DiscoveryRequest) -> Result<bool, Status> {
        if let Some(nonce) = &self.nonce
            && *nonce != request.response_nonce
        {
            tracing::debug!("A request from before the last answer is ignored");
            return Ok(false);
        }
        // Envoy introduces itself once.
        if request.node.is_some() {
            self.validation = validation_for(self.config.validation, request.node.as_ref());
        }
        let (names, type_url) = (request.resource_names, request.type_url);
        check_names(names.iter())?;
        check_names([&type_url].into_iter())?;
        let changed = self
            .wanted
            .as_ref()
            .is_none_or(|last| differ(&last.names, &names));
        self.wanted = Some(Wanted { names, type_url });
        Ok(changed)
    }

    fn news(&mut self) -> bool {
        self.version += 1;
        self.wanted.is_some()
    }

    fn answer(
        &mut self,
        snapshot: &Snapshot,
        admitted: &Admitted,
    ) -> Result<Option<DiscoveryResponse>, Status> {
        let Some(wanted) = &self.wanted else {
            return Ok(None);
        };
        let selectors = admitted.subscription.selectors();
        let secrets = Secrets::new(snapshot, selectors, &self.config.names, self.validation);
        let resources = secrets.requested(&wanted.names)?;
        let nonce = nonce();
        self.nonce = Some(nonce.clone());
        Ok(Some(DiscoveryResponse {
            version_info: self.version.to_string(),
            resources: resources.into_iter().map(|named| named.any).collect(),
            type_url: wanted.type_url.clone(),
            nonce,
        }))
    }
}

fn differ(old: &[String], new: &[String]) -> bool {
    let old_set: HashSet<&String> = old.iter().collect();
    old.len() != new.len() || new.iter().any(|name| !old_set.contains(name))
}
