//! The server's own authorities, rotated by hand.

use std::sync::Arc;

use countersign_ca::authority::{
    AuthorityCommand, AuthorityState, CommandError, Kind, SlotStatus, States,
};
use countersign_identity::UnixTime;
use countersign_proto::spire::api::server::localauthority::v1 as wire;
use tonic::{Code, Request, Response, Status};

use countersign_transport::error::Chain;

use super::Context;
use super::status::ApiError;

/// The service.
pub(super) struct LocalAuthorityService(pub(super) Arc<Context>);

impl LocalAuthorityService {
    /// Refuses JWT authorities if JWT-SVIDs are turned off.
    fn served(&self, kind: Kind) -> Result<Kind, ApiError> {
        if kind == Kind::Jwt && !self.0.parts.authority.signs_jwt() {
            return Err(jwt_disabled());
        }
        Ok(kind)
    }

    fn states(&self, kind: Kind) -> Result<States, ApiError> {
        let states = self.0.parts.authority.states(self.served(kind)?);
        states.ok_or_else(|| failed("", &CommandError::Initializing))
    }

    /// Has a command carried out; the index shows it when this returns.
    async fn command(
        &self,
        command: AuthorityCommand,
        refusal: impl FnOnce(&CommandError) -> ApiError + Send,
    ) -> Result<AuthorityState, ApiError> {
        let parts = &self.0.parts;
        let state = parts.authority.command(command).await;
        let state = state.map_err(|error| refusal(&error))?;
        Ok(parts.index.visible(state).await?)
    }

    async fn prepare(&self, kind: Kind) -> Result<wire::AuthorityState, ApiError> {
        let command = AuthorityCommand::Prepare(self.served(kind)?);
        let summary = format!("failed to prepare {kind} authority");
        let state = self
            .command(command, |error| failed(&summary, error))
            .await?;
        Ok(to_wire(state))
    }

    async fn activate(&self, kind: Kind, id: String) -> Result<wire::AuthorityState, ApiError> {
        let command = AuthorityCommand::Activate(self.served(kind)?, id);
        let summary = format!("failed to activate {kind} authority");
        let refusal = |error: &CommandError| match error {
            CommandError::Status(_) => ApiError::new(
                Code::Internal,
                "only Prepared authorities can be activated",
                error,
            ),
            CommandError::IsActive => ApiError::invalid("unexpected authority ID"),
            _ => failed(&summary, error),
        };
        Ok(to_wire(self.command(command, refusal).await?))
    }

    async fn taint(&self, kind: Kind, id: String) -> Result<AuthorityState, ApiError> {
        let command = AuthorityCommand::Taint(self.served(kind)?, id);
        let summary = format!("failed to taint {kind} authority");
        let refusal = |error: &CommandError| match error {
            CommandError::HasUpstream => ApiError::plain(
                Code::FailedPrecondition,
                "local authority can't be tainted if there is an upstream authority",
            ),
            CommandError::IsActive => ApiError::invalid("unable to taint current local authority"),
            CommandError::Status(_) => ApiError::new(
                Code::InvalidArgument,
                "only Old local authorities can be tainted",
                error,
            ),
            _ => failed(&summary, error),
        };
        self.command(command, refusal).await
    }

    async fn revoke(&self, kind: Kind, id: String) -> Result<wire::AuthorityState, ApiError> {
        let command = AuthorityCommand::Revoke(self.served(kind)?, id);
        let summary = format!("failed to revoke {kind} authority");
        let refusal = |error: &CommandError| {
            let why = match (error, kind) {
                (CommandError::HasUpstream, _) => {
                    return ApiError::plain(
                        Code::FailedPrecondition,
                        "local authority can't be revoked if there is an upstream authority",
                    );
                }
                (CommandError::IdMissing, _) => "no authority ID provided",
                (CommandError::IsActive, _) => "unable to use current authority",
                (CommandError::Unexpected | CommandError::Status(_), Kind::X509) => {
                    "only Old local authority can be revoked"
                }
                (CommandError::Status(SlotStatus::Prepared), Kind::Jwt) => {
                    "unable to use a prepared key"
                }
                (CommandError::NotInBundle(_), Kind::Jwt) => {
                    "no JWT authority found with provided authority ID"
                }
                _ => return failed(&summary, error),
            };
            ApiError::new(Code::InvalidArgument, "invalid authority ID", why)
        };
        Ok(to_wire(self.command(command, refusal).await?))
    }

