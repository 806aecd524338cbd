//! `upstreamauthority taint` and `revoke`: what is done when an authority above this server's is compromised.

use clap::{Args, Subcommand};
use countersign_daemon::cli::{Output, OutputFlag, Printer};
use countersign_proto::spire::api::server::localauthority::v1::{
    RevokeX509UpstreamAuthorityRequest, TaintX509UpstreamAuthorityRequest,
};

use crate::client::SocketFlag;
use crate::error::CommandError;
use crate::json;

/// Verbs on upstream authorities.
#[derive(Debug, Subcommand)]
pub(crate) enum UpstreamAuthorityVerb {
    /// Marks the provided X.509 upstream authority as being tainted
    #[command(
        after_help = "Everything that chains to it is renewed at once. The server must have moved to another one before:\n  \
        countersign-server localauthority x509 show\n  \
        countersign-server upstreamauthority taint -subjectKeyID ID"
    )]
    Taint(Authority),
    /// Revokes the previously active X.509 upstream authority by removing it from the bundle
    #[command(
        after_help = "It must have been tainted before, and nothing that chains to it is trusted afterwards:\n  \
        countersign-server upstreamauthority revoke -subjectKeyID ID"
    )]
    Revoke(Authority),
}

/// Which authority is meant.
#[derive(Debug, Args)]
pub(crate) struct Authority {
    /// The X.509 Subject Key Identifier (or SKID) of the authority's CA certificate
    #[arg(long = "subjectKeyID", value_name = "ID")]
    subject_key_id: Option<String>,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

impl UpstreamAuthorityVerb {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        match self {
            Self::Taint(authority) => authority.taint(printer).await,
            Self::Revoke(authority) => authority.revoke(printer).await,
        }
    }
}

impl Authority {
    async fn taint(self, printer: &mut Printer) -> Result<(), CommandError> {
        let subject_key_id = self.subject_key_id()?;
        let client = self.socket.connect().await?;
        let request = TaintX509UpstreamAuthorityRequest { subject_key_id };
        let answer = client
            .local_authority()
            .taint_x509_upstream_authority(request)
            .await;
        let tainted = client
            .answer(answer)
            .map_err(|e| e.during("could not taint X.509 upstream authority"))?;
        if self.output.output == Output::Json {
            let name = "spire.api.server.localauthority.v1.TaintX509UpstreamAuthorityResponse";
            return json::print(printer, name, &tainted);
        }
        printer.line("Tainted X.509 upstream authority:");
        let id = tainted.upstream_authority_subject_key_id;
        printer.line(format_args!("  Subject Key ID: {id}"));
        Ok(())
    }

    async fn revoke(self, printer: &mut Printer) -> Result<(), CommandError> {
        let subject_key_id = self.subject_key_id()?;
        let client = self.socket.connect().await?;
        let request = RevokeX509UpstreamAuthorityRequest { subject_key_id };
        let answer = client
            .local_authority()
            .revoke_x509_upstream_authority(request)
            .await;
        let revoked = client
            .answer(answer)
            .map_err(|e| e.during("could not revoke X.509 upstream authority"))?;
        if self.output.output == Output::Json {
            let name = "spire.api.server.localauthority.v1.RevokeX509UpstreamAuthorityResponse";
            return json::print(printer, name, &revoked);
        }
        printer.line("Revoked X.509 upstream authority:");
        let id = revoked.upstream_authority_subject_key_id;
        printer.line(format_args!("  Subject Key ID: {id}"));
        Ok(())
    }

    fn subject_key_id(&self) -> Result<String, CommandError> {
        self.subject_key_id
            .clone()
            .filter(|id| !id.is_empty())
            .ok_or_else(|| {
                CommandError::usage(
                    "the Subject Key ID of the X.509 upstream authority is required",
                )
            })
    }
}
