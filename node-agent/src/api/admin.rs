//! The admin socket: the delegated identity API, and the node agent's own state (wire contract, F.8).

mod debug;
mod delegated;
mod logger;

use axum::Router;
use countersign_daemon::logs::Levels;
use countersign_proto::spire::agent::debug::v1::debug_server::DebugServer;
use countersign_proto::spire::api::agent::delegatedidentity::v1::delegated_identity_server::DelegatedIdentityServer;
use countersign_proto::spire::api::agent::logger::v1::logger_server::LoggerServer;
use tonic::service::Routes;

use super::caller::Callers;
use super::{Sources, concurrency};
use crate::config::ApiConfig;
use crate::limits;

/// Everything on the admin socket. `levels` is the level of this process's logs.
pub fn router(sources: &Sources, config: &ApiConfig, levels: Levels) -> Router {
    let debug = debug::Debug::new(sources);
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
        delegates: config.delegates.clone(),
        stop,
    };
    let delegated = DelegatedIdentityServer::new(delegated)
        .max_decoding_message_size(limits::ADMIN_REQUEST_BYTES);
    let debug = DebugServer::new(debug).max_decoding_message_size(limits::ADMIN_REQUEST_BYTES);
    let logger = LoggerServer::new(logger::Logger(levels))
        .max_decoding_message_size(limits::ADMIN_REQUEST_BYTES);
    let routes = Routes::new(delegated)
        .add_service(debug)
        .add_service(logger);
    concurrency::limited(routes.into_axum_router()).layer(super::call_metrics())
}