    /// Taints or revokes the upstream authority that signed the old one. Its ID may be in capitals.
    async fn upstream(
        &self,
        command: impl FnOnce(String) -> AuthorityCommand,
        id: &str,
        invalid: &str,
        summary: &str,
    ) -> Result<String, ApiError> {
        let refusal = |error: &CommandError| {
            let why = match error {
                CommandError::IdMissing => "no subject key ID provided",
                // The word is SPIRE's; tools may look for it.
                CommandError::IsActive => {
                    "unable to use upstream authority singing current authority"
                }
                CommandError::Unexpected => {
                    "upstream authority didn't sign the old local authority"
                }
                CommandError::Status(_) => {
                    "only upstream authorities signing an old authority can be used"
                }
                _ => return failed(summary, error),
            };
            ApiError::new(Code::InvalidArgument, invalid, why)
        };
        let command = command(id.to_ascii_lowercase());
        Ok(self.command(command, refusal).await?.id)
    }
}

/// The error of every method about JWT-SVIDs while they are turned off.
pub(super) fn jwt_disabled() -> ApiError {
    ApiError::plain(Code::Unimplemented, "JWT functionality is disabled")
}

/// The error of a failed command where the command has none of its own for it.
fn failed(summary: &str, error: &CommandError) -> ApiError {
    let code = match error {
        CommandError::Initializing | CommandError::Stopping => Code::Unavailable,
        CommandError::IdMissing | CommandError::Unexpected => Code::InvalidArgument,
        CommandError::NoUpstream => Code::FailedPrecondition,
        CommandError::Failed(why) => {
            tracing::error!(error = %Chain(why), request = summary, "A command to the certificate authority failed");
            return ApiError::new(Code::Internal, summary, error);
        }
        _ => return ApiError::new(Code::Internal, summary, error),
    };
    ApiError::plain(code, error.to_string())
}

fn to_wire(state: AuthorityState) -> wire::AuthorityState {
    let AuthorityState {
        id,
        expires_at,
        upstream_id,
    } = state;
    wire::AuthorityState {
        authority_id: id,
        expires_at: expires_at.map_or(0, UnixTime::as_i64),
        upstream_authority_subject_key_id: upstream_id,
    }
}

fn no_wit() -> Status {
    Status::unimplemented("WIT-SVID functionality is not yet implemented")
}

#[tonic::async_trait]
impl wire::local_authority_server::LocalAuthority for LocalAuthorityService {
    async fn get_jwt_authority_state(
        &self,
        _request: Request<wire::GetJwtAuthorityStateRequest>,
    ) -> Result<Response<wire::GetJwtAuthorityStateResponse>, Status> {
        let States {
            active,
            prepared,
            old,
        } = self.states(Kind::Jwt)?;
        Ok(Response::new(wire::GetJwtAuthorityStateResponse {
            active: Some(to_wire(active)),
            prepared: prepared.map(to_wire),
            old: old.map(to_wire),
        }))
    }

    async fn prepare_jwt_authority(
        &self,
        _request: Request<wire::PrepareJwtAuthorityRequest>,
    ) -> Result<Response<wire::PrepareJwtAuthorityResponse>, Status> {
        let prepared_authority = Some(self.prepare(Kind::Jwt).await?);
        Ok(Response::new(wire::PrepareJwtAuthorityResponse {
            prepared_authority,
        }))
    }

    async fn activate_jwt_authority(
        &self,
        request: Request<wire::ActivateJwtAuthorityRequest>,
    ) -> Result<Response<wire::ActivateJwtAuthorityResponse>, Status> {
        let id = request.into_inner().authority_id;
        let activated_authority = Some(self.activate(Kind::Jwt, id).await?);
        Ok(Response::new(wire::ActivateJwtAuthorityResponse {
            activated_authority,
        }))
    }

    async fn taint_jwt_authority(
        &self,
        request: Request<wire::TaintJwtAuthorityRequest>,
    ) -> Result<Response<wire::TaintJwtAuthorityResponse>, Status> {
        let id = request.into_inner().authority_id;
        let AuthorityState { id, .. } = self.taint(Kind::Jwt, id).await?;
        // SPIRE answers with the ID alone here.
        let tainted_authority = Some(wire::AuthorityState {
            authority_id: id,
            ..Default::default()
        });
        Ok(Response::new(wire::TaintJwtAuthorityResponse {
            tainted_authority,
        }))
    }

    async fn revoke_jwt_authority(
        &self,
        request: Request<wire::RevokeJwtAuthorityRequest>,
    ) -> Result<Response<wire::RevokeJwtAuthorityResponse>, Status> {
        let id = request.into_inner().authority_id;
        let revoked_authority = Some(self.revoke(Kind::Jwt, id).await?);
        Ok(Response::new(wire::RevokeJwtAuthorityResponse {
            revoked_authority,
        }))
    }

