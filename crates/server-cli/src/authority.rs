//! `localauthority`: this server's own authorities, rotated by hand.

use std::fmt;

use clap::{Args, Subcommand};
use countersign_daemon::cli::{Output, OutputFlag, Printer};
use countersign_proto::spire::api::server::localauthority::v1 as wire;
use prost::Message;

use crate::client::{Client, SocketFlag};
use crate::error::CommandError;
use crate::{flag, json};

const PACKAGE: &str = "spire.api.server.localauthority.v1";

/// Verbs on this server's own authorities.
#[derive(Debug, Subcommand)]
pub(crate) enum LocalAuthority {
    /// Authorities that sign JWT-SVIDs
    #[command(subcommand)]
    Jwt(JwtVerb),
    /// Authorities that sign X.509-SVIDs
    #[command(subcommand)]
    X509(X509Verb),
}

/// Verbs on JWT authorities.
#[derive(Debug, Subcommand)]
pub(crate) enum JwtVerb {
    /// Shows the local JWT authorities
    #[command(
        after_help = "Which one signs, and which one is ready or was before:\n  countersign-server localauthority jwt show"
    )]
    Show(Plain),
    /// Prepares a new JWT authority for use by generating a new key and injecting it into the bundle
    #[command(
        after_help = "It is published at once and signs only when it is activated. Node agents learn of it within seconds, other trust domains\n  within minutes:\n  countersign-server localauthority jwt prepare\n  countersign-server localauthority jwt activate -authorityID ID"
    )]
    Prepare(Plain),
    /// Activates a prepared JWT authority for use, which will cause it to be used for all JWT signing operations serviced
    /// by this server going forward
    #[command(
        after_help = "After `prepare`, once everybody has had the time to learn of it:\n  countersign-server localauthority jwt activate -authorityID ID"
    )]
    Activate(Named),
    /// Marks the previously active JWT authority as being tainted
    #[command(
        after_help = "Node agents renew at once what it signed:\n  countersign-server localauthority jwt taint -authorityID ID"
    )]
    Taint(Named),
    /// Revokes the previously active JWT authority by removing it from the bundle and propagating this update throughout
    /// the cluster
    #[command(
        after_help = "It must have been tainted before, and nothing that it signed is trusted afterwards:\n  countersign-server localauthority jwt revoke -authorityID ID"
    )]
    Revoke(Named),
}

/// Verbs on X.509 authorities.
#[derive(Debug, Subcommand)]
pub(crate) enum X509Verb {
    /// Shows the local X.509 authorities
    #[command(
        after_help = "Which one signs, and which one is ready or was before:\n  countersign-server localauthority x509 show"
    )]
    Show(Plain),
    /// Prepares a new X.509 authority for use by generating a new key and injecting the resulting CA certificate into the
    /// bundle
    #[command(
        after_help = "It is published at once and signs only when it is activated. Node agents learn of it within seconds, other trust domains\n  within minutes:\n  countersign-server localauthority x509 prepare\n  countersign-server localauthority x509 activate -authorityID ID"
    )]
    Prepare(Plain),
    /// Activates a prepared X.509 authority for use, which will cause it to be used for all X.509 signing operations
    /// serviced by this server going forward
    #[command(
        after_help = "After `prepare`, once everybody has had the time to learn of it:\n  countersign-server localauthority x509 activate -authorityID ID"
    )]
    Activate(Named),
    /// Marks the previously active X.509 authority as being tainted
    #[command(
        after_help = "Node agents renew at once what it signed:\n  countersign-server localauthority x509 taint -authorityID ID"
    )]
    Taint(Named),
    /// Revokes the previously active X.509 authority by removing it from the bundle and propagating this update throughout
    /// the cluster
    #[command(
        after_help = "It must have been tainted before, and nothing that it signed is trusted afterwards:\n  countersign-server localauthority x509 revoke -authorityID ID"
    )]
    Revoke(Named),
}

/// The flags of a verb that names no authority.
#[derive(Debug, Args)]
pub(crate) struct Plain {
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

/// The flags of a verb on one authority.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The authority ID of the authority
    #[arg(long = "authorityID", value_name = "ID")]
    authority_id: Option<String>,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

/// The two kinds, which print a little differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Jwt,
    X509,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jwt => "JWT",
            Self::X509 => "X.509",
        })
    }
}

