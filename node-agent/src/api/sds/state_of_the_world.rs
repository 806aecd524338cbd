//! State-of-the-world xDS: each response has all requested resources.

use std::collections::HashSet;
use std::sync::Arc;

use countersign_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use tonic::Status;

use super::super::caller::Admitted;
use super::secret::{Secrets, validation_for};
use super::{Conversation, check_names, nonce};
use crate::config::{SdsConfig, Validation};
use crate::sync::Snapshot;

/// The state of one stream.
pub(super) struct StateOfTheWorld {
    config: Arc<SdsConfig>,
    /// `version_info`: incremented whenever the caller's secrets may have changed.
    version: u64,
    /// The nonce of the last response.
    nonce: Option<String>,
    validation: Validation,
    /// The names and type of the last valid request. Not the request itself, which may be large.
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

    /// A response is due to the first request, and to one with other names. An ACK or NACK of the last response gets
    /// none, and a request with an older nonce is ignored (wire contract, F.7).
    fn request(&mut self, request: DiscoveryRequest) -> Result<bool, Status> {
        if let Some(nonce) = &self.nonce
            && *nonce != request.response_nonce
        {
            tracing::debug!("Ignoring a request with an outdated nonce");
            return Ok(false);
        }
        // xDS clients send `node` only in the first request of a stream.
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