    async fn get_x509_authority_state(
        &self,
        _request: Request<wire::GetX509AuthorityStateRequest>,
    ) -> Result<Response<wire::GetX509AuthorityStateResponse>, Status> {
        let States {
            active,
            prepared,
            old,
        } = self.states(Kind::X509)?;
        Ok(Response::new(wire::GetX509AuthorityStateResponse {
            active: Some(to_wire(active)),
            prepared: prepared.map(to_wire),
            old: old.map(to_wire),
        }))
    }

    async fn prepare_x509_authority(
        &self,
        _request: Request<wire::PrepareX509AuthorityRequest>,
    ) -> Result<Response<wire::PrepareX509AuthorityResponse>, Status> {
        let prepared_authority = Some(self.prepare(Kind::X509).await?);
        Ok(Response::new(wire::PrepareX509AuthorityResponse {
            prepared_authority,
        }))
    }

    async fn activate_x509_authority(
        &self,
        request: Request<wire::ActivateX509AuthorityRequest>,
    ) -> Result<Response<wire::ActivateX509AuthorityResponse>, Status> {
        let id = request.into_inner().authority_id;
        let activated_authority = Some(self.activate(Kind::X509, id).await?);
        Ok(Response::new(wire::ActivateX509AuthorityResponse {
            activated_authority,
        }))
    }

    async fn taint_x509_authority(
        &self,
        request: Request<wire::TaintX509AuthorityRequest>,
    ) -> Result<Response<wire::TaintX509AuthorityResponse>, Status> {
        let id = request.into_inner().authority_id;
        let tainted_authority = Some(to_wire(self.taint(Kind::X509, id).await?));
        Ok(Response::new(wire::TaintX509AuthorityResponse {
            tainted_authority,
        }))
    }

    async fn revoke_x509_authority(
        &self,
        request: Request<wire::RevokeX509AuthorityRequest>,
    ) -> Result<Response<wire::RevokeX509AuthorityResponse>, Status> {
        let id = request.into_inner().authority_id;
        let revoked_authority = Some(self.revoke(Kind::X509, id).await?);
        Ok(Response::new(wire::RevokeX509AuthorityResponse {
            revoked_authority,
        }))
    }

    async fn get_wit_authority_state(
        &self,
        _request: Request<wire::GetWitAuthorityStateRequest>,
    ) -> Result<Response<wire::GetWitAuthorityStateResponse>, Status> {
        Err(no_wit())
    }

    async fn prepare_wit_authority(
        &self,
        _request: Request<wire::PrepareWitAuthorityRequest>,
    ) -> Result<Response<wire::PrepareWitAuthorityResponse>, Status> {
        Err(no_wit())
    }

    async fn activate_wit_authority(
        &self,
        _request: Request<wire::ActivateWitAuthorityRequest>,
    ) -> Result<Response<wire::ActivateWitAuthorityResponse>, Status> {
        Err(no_wit())
    }

    async fn taint_wit_authority(
        &self,
        _request: Request<wire::TaintWitAuthorityRequest>,
    ) -> Result<Response<wire::TaintWitAuthorityResponse>, Status> {
        Err(no_wit())
    }

    async fn revoke_wit_authority(
        &self,
        _request: Request<wire::RevokeWitAuthorityRequest>,
    ) -> Result<Response<wire::RevokeWitAuthorityResponse>, Status> {
        Err(no_wit())
    }

    async fn taint_x509_upstream_authority(
        &self,
        request: Request<wire::TaintX509UpstreamAuthorityRequest>,
    ) -> Result<Response<wire::TaintX509UpstreamAuthorityResponse>, Status> {
        let upstream_authority_subject_key_id = self
            .upstream(
                AuthorityCommand::TaintUpstream,
                &request.into_inner().subject_key_id,
                "provided subject key id is not valid",
                "failed to taint upstream authority",
            )
            .await?;
        Ok(Response::new(wire::TaintX509UpstreamAuthorityResponse {
            upstream_authority_subject_key_id,
        }))
    }

    async fn revoke_x509_upstream_authority(
        &self,
        request: Request<wire::RevokeX509UpstreamAuthorityRequest>,
    ) -> Result<Response<wire::RevokeX509UpstreamAuthorityResponse>, Status> {
        let upstream_authority_subject_key_id = self
            .upstream(
                AuthorityCommand::RevokeUpstream,
                &request.into_inner().subject_key_id,
                "invalid subject key ID",
                "failed to revoke X.509 upstream authority",
            )
            .await?;
        Ok(Response::new(wire::RevokeX509UpstreamAuthorityResponse {
            upstream_authority_subject_key_id,
        }))
    }
}
