//! `upstreamauthority taint` and `revoke`: what to do when an upstream authority is compromised.

use clap::{Args, Subcommand};
use countersign_daemon::cli::Printer;
use countersign_proto::spire::api::server::localauthority::v1::{
    RevokeX509UpstreamAuthorityRequest, TaintX509UpstreamAuthorityRequest,
};
use prost::Name;

use crate::client::CallFlags;
use crate::error::{CommandError, During as _};
use crate::{flag, json};

const ID_REQUIRED: &str = "the Subject Key ID of the X.509 upstream authority is required";

/// Verbs on upstream authorities.
#[derive(Debug, Subcommand)]
pub(crate) enum UpstreamAuthorityVerb {
    /// Marks the provided X.509 upstream authority as being tainted
    #[command(
        after_help = "Everything that chains to it is renewed at once. The server must have moved to another authority before:\n  \
        countersign-server localauthority x509 show\n  \
        countersign-server upstreamauthority taint -subjectKeyID ID"
    )]
    Taint(UpstreamAuthority),
    /// Revokes the previously active X.509 upstream authority by removing it from the bundle
    #[command(
        after_help = "It must have been tainted before, and nothing that chains to it is trusted afterwards:\n  \
        countersign-server upstreamauthority revoke -subjectKeyID ID"
    )]
    Revoke(UpstreamAuthority),
}

/// Which authority is meant.
#[derive(Debug, Args)]
pub(crate) struct UpstreamAuthority {
    /// The X.509 Subject Key Identifier (or SKID) of the authority's CA certificate
    #[arg(long = "subjectKeyID", value_name = "ID")]
    subject_key_id: Option<String>,
    #[command(flatten)]
    flags: CallFlags,
}

impl UpstreamAuthorityVerb {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        match self {
            Self::Taint(authority) => authority.taint(printer).await,
            Self::Revoke(authority) => authority.revoke(printer).await,
        }
    }
}

impl UpstreamAuthority {
    async fn taint(self, printer: &mut Printer) -> Result<(), CommandError> {
        let subject_key_id = flag::required(self.subject_key_id, ID_REQUIRED)?;
        let client = self.flags.connect().await?;
        let request = TaintX509UpstreamAuthorityRequest { subject_key_id };
        let mut authorities = client.local_authority();
        let answer = client.call(authorities.taint_x509_upstream_authority(request));
        let answer = answer
            .await
            .during("could not taint X.509 upstream authority")?;
        let id = &answer.upstream_authority_subject_key_id;
        report(printer, &self.flags, "Tainted", id, &answer)
    }

    async fn revoke(self, printer: &mut Printer) -> Result<(), CommandError> {
        let subject_key_id = flag::required(self.subject_key_id, ID_REQUIRED)?;
        let client = self.flags.connect().await?;
        let request = RevokeX509UpstreamAuthorityRequest { subject_key_id };
        let mut authorities = client.local_authority();
        let answer = client.call(authorities.revoke_x509_upstream_authority(request));
        let answer = answer
            .await
            .during("could not revoke X.509 upstream authority")?;
        let id = &answer.upstream_authority_subject_key_id;
        report(printer, &self.flags, "Revoked", id, &answer)
    }
}

fn report(
    printer: &mut Printer,
    flags: &CallFlags,
    done: &str,
    subject_key_id: &str,
    answer: &impl Name,
) -> Result<(), CommandError> {
    if flags.json() {
        return Ok(json::print(printer, answer)?);
    }
    printer.line(format_args!("{done} X.509 upstream authority:"));
    printer.line(format_args!("  Subject Key ID: {subject_key_id}"));
    Ok(())
}
