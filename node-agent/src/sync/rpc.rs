//! The syncer's calls to the server, each on a channel that is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use countersign_identity::csr::Csr;
use countersign_identity::key::KeyError;
use countersign_identity::{Bundle, KeyType, PrivateKey, SpiffeId, TrustDomain, X509Svid};
use countersign_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use countersign_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, PostStatusRequest, RenewAgentRequest,
};
use countersign_proto::spire::api::server::bundle::v1::GetFederatedBundleRequest;
use countersign_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use countersign_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use countersign_proto::spire::api::server::entry::v1::{
    SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
};
use countersign_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use countersign_proto::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, NewX509svidParams, batch_new_x509svid_response,
};
use countersign_proto::spire::api::types;
use countersign_transport::error::Chain;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::revisions::{Entries, ProtocolFault, Revisions};
use crate::client::{CallError, ServerChannel, failed};
use crate::entry::AuthorizedEntry;
use crate::node_attestor::get_bundle;
use crate::svid::UnusableSvid;
use crate::{limits, svid};

pub(super) const SYNC: &str = "SyncAuthorizedEntries";
pub(super) const SIGN: &str = "BatchNewX509SVID";
pub(super) const RENEW: &str = "RenewAgent";
pub(super) const POST_STATUS: &str = "PostStatus";
const GET_FEDERATED: &str = "GetFederatedBundle";

/// What one sync brings.
#[derive(Debug)]
pub(super) struct Synced {
    pub(super) entries: Entries,
    pub(super) bundle: Bundle,
    pub(super) federated: BTreeMap<TrustDomain, Arc<Bundle>>,
}

/// Fetches entries and bundles; all of it or nothing.
pub(super) async fn sync(
    channel: ServerChannel,
    trust_domain: &TrustDomain,
    known: &Entries,
) -> Result<Synced, CallError> {
    let entries = sync_entries(channel.clone(), trust_domain, known).await?;
    let bundle = get_bundle(channel.clone(), trust_domain).await?;
    let mut wanted = super::SvidCache::federates_with(&entries);
    wanted.remove(&bundle.trust_domain);
    let federated = federated_bundles(channel, wanted).await?;
    Ok(Synced {
        entries,
        bundle,
        federated,
    })
}

/// The entries of this node: at once if they are few, else by revisions and then what is new (wire contract, D.2).
async fn sync_entries(
    channel: ServerChannel,
    trust_domain: &TrustDomain,
    known: &Entries,
) -> Result<Entries, CallError> {
    let broken = |fault: ProtocolFault| CallError::Answer {
        method: SYNC,
        reason: fault.to_string(),
    };
    let (requests, outgoing) = mpsc::channel(1);
    let send = async |ids: Vec<String>, output_mask| {
        let request = SyncAuthorizedEntriesRequest { output_mask, ids };
        requests
            .send(request)
            .await
            .map_err(|_| broken(ProtocolFault::EndedEarly))
    };
    send(vec![], Some(AuthorizedEntry::mask())).await?;
    let mut pages = EntryClient::new(channel)
        .max_decoding_message_size(limits::SERVER_MESSAGE_BYTES)
        .sync_authorized_entries(ReceiverStream::new(outgoing))
        .await
        .map_err(failed(SYNC))?
        .into_inner();

    let first = next_page(&mut pages).await?;
    if first.entry_revisions.is_empty() {
        return Ok(valid_entries(first.entries, trust_domain));
    }
    let page_size = first.entry_revisions.len();
    let mut revisions = Revisions::default();
    let mut page = first;
    loop {
        if !page.entries.is_empty() {
            return Err(broken(ProtocolFault::EntriesAmongRevisions));
        }
        revisions
            .take(&page.entry_revisions, known)
            .map_err(broken)?;
        if !page.more {
            break;
        }
        page = next_page(&mut pages).await?;
    }

    let mut fetched = Entries::new();
    for ids in revisions.to_fetch(page_size) {
        send(ids, None).await?;
        loop {
            let page = next_page(&mut pages).await?;
            if !page.entry_revisions.is_empty() {
                return Err(broken(ProtocolFault::RevisionsAmongEntries));
            }
            fetched.extend(valid_entries(page.entries, trust_domain));
            if !page.more {
                break;
            }
        }
    }
    Ok(revisions.complete(known, fetched))
}

async fn next_page(
    pages: &mut Streaming<SyncAuthorizedEntriesResponse>,
) -> Result<SyncAuthorizedEntriesResponse, CallError> {
    let ended = || CallError::Answer {
        method: SYNC,
        reason: ProtocolFault::EndedEarly.to_string(),
    };
    pages
        .message()
        .await
        .map_err(failed(SYNC))?
        .ok_or_else(ended)
}

/// A malformed entry, or one of another trust domain, is left out; the others count.
fn valid_entries(entries: Vec<types::Entry>, trust_domain: &TrustDomain) -> Entries {
    entries
        .into_iter()
        .take(limits::ENTRIES)
        .filter_map(|wire| {
            let id = wire.id.clone();
            AuthorizedEntry::try_from(wire)
                .inspect_err(|error| tracing::warn!(entry = id, error = %Chain(error), "Entry left out"))
                .ok()
        })
        .filter(|entry| {
            let ours = entry.spiffe_id.is_member_of(trust_domain);
            if !ours {
                tracing::warn!(entry = %entry.id, spiffe_id = %entry.spiffe_id, "Entry left out: of another trust domain");
            }
            ours
        })
        .map(|entry| (entry.id.clone(), Arc::new(entry)))
        .collect()
}

