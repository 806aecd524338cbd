//! `bundle show`, `list`, `set`, `count` and `delete`.

pub(crate) mod data;

use clap::{Args, Subcommand, ValueEnum};
use countersign_daemon::cli::{Output, OutputFlag, Printer};
use countersign_proto::spire::api::server::bundle::v1::{
    BatchDeleteFederatedBundleRequest, BatchSetFederatedBundleRequest, CountBundlesRequest,
    GetBundleRequest, GetFederatedBundleRequest, ListFederatedBundlesRequest,
    batch_delete_federated_bundle_request,
};
use countersign_proto::spire::api::types;

use crate::client::SocketFlag;
use crate::error::CommandError;
use crate::flag::plural;
use crate::{input, json};
use data::Format;

const STARS: &str = "****************************************";

/// Verbs on bundles.
#[derive(Debug, Subcommand)]
pub(crate) enum BundleVerb {
    /// Prints the server's CA bundle to standard output
    #[command(
        after_help = "Example: what a node agent needs to know this server\n  \
        countersign-server bundle show > bundle.pem\n\
        and in its configuration:\n  trust_bundle_path = \"bundle.pem\"\n\
        For a trust domain to federate with: -format spiffe"
    )]
    Show(Show),
    /// Lists federated bundle data
    #[command(after_help = "Example: what is known of one trust domain\n  \
        countersign-server bundle list -id spiffe://other.example -format spiffe")]
    List(List),
    /// Creates or updates federated bundle data
    #[command(
        after_help = "Example: what the other trust domain's `bundle show -format spiffe` printed\n  \
        countersign-server bundle set -id spiffe://other.example -format spiffe -path other.bundle"
    )]
    Set(Set),
    /// Counts bundles, the server's own among them
    #[command(after_help = "Example:\n  countersign-server bundle count")]
    Count(Count),
    /// Deletes federated bundle data
    #[command(after_help = "Example: entries that federate with it no longer do\n  \
        countersign-server bundle delete -id spiffe://other.example -mode dissociate")]
    Delete(Delete),
}

/// `bundle show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The format to show the bundle in (with -output pretty)
    #[arg(long, value_enum, default_value_t = Format::Pem, ignore_case = true, value_name = "FORMAT")]
    format: Format,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

/// `bundle list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// SPIFFE ID of the trust domain; without it all are listed
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The format to list federated bundles in (with -output pretty)
    #[arg(long, value_enum, default_value_t = Format::Pem, ignore_case = true, value_name = "FORMAT")]
    format: Format,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

/// `bundle set`.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// SPIFFE ID of the trust domain
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Path to the bundle data; without it standard input is read
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// The format of the bundle data
    #[arg(long, value_enum, default_value_t = Format::Pem, ignore_case = true, value_name = "FORMAT")]
    format: Format,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

/// `bundle count`.
#[derive(Debug, Args)]
pub(crate) struct Count {
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

/// What becomes of the entries that federate with the trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// As long as there are any, the bundle stays
    Restrict,
    /// They are deleted too
    Delete,
    /// They stay, and no longer federate with it
    Dissociate,
}

/// `bundle delete`.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// SPIFFE ID of the trust domain
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Deletion mode
    #[arg(long, value_enum, default_value_t = Mode::Restrict, value_name = "MODE")]
    mode: Mode,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

impl BundleVerb {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        match self {
            Self::Show(verb) => verb.run(printer).await,
            Self::List(verb) => verb.run(printer).await,
            Self::Set(verb) => verb.run(printer).await,
            Self::Count(verb) => verb.run(printer).await,
            Self::Delete(verb) => verb.run(printer).await,
        }
    }
}

impl Show {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let client = self.socket.connect().await?;
        let request = GetBundleRequest { output_mask: None };
        let bundle = client.answer(client.bundle().get_bundle(request).await)?;
        if self.output.output == Output::Json {
            return json::print(printer, "spire.api.types.Bundle", &bundle);
        }
        printer.text(&data::print(bundle, self.format)?);
        Ok(())
    }
}

