//! The table of who may call which method, and the guard that enforces it.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use countersign_transport::Connection;
use tonic::Status;

use super::Context;
use super::audit::Note;
use super::caller::{Access, Caller};

/// Every method of every service that is served.
#[rustfmt::skip]
pub(super) const TABLE: &[(&str, Access)] = &[
    ("/spire.api.server.agent.v1.Agent/AttestAgent",                                   Access::Anyone),
    ("/spire.api.server.agent.v1.Agent/RenewAgent",                                    Access::Agent),
    ("/spire.api.server.agent.v1.Agent/PostStatus",                                    Access::Agent),
    ("/spire.api.server.agent.v1.Agent/CountAgents",                                   Access::Admin),
    ("/spire.api.server.agent.v1.Agent/ListAgents",                                    Access::Admin),
    ("/spire.api.server.agent.v1.Agent/GetAgent",                                      Access::Admin),
    ("/spire.api.server.agent.v1.Agent/DeleteAgent",                                   Access::Admin),
    ("/spire.api.server.agent.v1.Agent/BanAgent",                                      Access::Admin),
    ("/spire.api.server.agent.v1.Agent/CreateJoinToken",                               Access::Admin),
    ("/spire.api.server.entry.v1.Entry/GetAuthorizedEntries",                          Access::Agent),
    ("/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries",                         Access::Agent),
    ("/spire.api.server.entry.v1.Entry/CountEntries",                                  Access::Admin),
    ("/spire.api.server.entry.v1.Entry/ListEntries",                                   Access::Admin),
    ("/spire.api.server.entry.v1.Entry/GetEntry",                                      Access::Admin),
    ("/spire.api.server.entry.v1.Entry/BatchCreateEntry",                              Access::Admin),
    ("/spire.api.server.entry.v1.Entry/BatchUpdateEntry",                              Access::Admin),
    ("/spire.api.server.entry.v1.Entry/BatchDeleteEntry",                              Access::Admin),
    ("/spire.api.server.svid.v1.SVID/BatchNewX509SVID",                                Access::Agent),
    ("/spire.api.server.svid.v1.SVID/NewJWTSVID",                                      Access::Agent),
    ("/spire.api.server.svid.v1.SVID/BatchNewWITSVID",                                 Access::Agent),
    ("/spire.api.server.svid.v1.SVID/NewDownstreamX509CA",                             Access::Downstream),
    ("/spire.api.server.svid.v1.SVID/MintX509SVID",                                    Access::Admin),
    ("/spire.api.server.svid.v1.SVID/MintJWTSVID",                                     Access::Admin),
    ("/spire.api.server.svid.v1.SVID/MintWITSVID",                                     Access::Admin),
    ("/spire.api.server.bundle.v1.Bundle/GetBundle",                                   Access::Anyone),
    ("/spire.api.server.bundle.v1.Bundle/GetFederatedBundle",                          Access::AdminOrAgent),
    ("/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority",                         Access::Downstream),
    ("/spire.api.server.bundle.v1.Bundle/PublishWITAuthority",                         Access::Downstream),
    ("/spire.api.server.bundle.v1.Bundle/CountBundles",                                Access::Admin),
    ("/spire.api.server.bundle.v1.Bundle/AppendBundle",                                Access::Admin),
    ("/spire.api.server.bundle.v1.Bundle/ListFederatedBundles",                        Access::Admin),
    ("/spire.api.server.bundle.v1.Bundle/BatchCreateFederatedBundle",                  Access::Admin),
    ("/spire.api.server.bundle.v1.Bundle/BatchUpdateFederatedBundle",                  Access::Admin),
    ("/spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle",                     Access::Admin),
    ("/spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle",                  Access::Admin),
    ("/spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships",       Access::Admin),
    ("/spire.api.server.trustdomain.v1.TrustDomain/GetFederationRelationship",         Access::Admin),
    ("/spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship", Access::Admin),
    ("/spire.api.server.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship", Access::Admin),
    ("/spire.api.server.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship", Access::Admin),
    ("/spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle",                     Access::Admin),
    ("/spire.api.server.localauthority.v1.LocalAuthority/GetJWTAuthorityState",        Access::Admin),
    ("/spire.api.server.localauthority.v1.LocalAuthority/PrepareJWTAuthority",         Access::Admin),
    ("/spire.api.server.localauthority.v1.LocalAuthority/ActivateJWTAuthority",        Access::Admin),
    ("/spire.api.server.localauthority.v1.LocalAuthority/TaintJWTAuthority",           Access::Admin),
    ("/spire.api.server.localauthority.v1.LocalAuthority/RevokeJWTAuthority",          Access::Admin),
    ("/spire.api.server.localauthority.v1.LocalAuthority/GetX509AuthorityState",       Access::Admin),
    ("/spire.api.server.localauthority.v1.LocalAuthority/PrepareX509Authority",        Access::Admin),
    ("/spire.api.server.localauthority.v1.LocalAuthority/ActivateX509Authority",       Access::Admin),
    ("/spire.api.server.localauthority.v1.LocalAuthority/TaintX509Authority",          Access::Admin),
    ("/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509Authority",         Access::Admin),
    ("/spire.api.server.localauthority.v1.LocalAuthority/GetWITAuthorityState",        Access::Admin),
    ("/spire.api.server.localauthority.v1.LocalAuthority/PrepareWITAuthority",         Access::Admin),
    ("/spire.api.server.localauthority.v1.LocalAuthority/ActivateWITAuthority",        Access::Admin),
    ("/spire.api.server.localauthority.v1.LocalAuthority/TaintWITAuthority",           Access::Admin),
    ("/spire.api.server.localauthority.v1.LocalAuthority/RevokeWITAuthority",          Access::Admin),
    ("/spire.api.server.localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority",  Access::Admin),
    ("/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority", Access::Admin),
    ("/spire.api.server.debug.v1.Debug/GetInfo",                                       Access::Local),
    ("/spire.api.server.logger.v1.Logger/GetLogger",                                   Access::Local),
    ("/spire.api.server.logger.v1.Logger/SetLogLevel",                                 Access::Local),
    ("/spire.api.server.logger.v1.Logger/ResetLogLevel",                               Access::Local),
    ("/grpc.health.v1.Health/Check",                                                   Access::Local),
    ("/grpc.health.v1.Health/List",                                                    Access::Local),
    ("/grpc.health.v1.Health/Watch",                                                   Access::Local),
];