impl LocalAuthority {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        match self {
            Self::Jwt(verb) => verb.run(printer).await,
            Self::X509(verb) => verb.run(printer).await,
        }
    }
}

impl JwtVerb {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let kind = Kind::Jwt;
        match self {
            Self::Show(flags) => {
                let client = flags.socket.connect().await?;
                let request = wire::GetJwtAuthorityStateRequest {};
                let answer = client
                    .local_authority()
                    .get_jwt_authority_state(request)
                    .await;
                // SPIRE says nothing before this one.
                let answer = client.answer(answer)?;
                let states = [&answer.active, &answer.prepared, &answer.old];
                show(printer, kind, flags.output, states, &answer)
            }
            Self::Prepare(flags) => {
                let client = flags.socket.connect().await?;
                let request = wire::PrepareJwtAuthorityRequest {};
                let answer = client
                    .local_authority()
                    .prepare_jwt_authority(request)
                    .await;
                let answer = during(client.answer(answer), "prepare", kind)?;
                let done = Done(kind, "Prepared", "PrepareJWTAuthorityResponse");
                done.print(
                    printer,
                    flags.output,
                    answer.prepared_authority.as_ref(),
                    &answer,
                )
            }
            Self::Activate(flags) => {
                let (client, authority_id) = flags.open().await?;
                let request = wire::ActivateJwtAuthorityRequest { authority_id };
                let answer = client
                    .local_authority()
                    .activate_jwt_authority(request)
                    .await;
                let answer = during(client.answer(answer), "activate", kind)?;
                let done = Done(kind, "Activated", "ActivateJWTAuthorityResponse");
                done.print(
                    printer,
                    flags.output,
                    answer.activated_authority.as_ref(),
                    &answer,
                )
            }
            Self::Taint(flags) => {
                let (client, authority_id) = flags.open().await?;
                let request = wire::TaintJwtAuthorityRequest { authority_id };
                let answer = client.local_authority().taint_jwt_authority(request).await;
                let answer = during(client.answer(answer), "taint", kind)?;
                let done = Done(kind, "Tainted", "TaintJWTAuthorityResponse");
                done.print(
                    printer,
                    flags.output,
                    answer.tainted_authority.as_ref(),
                    &answer,
                )
            }
            Self::Revoke(flags) => {
                let (client, authority_id) = flags.open().await?;
                let request = wire::RevokeJwtAuthorityRequest { authority_id };
                let answer = client.local_authority().revoke_jwt_authority(request).await;
                let answer = during(client.answer(answer), "revoke", kind)?;
                let done = Done(kind, "Revoked", "RevokeJWTAuthorityResponse");
                done.print(
                    printer,
                    flags.output,
                    answer.revoked_authority.as_ref(),
                    &answer,
                )
            }
        }
    }
}