impl List {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let client = self.socket.connect().await?;
        if let Some(id) = self.id.filter(|id| !id.is_empty()) {
            let request = GetFederatedBundleRequest {
                trust_domain: id,
                output_mask: None,
            };
            let bundle = client.answer(client.bundle().get_federated_bundle(request).await)?;
            if self.output.output == Output::Json {
                return json::print(printer, "spire.api.types.Bundle", &bundle);
            }
            printer.text(&data::print(bundle, self.format)?);
            return Ok(());
        }
        let request = ListFederatedBundlesRequest::default();
        let list = client.answer(client.bundle().list_federated_bundles(request).await)?;
        if self.output.output == Output::Json {
            let name = "spire.api.server.bundle.v1.ListFederatedBundlesResponse";
            return json::print(printer, name, &list);
        }
        for (i, bundle) in list.bundles.into_iter().enumerate() {
            if i != 0 {
                printer.line("");
            }
            printer.text(&format!("{STARS}\n* {}\n{STARS}\n", bundle.trust_domain));
            printer.text(&data::print(bundle, self.format)?);
        }
        Ok(())
    }
}

impl Set {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let id = required(self.id, "id flag is required")?;
        let path = self.path.filter(|path| !path.is_empty());
        let bytes = input::bytes(path.as_deref().unwrap_or(input::STDIN))
            .map_err(|e| e.during("unable to load bundle data"))?;
        let bundle = data::parse(&bytes, self.format, &id)?;
        let client = self.socket.connect().await?;
        let request = BatchSetFederatedBundleRequest {
            bundle: vec![bundle],
            output_mask: None,
        };
        let summary = "failed to set federated bundle";
        let answer = client.answer(client.bundle().batch_set_federated_bundle(request).await);
        let answer = answer.map_err(|e| e.during(summary))?;
        if self.output.output == Output::Json {
            let name = "spire.api.server.bundle.v1.BatchSetFederatedBundleResponse";
            json::print(printer, name, &answer)?;
        }
        let status = answer.results.into_iter().next().and_then(|r| r.status);
        done(printer, status, self.output.output, "bundle set.", summary)
    }
}

impl Count {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let client = self.socket.connect().await?;
        let answer = client.answer(client.bundle().count_bundles(CountBundlesRequest {}).await)?;
        if self.output.output == Output::Json {
            let name = "spire.api.server.bundle.v1.CountBundlesResponse";
            return json::print(printer, name, &answer);
        }
        let count = usize::try_from(answer.count).unwrap_or_default();
        printer.line(plural(count, "bundle", "bundles"));
        Ok(())
    }
}

impl Delete {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        use batch_delete_federated_bundle_request::Mode as Wire;

        let id = required(self.id, "id is required")?;
        let mode = match self.mode {
            Mode::Restrict => Wire::Restrict,
            Mode::Delete => Wire::Delete,
            Mode::Dissociate => Wire::Dissociate,
        };
        let client = self.socket.connect().await?;
        let request = BatchDeleteFederatedBundleRequest {
            trust_domains: vec![id.clone()],
            mode: mode.into(),
        };
        let answer = client.answer(client.bundle().batch_delete_federated_bundle(request).await);
        let answer = answer.map_err(|e| e.during("failed to delete federated bundle"))?;
        if self.output.output == Output::Json {
            let name = "spire.api.server.bundle.v1.BatchDeleteFederatedBundleResponse";
            json::print(printer, name, &answer)?;
        }
        let status = answer.results.into_iter().next().and_then(|r| r.status);
        let summary = format!("failed to delete federated bundle {id:?}");
        done(
            printer,
            status,
            self.output.output,
            "bundle deleted.",
            &summary,
        )
    }
}

/// A flag without which the verb makes no sense.
pub(crate) fn required(flag: Option<String>, missing: &str) -> Result<String, CommandError> {
    flag.filter(|text| !text.is_empty())
        .ok_or_else(|| CommandError::usage(missing))
}

/// Says what became of the one item of a batch.
pub(crate) fn done(
    printer: &mut Printer,
    status: Option<types::Status>,
    output: Output,
    well: &str,
    badly: &str,
) -> Result<(), CommandError> {
    match status {
        // What became of it stands in what was printed.
        _ if output == Output::Json => Ok(()),
        Some(status) if status.code == 0 => {
            printer.line(well);
            Ok(())
        }
        status => {
            let message = status.unwrap_or_default().message;
            Err(CommandError::Refused(format!("{badly}: {message}")))
        }
    }
}
