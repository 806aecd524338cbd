//! The admin socket: identities of others for authorised delegates, and the node agent's own state.

mod delegated;

use axum::Router;
use countersign_proto::spire::api::agent::delegatedidentity::v1::delegated_identity_server::DelegatedIdentityServer;
use tonic::service::Routes;

use super::caller::Callers;
use super::{Rules, Sources};
use crate::limits;

pub use delegated::Delegates;

/// Everything on the admin socket.
pub fn router(sources: &Sources, rules: &Rules) -> Router {
    let Sources {
        feed,
        jwt_svids,
        attestors,
        clock: _,
        stop,
    } = sources.clone();
    let delegated = delegated::Delegated {
        callers: Callers::new(feed, attestors),
        jwt_svids,
        delegates: rules.delegates.clone(),
        stop,
    };
    let delegated = DelegatedIdentityServer::new(delegated)
        .max_decoding_message_size(limits::ADMIN_REQUEST_BYTES);
    Routes::new(delegated).into_axum_router()
}
