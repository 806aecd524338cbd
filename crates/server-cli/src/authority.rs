//! `localauthority`: this server's own authorities, rotated by hand.
//!
//! The two kinds of authority have the same verbs and RPCs of their own: [`Kind`] is what differs.

use std::fmt;
use std::marker::PhantomData;

use clap::{Args, Subcommand};
use countersign_daemon::cli::Printer;
use countersign_proto::spire::api::server::localauthority::v1::{self as wire, AuthorityState};
use prost::Name;

use crate::client::{CallFlags, Client};
use crate::error::{CommandError, During as _};
use crate::flag;
use crate::json::{self, AnswerError};

/// Verbs on this server's own authorities.
#[derive(Debug, Subcommand)]
pub(crate) enum LocalAuthorityVerb {
    /// Authorities that sign JWT-SVIDs
    #[command(subcommand)]
    Jwt(AuthorityVerb<Jwt>),
    /// Authorities that sign X.509-SVIDs
    #[command(subcommand)]
    X509(AuthorityVerb<X509>),
}

/// Verbs on the authorities of one kind.
#[derive(Debug, Subcommand)]
pub(crate) enum AuthorityVerb<K: Kind> {
    #[command(
        about = format!("Shows the local {} authorities", K::NAME),
        after_help = example::<K>("Shows which one signs, which one is prepared, and which one signed before", &["show"])
    )]
    Show(CallFlags),
    #[command(
        about = format!("Prepares a new {} authority for use by {}", K::NAME, K::PREPARATION),
        after_help = example::<K>(
            "It is published at once and signs only after it is activated. Node agents learn of it within seconds, other \
             trust domains\n  within minutes",
            &["prepare", "activate -authorityID ID"],
        )
    )]
    Prepare(CallFlags),
    #[command(
        about = format!(
            "Activates a prepared {0} authority for use, which will cause it to be used for all {0} signing operations \
             serviced by this server going forward",
            K::NAME
        ),
        after_help = example::<K>(
            "After `prepare`, once all who verify have had the time to learn of it",
            &["activate -authorityID ID"],
        )
    )]
    Activate(Named<K>),
    #[command(
        about = format!("Marks the previously active {} authority as being tainted", K::NAME),
        after_help = example::<K>("Node agents renew at once what it signed", &["taint -authorityID ID"])
    )]
    Taint(Named<K>),
    #[command(
        about = format!(
            "Revokes the previously active {} authority by removing it from the bundle and propagating this update \
             throughout the cluster",
            K::NAME
        ),
        after_help = example::<K>(
            "It must have been tainted before, and nothing that it signed is trusted afterwards",
            &["revoke -authorityID ID"],
        )
    )]
    Revoke(Named<K>),
}

fn example<K: Kind>(text: &str, verbs: &[&str]) -> String {
    let lines = verbs
        .iter()
        .map(|verb| format!("\n  countersign-server localauthority {} {verb}", K::VERB));
    format!("{text}:{}", lines.collect::<String>())
}

/// The flags of a verb on one authority.
#[derive(Debug, Args)]
pub(crate) struct Named<K: Kind> {
    /// The authority ID of the authority
    #[arg(long = "authorityID", value_name = "ID")]
    authority_id: Option<String>,
    #[command(flatten)]
    flags: CallFlags,
    #[arg(skip)]
    kind: PhantomData<K>,
}

/// A kind of authority: what it is called, and its RPCs. Each RPC gives its answer, and the authorities in it.
pub(crate) trait Kind: fmt::Debug {
    /// In what is printed.
    const NAME: &'static str;
    /// On the command line.
    const VERB: &'static str;
    /// How `prepare` prepares an authority.
    const PREPARATION: &'static str;
    /// Whether an upstream authority may have signed it.
    const HAS_UPSTREAM: bool;

    async fn states(client: &Client) -> Result<(impl Name, States), CommandError>;
    async fn prepare(client: &Client) -> Result<(impl Name, State), CommandError>;
    async fn activate(
        client: &Client,
        authority_id: String,
    ) -> Result<(impl Name, State), CommandError>;
    async fn taint(
        client: &Client,
        authority_id: String,
    ) -> Result<(impl Name, State), CommandError>;
    async fn revoke(
        client: &Client,
        authority_id: String,
    ) -> Result<(impl Name, State), CommandError>;
}

type State = Option<AuthorityState>;

/// The active authority, the prepared one and the old one.
type States = [State; 3];

/// The RPCs that change an authority, each with the field of its answer that holds the authority.
macro_rules! changes {
    ($($verb:ident: $method:ident($request:ident $fields:tt) -> $authority:ident,)+) => {$(
        changes!(@ $verb $method $request $fields $authority);
    )+};
    (@ $verb:ident $method:ident $request:ident { $($id:ident)? } $authority:ident) => {
        async fn $verb(
            client: &Client,
            $($id: String,)?
        ) -> Result<(impl Name, State), CommandError> {
            let request = wire::$request { $($id)? };
            let answer = client.call(client.local_authority().$method(request)).await?;
            let authority = answer.$authority.clone();
            Ok((answer, authority))
        }
    };
}

/// Authorities that sign JWT-SVIDs.
#[derive(Debug)]
pub(crate) enum Jwt {}

impl Kind for Jwt {
    const NAME: &'static str = "JWT";
    const VERB: &'static str = "jwt";
    const PREPARATION: &'static str = "generating a new key and injecting it into the bundle";
    const HAS_UPSTREAM: bool = false;