impl X509Verb {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let kind = Kind::X509;
        match self {
            Self::Show(flags) => {
                let client = flags.socket.connect().await?;
                let request = wire::GetX509AuthorityStateRequest {};
                let answer = client
                    .local_authority()
                    .get_x509_authority_state(request)
                    .await;
                let answer = client.answer(answer);
                let answer = answer.map_err(|e| e.during("could not get X.509 authorities"))?;
                let states = [&answer.active, &answer.prepared, &answer.old];
                show(printer, kind, flags.output, states, &answer)
            }
            Self::Prepare(flags) => {
                let client = flags.socket.connect().await?;
                let request = wire::PrepareX509AuthorityRequest {};
                let answer = client
                    .local_authority()
                    .prepare_x509_authority(request)
                    .await;
                let answer = during(client.answer(answer), "prepare", kind)?;
                let done = Done(kind, "Prepared", "PrepareX509AuthorityResponse");
                done.print(
                    printer,
                    flags.output,
                    answer.prepared_authority.as_ref(),
                    &answer,
                )
            }
            Self::Activate(flags) => {
                let (client, authority_id) = flags.open().await?;
                let request = wire::ActivateX509AuthorityRequest { authority_id };
                let answer = client
                    .local_authority()
                    .activate_x509_authority(request)
                    .await;
                let answer = during(client.answer(answer), "activate", kind)?;
                let done = Done(kind, "Activated", "ActivateX509AuthorityResponse");
                done.print(
                    printer,
                    flags.output,
                    answer.activated_authority.as_ref(),
                    &answer,
                )
            }
            Self::Taint(flags) => {
                let (client, authority_id) = flags.open().await?;
                let request = wire::TaintX509AuthorityRequest { authority_id };
                let answer = client.local_authority().taint_x509_authority(request).await;
                let answer = during(client.answer(answer), "taint", kind)?;
                let done = Done(kind, "Tainted", "TaintX509AuthorityResponse");
                done.print(
                    printer,
                    flags.output,
                    answer.tainted_authority.as_ref(),
                    &answer,
                )
            }
            Self::Revoke(flags) => {
                let (client, authority_id) = flags.open().await?;
                let request = wire::RevokeX509AuthorityRequest { authority_id };
                let answer = client
                    .local_authority()
                    .revoke_x509_authority(request)
                    .await;
                let answer = during(client.answer(answer), "revoke", kind)?;
                let done = Done(kind, "Revoked", "RevokeX509AuthorityResponse");
                done.print(
                    printer,
                    flags.output,
                    answer.revoked_authority.as_ref(),
                    &answer,
                )
            }
        }
    }
}

impl Named {
    /// The connection, and the authority that is named.
    async fn open(&self) -> Result<(Client, String), CommandError> {
        let id = self.authority_id.clone().filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| CommandError::usage("an authority ID is required"))?;
        Ok((self.socket.connect().await?, id))
    }
}

fn during<T>(answer: Result<T, CommandError>, verb: &str, kind: Kind) -> Result<T, CommandError> {
    answer.map_err(|e| e.during(format!("could not {verb} {kind} authority")))
}

/// What was done, and the name of the answer that says so.
struct Done(Kind, &'static str, &'static str);

impl Done {
    fn print(
        &self,
        printer: &mut Printer,
        output: OutputFlag,
        state: Option<&wire::AuthorityState>,
        answer: &impl Message,
    ) -> Result<(), CommandError> {
        let Self(kind, done, name) = self;
        if output.output == Output::Json {
            return json::print(printer, &format!("{PACKAGE}.{name}"), answer);
        }
        printer.line(format_args!("{done} {kind} authority:"));
        let missing = || CommandError::Answer("it names no authority".into());
        print_state(printer, *kind, state.ok_or_else(missing)?);
        Ok(())
    }
}

fn show(
    printer: &mut Printer,
    kind: Kind,
    output: OutputFlag,
    states: [&Option<wire::AuthorityState>; 3],
    answer: &impl Message,
) -> Result<(), CommandError> {
    if output.output == Output::Json {
        let name = match kind {
            Kind::Jwt => "GetJWTAuthorityStateResponse",
            Kind::X509 => "GetX509AuthorityStateResponse",
        };
        return json::print(printer, &format!("{PACKAGE}.{name}"), answer);
    }
    for ((title, lower), state) in [
        ("Active", "active"),
        ("Prepared", "prepared"),
        ("Old", "old"),
    ]
    .into_iter()
    .zip(states)
    {
        if title != "Active" {
            printer.line("");
        }
        printer.line(format_args!("{title} {kind} authority:"));
        match state {
            Some(state) => print_state(printer, kind, state),
            None => printer.line(format_args!("  No {lower} {kind} authority found")),
        }
    }
    Ok(())
}

fn print_state(printer: &mut Printer, kind: Kind, state: &wire::AuthorityState) {
    printer.line(format_args!("  Authority ID: {}", state.authority_id));
    printer.line(format_args!(
        "  Expires at: {}",
        flag::go_time(state.expires_at)
    ));
    match (kind, state.upstream_authority_subject_key_id.as_str()) {
        (Kind::Jwt, _) => {}
        (Kind::X509, "") => printer.line("  Upstream authority ID: No upstream authority"),
        (Kind::X509, id) => {
            printer.line(format_args!("  Upstream authority Subject Key ID: {id}"));
        }
    }
}
