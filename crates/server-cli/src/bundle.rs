//! `bundle show`, `list`, `set`, `count` and `delete`.

use clap::{Args, Subcommand, ValueEnum};
use countersign_daemon::cli::Printer;
use countersign_proto::spire::api::server::bundle::v1::{
    BatchDeleteFederatedBundleRequest, BatchSetFederatedBundleRequest, CountBundlesRequest,
    GetBundleRequest, GetFederatedBundleRequest, ListFederatedBundlesRequest,
    batch_delete_federated_bundle_request,
};

use crate::batch::report_only;
use crate::bundle_data::{self, BundleFormat};
use crate::client::CallFlags;
use crate::error::{CommandError, During as _};
use crate::flag::{given, plural, required};
use crate::{input, json};

const STARS: &str = "****************************************";

/// Verbs on bundles.
#[derive(Debug, Subcommand)]
pub(crate) enum BundleVerb {
    /// Prints the server's CA bundle to standard output
    #[command(
        after_help = "Example: what a node agent needs to trust this server\n  \
        countersign-server bundle show > bundle.pem\n\
        and in its configuration:\n  trust_bundle_path = \"bundle.pem\"\n\
        For a trust domain to federate with: -format spiffe"
    )]
    Show(ShowBundle),
    /// Lists federated bundle data
    #[command(after_help = "Example: what is known of one trust domain\n  \
        countersign-server bundle list -id spiffe://other.example -format spiffe")]
    List(ListBundles),
    /// Creates or updates federated bundle data
    #[command(
        after_help = "Example: what the other trust domain's `bundle show -format spiffe` printed\n  \
        countersign-server bundle set -id spiffe://other.example -format spiffe -path other.bundle"
    )]
    Set(SetBundle),
    /// Counts bundles, the server's own among them
    #[command(after_help = "Example:\n  countersign-server bundle count")]
    Count(CallFlags),
    /// Deletes federated bundle data
    #[command(after_help = "Example: entries that federate with it no longer do\n  \
        countersign-server bundle delete -id spiffe://other.example -mode dissociate")]
    Delete(DeleteBundle),
}

/// `bundle show`.
#[derive(Debug, Args)]
pub(crate) struct ShowBundle {
    /// The format to show the bundle in (with -output pretty)
    #[arg(long, value_enum, default_value_t = BundleFormat::Pem, ignore_case = true, value_name = "FORMAT")]
    format: BundleFormat,
    #[command(flatten)]
    flags: CallFlags,
}

/// `bundle list`.
#[derive(Debug, Args)]
pub(crate) struct ListBundles {
    /// SPIFFE ID of the trust domain; without it all are listed
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The format to list federated bundles in (with -output pretty)
    #[arg(long, value_enum, default_value_t = BundleFormat::Pem, ignore_case = true, value_name = "FORMAT")]
    format: BundleFormat,
    #[command(flatten)]
    flags: CallFlags,
}

/// `bundle set`.
#[derive(Debug, Args)]
pub(crate) struct SetBundle {
    /// SPIFFE ID of the trust domain
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Path to the bundle data; without it standard input is read
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// The format of the bundle data
    #[arg(long, value_enum, default_value_t = BundleFormat::Pem, ignore_case = true, value_name = "FORMAT")]
    format: BundleFormat,
    #[command(flatten)]
    flags: CallFlags,
}

/// What becomes of the entries that federate with the trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DeleteMode {
    /// As long as there are any, the bundle stays
    Restrict,
    /// They are deleted too
    Delete,
    /// They stay, and no longer federate with it
    Dissociate,
}

/// `bundle delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteBundle {
    /// SPIFFE ID of the trust domain
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Deletion mode
    #[arg(long, value_enum, default_value_t = DeleteMode::Restrict, value_name = "MODE")]
    mode: DeleteMode,
    #[command(flatten)]
    flags: CallFlags,
}

