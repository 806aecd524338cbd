//! `bundle show`.

use clap::{Args, Subcommand, ValueEnum};
use countersign_identity::Bundle;
use countersign_identity::bundle::document;
use countersign_proto::spire::api::server::bundle::v1::GetBundleRequest;
use countersign_runtime::cli::{Output, OutputFlag, Printer};

use super::client::SocketFlag;
use super::error::CommandError;
use super::{json, pem};

/// Verbs on bundles.
#[derive(Debug, Subcommand)]
pub(super) enum BundleVerb {
    /// Prints the server's CA bundle to standard output
    #[command(
        after_help = "Example: what a node agent needs to know this server\n  \
        countersign-server bundle show > bundle.pem\n\
        and in its configuration:\n  trust_bundle_path = \"bundle.pem\"\n\
        For a trust domain to federate with: -format spiffe"
    )]
    Show(Show),
}

/// How certificates are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// PEM, one block per authority
    Pem,
    /// A SPIFFE bundle document, for federation
    Spiffe,
}

/// `bundle show`.
#[derive(Debug, Args)]
pub(super) struct Show {
    /// The format to show the bundle in (with -output pretty)
    #[arg(long, value_enum, default_value_t = Format::Pem, ignore_case = true, value_name = "FORMAT")]
    format: Format,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

impl BundleVerb {
    pub(super) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let Self::Show(show) = self;
        let client = show.socket.connect().await?;
        let request = GetBundleRequest { output_mask: None };
        let bundle = client.answer(client.bundle().get_bundle(request).await)?;
        if show.output.output == Output::Json {
            return json::print(printer, "spire.api.types.Bundle", &bundle);
        }
        match show.format {
            Format::Pem => bundle
                .x509_authorities
                .iter()
                .for_each(|a| printer.text(&pem::encode("CERTIFICATE", &a.asn1))),
            Format::Spiffe => {
                let bundle =
                    Bundle::try_from(bundle).map_err(|e| CommandError::Answer(e.to_string()))?;
                let text = document::write(&bundle);
                printer.line(text.map_err(|e| CommandError::Answer(e.to_string()))?);
            }
        }
        Ok(())
    }
}