fn access_of(method: &str) -> Option<Access> {
    TABLE
        .iter()
        .find(|(name, _)| *name == method)
        .map(|(_, access)| *access)
}

/// Lets a request through with its [`Caller`] in its extensions, or answers it with the refusal.
pub(super) async fn guard(
    State(context): State<Arc<Context>>,
    mut request: Request,
    next: Next,
) -> Response {
    let method = request.uri().path().to_owned();
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    match admit(&context, &method, connection).await {
        Ok(caller) => {
            Note::of(request.extensions()).caller(&caller);
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(status) => status.into_http(),
    }
}

async fn admit(
    context: &Context,
    method: &str,
    connection: Option<Arc<Connection>>,
) -> Result<Caller, Status> {
    let access = access_of(method)
        .ok_or_else(|| Status::unimplemented(format!("this server has no method {method}")))?;
    let connection =
        connection.ok_or_else(|| Status::internal("the connection of the request is not known"))?;
    context.authorise(access, &connection, method).await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;

    use super::*;

    /// Every method that the descriptors of the served packages have.
    fn described() -> BTreeSet<String> {
        let set =
            prost_types::FileDescriptorSet::decode(countersign_proto::DESCRIPTOR_SET).unwrap();
        let served =
            |package: &str| package.starts_with("spire.api.server.") || package == "grpc.health.v1";
        let mut methods = BTreeSet::new();
        for file in set.file.iter().filter(|file| served(file.package())) {
            for service in &file.service {
                for method in &service.method {
                    methods.insert(format!(
                        "/{}.{}/{}",
                        file.package(),
                        service.name(),
                        method.name()
                    ));
                }
            }
        }
        methods
    }

    #[test]
    fn every_method_has_exactly_one_row_and_every_row_a_method() {
        let rows: Vec<String> = TABLE.iter().map(|(name, _)| (*name).to_owned()).collect();
        let distinct: BTreeSet<String> = rows.iter().cloned().collect();
        assert_eq!(rows.len(), distinct.len(), "a method has two rows");
        assert!(distinct.len() > 30);
        assert_eq!(distinct, described());
    }

    #[test]
    fn only_what_everybody_needs_is_for_everybody() {
        let open: Vec<&str> = TABLE
            .iter()
            .filter(|(_, access)| *access == Access::Anyone)
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(
            open,
            [
                "/spire.api.server.agent.v1.Agent/AttestAgent",
                "/spire.api.server.bundle.v1.Bundle/GetBundle"
            ]
        );
    }
}