impl BundleVerb {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        match self {
            Self::Show(verb) => verb.run(printer).await,
            Self::List(verb) => verb.run(printer).await,
            Self::Set(verb) => verb.run(printer).await,
            Self::Count(flags) => count(&flags, printer).await,
            Self::Delete(verb) => verb.run(printer).await,
        }
    }
}

impl ShowBundle {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let client = self.flags.connect().await?;
        let request = GetBundleRequest { output_mask: None };
        let bundle = client.call(client.bundle().get_bundle(request)).await?;
        if self.flags.json() {
            return Ok(json::print(printer, &bundle)?);
        }
        printer.text(&bundle_data::print(bundle, self.format)?);
        Ok(())
    }
}

impl ListBundles {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let client = self.flags.connect().await?;
        if let Some(trust_domain) = given(self.id) {
            let request = GetFederatedBundleRequest {
                trust_domain,
                output_mask: None,
            };
            let mut bundles = client.bundle();
            let bundle = client.call(bundles.get_federated_bundle(request)).await?;
            if self.flags.json() {
                return Ok(json::print(printer, &bundle)?);
            }
            printer.text(&bundle_data::print(bundle, self.format)?);
            return Ok(());
        }
        let request = ListFederatedBundlesRequest::default();
        let mut bundles = client.bundle();
        let list = client.call(bundles.list_federated_bundles(request)).await?;
        if self.flags.json() {
            return Ok(json::print(printer, &list)?);
        }
        for (i, bundle) in list.bundles.into_iter().enumerate() {
            if i != 0 {
                printer.line("");
            }
            printer.text(&format!("{STARS}\n* {}\n{STARS}\n", bundle.trust_domain));
            printer.text(&bundle_data::print(bundle, self.format)?);
        }
        Ok(())
    }
}

impl SetBundle {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let id = required(self.id, "id flag is required")?;
        let path = given(self.path);
        let bytes = input::bytes(path.as_deref().unwrap_or(input::STDIN))
            .during("unable to load bundle data")?;
        let bundle = bundle_data::parse(&bytes, self.format, &id)?;
        let client = self.flags.connect().await?;
        let request = BatchSetFederatedBundleRequest {
            bundle: vec![bundle],
            output_mask: None,
        };
        let failing = "failed to set federated bundle";
        let mut bundles = client.bundle();
        let answer = client.call(bundles.batch_set_federated_bundle(request));
        let answer = answer.await.during(failing)?;
        if self.flags.json() {
            return Ok(json::print(printer, &answer)?);
        }
        let status = answer.results.into_iter().next().and_then(|r| r.status);
        report_only(printer, status, "bundle set.", failing)
    }
}

async fn count(flags: &CallFlags, printer: &mut Printer) -> Result<(), CommandError> {
    let client = flags.connect().await?;
    let mut bundles = client.bundle();
    let answer = client
        .call(bundles.count_bundles(CountBundlesRequest {}))
        .await?;
    if flags.json() {
        return Ok(json::print(printer, &answer)?);
    }
    let count = usize::try_from(answer.count).unwrap_or_default();
    printer.line(plural(count, "bundle", "bundles"));
    Ok(())
}

impl DeleteBundle {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        use batch_delete_federated_bundle_request::Mode;

        let id = required(self.id, "id is required")?;
        let mode = match self.mode {
            DeleteMode::Restrict => Mode::Restrict,
            DeleteMode::Delete => Mode::Delete,
            DeleteMode::Dissociate => Mode::Dissociate,
        };
        let client = self.flags.connect().await?;
        let request = BatchDeleteFederatedBundleRequest {
            trust_domains: vec![id.clone()],
            mode: mode.into(),
        };
        let mut bundles = client.bundle();
        let answer = client.call(bundles.batch_delete_federated_bundle(request));
        let answer = answer.await.during("failed to delete federated bundle")?;
        if self.flags.json() {
            return Ok(json::print(printer, &answer)?);
        }
        let status = answer.results.into_iter().next().and_then(|r| r.status);
        let failing = format!("failed to delete federated bundle {id:?}");
        report_only(printer, status, "bundle deleted.", failing)
    }
}