/// The bundles of foreign trust domains. One that the server does not have is left out, and so is one that makes no
/// sense; any other failure fails the sync.
async fn federated_bundles(
    channel: ServerChannel,
    wanted: BTreeSet<TrustDomain>,
) -> Result<BTreeMap<TrustDomain, Arc<Bundle>>, CallError> {
    let fetches = wanted.into_iter().map(|td| {
        let channel = channel.clone();
        async move {
            federated_bundle(channel, &td)
                .await
                .map(|bundle| bundle.map(|bundle| (td, Arc::new(bundle))))
        }
    });
    stream::iter(fetches)
        .buffer_unordered(limits::BUNDLES_AT_ONCE)
        .try_filter_map(|found| async move { Ok(found) })
        .try_collect()
        .await
}

async fn federated_bundle(
    channel: ServerChannel,
    td: &TrustDomain,
) -> Result<Option<Bundle>, CallError> {
    let request = GetFederatedBundleRequest {
        trust_domain: td.to_string(),
        output_mask: None,
    };
    let mut client =
        BundleClient::new(channel).max_decoding_message_size(limits::SERVER_MESSAGE_BYTES);
    let answer = match client.get_federated_bundle(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) if status.code() == Code::NotFound => return Ok(None),
        Err(status) => return Err(failed(GET_FEDERATED)(status)),
    };
    match Bundle::try_from(answer) {
        Ok(bundle) if bundle.trust_domain == *td => Ok(Some(bundle)),
        Ok(bundle) => {
            tracing::warn!(asked = %td, got = %bundle.trust_domain, "Federated bundle left out: not the one asked for");
            Ok(None)
        }
        Err(error) => {
            tracing::warn!(trust_domain = %td, error = %Chain(&error), "Federated bundle left out");
            Ok(None)
        }
    }
}

/// A new key for an entry, and the request to have it signed.
pub(super) struct SigningRequest {
    pub(super) entry: Arc<AuthorizedEntry>,
    key: PrivateKey,
    csr: Vec<u8>,
}

/// Makes a key for each entry. Takes a while: for a blocking thread.
pub(super) fn signing_requests(
    entries: Vec<Arc<AuthorizedEntry>>,
    key_type: KeyType,
) -> Result<Vec<SigningRequest>, KeyError> {
    entries
        .into_iter()
        .map(|entry| {
            let key = PrivateKey::generate(key_type)?;
            let csr = Csr::make(&key, Some(&entry.spiffe_id))?;
            Ok(SigningRequest { entry, key, csr })
        })
        .collect()
}

/// Has one batch signed. Results are in the order of the requests; each is an SVID or the reason why there is none.
pub(super) async fn sign(
    channel: ServerChannel,
    requests: &[SigningRequest],
) -> Result<Vec<Result<X509Svid, NotSigned>>, CallError> {
    let params = requests
        .iter()
        .map(|r| NewX509svidParams {
            entry_id: r.entry.id.to_string(),
            csr: r.csr.clone().into(),
        })
        .collect();
    let answer = SvidClient::new(channel)
        .max_decoding_message_size(limits::SERVER_MESSAGE_BYTES)
        .batch_new_x509svid(BatchNewX509svidRequest { params })
        .await
        .map_err(failed(SIGN))?
        .into_inner();
    if answer.results.len() != requests.len() {
        let reason = format!(
            "{} results for {} requests",
            answer.results.len(),
            requests.len()
        );
        return Err(CallError::Answer {
            method: SIGN,
            reason,
        });
    }
    Ok(answer
        .results
        .into_iter()
        .zip(requests)
        .map(|(result, request)| signed(result, request))
        .collect())
}

/// Why there is no SVID for one entry of a batch.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotSigned {
    /// The server's result says neither.
    #[error("the result has no status")]
    NoStatus,
    /// The server refused it.
    #[error("{message} ({code:?})")]
    Refused {
        /// The server's words.
        message: String,
        /// The server's code.
        code: Code,
    },
    /// The server signed something that is no SVID.
    #[error(transparent)]
    Unusable(#[from] UnusableSvid),
    /// The server signed for another workload.
    #[error("signed for {signed} instead of {wanted}")]
    OtherId {
        /// Whose SVID it is.
        signed: SpiffeId,
        /// Whose it should be.
        wanted: SpiffeId,
    },
}

fn signed(
    result: batch_new_x509svid_response::Result,
    request: &SigningRequest,
) -> Result<X509Svid, NotSigned> {
    let status = result.status.ok_or(NotSigned::NoStatus)?;
    if status.code != 0 {
        return Err(NotSigned::Refused {
            message: status.message,
            code: Code::from_i32(status.code),
        });
    }
    let svid = svid::from_server(result.svid, request.key.clone())?;
    if *svid.id() != request.entry.spiffe_id {
        return Err(NotSigned::OtherId {
            signed: svid.id().clone(),
            wanted: request.entry.spiffe_id.clone(),
        });
    }
    Ok(svid)
}

/// Renews the node's own SVID with a new key.
pub(super) async fn renew(channel: ServerChannel, key: PrivateKey) -> Result<X509Svid, CallError> {
    let unusable = |reason: String| CallError::Answer {
        method: RENEW,
        reason,
    };
    let csr = Csr::make(&key, None).map_err(|e| unusable(Chain(&e).to_string()))?;
    let answer = AgentClient::new(channel)
        .renew_agent(RenewAgentRequest {
            params: Some(AgentX509svidParams { csr: csr.into() }),
        })
        .await
        .map_err(failed(RENEW))?
        .into_inner();
    svid::from_server(answer.svid, key).map_err(|e| unusable(Chain(&e).to_string()))
}

/// Tells the server this program's version.
pub(super) async fn post_status(channel: ServerChannel) -> Result<(), CallError> {
    let request = PostStatusRequest {
        current_bundle_serial: 0,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    AgentClient::new(channel)
        .post_status(request)
        .await
        .map_err(failed(POST_STATUS))?;
    Ok(())
}