    async fn states(client: &Client) -> Result<(impl Name, States), CommandError> {
        let request = wire::GetJwtAuthorityStateRequest {};
        let mut authorities = client.local_authority();
        // SPIRE says nothing before the error of this one.
        let answer = client
            .call(authorities.get_jwt_authority_state(request))
            .await?;
        let states = [&answer.active, &answer.prepared, &answer.old].map(Clone::clone);
        Ok((answer, states))
    }

    changes! {
        prepare: prepare_jwt_authority(PrepareJwtAuthorityRequest {}) -> prepared_authority,
        activate: activate_jwt_authority(ActivateJwtAuthorityRequest { authority_id }) -> activated_authority,
        taint: taint_jwt_authority(TaintJwtAuthorityRequest { authority_id }) -> tainted_authority,
        revoke: revoke_jwt_authority(RevokeJwtAuthorityRequest { authority_id }) -> revoked_authority,
    }
}

/// Authorities that sign X.509-SVIDs.
#[derive(Debug)]
pub(crate) enum X509 {}

impl Kind for X509 {
    const NAME: &'static str = "X.509";
    const VERB: &'static str = "x509";
    const PREPARATION: &'static str =
        "generating a new key and injecting the resulting CA certificate into the bundle";
    const HAS_UPSTREAM: bool = true;

    async fn states(client: &Client) -> Result<(impl Name, States), CommandError> {
        let request = wire::GetX509AuthorityStateRequest {};
        let mut authorities = client.local_authority();
        let answer = client.call(authorities.get_x509_authority_state(request));
        let answer = answer.await.during("could not get X.509 authorities")?;
        let states = [&answer.active, &answer.prepared, &answer.old].map(Clone::clone);
        Ok((answer, states))
    }

    changes! {
        prepare: prepare_x509_authority(PrepareX509AuthorityRequest {}) -> prepared_authority,
        activate: activate_x509_authority(ActivateX509AuthorityRequest { authority_id }) -> activated_authority,
        taint: taint_x509_authority(TaintX509AuthorityRequest { authority_id }) -> tainted_authority,
        revoke: revoke_x509_authority(RevokeX509AuthorityRequest { authority_id }) -> revoked_authority,
    }
}

impl LocalAuthorityVerb {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        match self {
            Self::Jwt(verb) => verb.run(printer).await,
            Self::X509(verb) => verb.run(printer).await,
        }
    }
}

impl<K: Kind> AuthorityVerb<K> {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        match self {
            Self::Show(flags) => {
                let client = flags.connect().await?;
                let (answer, states) = K::states(&client).await?;
                if flags.json() {
                    return Ok(json::print(printer, &answer)?);
                }
                print_states::<K>(printer, &states);
                Ok(())
            }
            Self::Prepare(flags) => {
                let client = flags.connect().await?;
                let answer = K::prepare(&client).await;
                report::<K, _>(printer, &flags, ["prepare", "Prepared"], answer)
            }
            Self::Activate(named) => {
                let (client, id, flags) = named.open().await?;
                let answer = K::activate(&client, id).await;
                report::<K, _>(printer, &flags, ["activate", "Activated"], answer)
            }
            Self::Taint(named) => {
                let (client, id, flags) = named.open().await?;
                let answer = K::taint(&client, id).await;
                report::<K, _>(printer, &flags, ["taint", "Tainted"], answer)
            }
            Self::Revoke(named) => {
                let (client, id, flags) = named.open().await?;
                let answer = K::revoke(&client, id).await;
                report::<K, _>(printer, &flags, ["revoke", "Revoked"], answer)
            }
        }
    }
}

impl<K: Kind> Named<K> {
    /// The connection, and the authority that is named.
    async fn open(self) -> Result<(Client, String, CallFlags), CommandError> {
        let id = flag::required(self.authority_id, "an authority ID is required")?;
        Ok((self.flags.connect().await?, id, self.flags))
    }
}

/// Prints the authority that was changed; the verb is given as what was asked and as what was done.
fn report<K: Kind, M: Name>(
    printer: &mut Printer,
    flags: &CallFlags,
    [verb, done]: [&str; 2],
    answer: Result<(M, State), CommandError>,
) -> Result<(), CommandError> {
    let (answer, authority) = answer.during(format!("could not {verb} {} authority", K::NAME))?;
    if flags.json() {
        return Ok(json::print(printer, &answer)?);
    }
    printer.line(format_args!("{done} {} authority:", K::NAME));
    let authority = authority.ok_or(AnswerError::Missing("authority"))?;
    print_state::<K>(printer, &authority);
    Ok(())
}

fn print_states<K: Kind>(printer: &mut Printer, states: &States) {
    let titles = [
        ("Active", "active"),
        ("Prepared", "prepared"),
        ("Old", "old"),
    ];
    for (place, ((title, adjective), state)) in titles.into_iter().zip(states).enumerate() {
        if place > 0 {
            printer.line("");
        }
        printer.line(format_args!("{title} {} authority:", K::NAME));
        match state {
            Some(state) => print_state::<K>(printer, state),
            None => printer.line(format_args!("  No {adjective} {} authority found", K::NAME)),
        }
    }
}

fn print_state<K: Kind>(printer: &mut Printer, state: &AuthorityState) {
    printer.line(format_args!("  Authority ID: {}", state.authority_id));
    let expires = flag::go_time(state.expires_at);
    printer.line(format_args!("  Expires at: {expires}"));
    if K::HAS_UPSTREAM {
        match state.upstream_authority_subject_key_id.as_str() {
            "" => printer.line("  Upstream authority ID: No upstream authority"),
            id => printer.line(format_args!("  Upstream authority Subject Key ID: {id}")),
        }
    }
}
