//! `federation create`, `update`, `show`, `list`, `refresh` and `delete`.

mod relationship;

use clap::{Args, Subcommand};
use countersign_daemon::cli::{Output, OutputFlag, Printer};
use countersign_proto::spire::api::server::trustdomain::v1::{
    BatchCreateFederationRelationshipRequest, BatchDeleteFederationRelationshipRequest,
    BatchUpdateFederationRelationshipRequest, GetFederationRelationshipRequest,
    ListFederationRelationshipsRequest, RefreshBundleRequest,
};
use countersign_proto::spire::api::types;
use tonic::Code;

use crate::bundle::{done, required};
use crate::client::SocketFlag;
use crate::error::{CommandError, code_name};
use crate::flag::plural;
use crate::json;
use relationship::{RelationshipFlags, print};

const ID_REQUIRED: &str = "id is required";

/// Verbs on relationships with foreign trust domains.
#[derive(Debug, Subcommand)]
pub(crate) enum FederationVerb {
    /// Creates a dynamic federation relationship with a foreign trust domain
    #[command(
        after_help = "Example: with what `bundle show -format spiffe` printed in the other trust domain\n  \
        countersign-server federation create -trustDomain other.example \\\n    \
        -bundleEndpointURL https://bundle.other.example:8443 -bundleEndpointProfile https_spiffe \\\n    \
        -endpointSpiffeID spiffe://other.example/spire/server \\\n    \
        -trustDomainBundlePath other.bundle -trustDomainBundleFormat spiffe"
    )]
    Create(Write),
    /// Deletes a dynamic federation relationship; the bundle stays
    #[command(
        after_help = "Example:\n  countersign-server federation delete -id spiffe://other.example\n\
        To forget the bundle too: bundle delete"
    )]
    Delete(One),
    /// Lists all dynamic federation relationships
    #[command(after_help = "Example:\n  countersign-server federation list")]
    List(List),
    #[command(
        after_help = "Example: at once, rather than when its time has come\n  \
        countersign-server federation refresh -id spiffe://other.example"
    )]
    /// Refreshes the bundle from the specified federated trust domain
    Refresh(One),
    /// Shows a dynamic federation relationship
    #[command(
        after_help = "Example:\n  countersign-server federation show -trustDomain other.example"
    )]
    Show(Show),
    /// Updates a dynamic federation relationship with a foreign trust domain
    #[command(after_help = "Example: the endpoint has moved\n  \
        countersign-server federation update -trustDomain other.example \\\n    \
        -bundleEndpointURL https://new.other.example:8443 -bundleEndpointProfile https_spiffe \\\n    \
        -endpointSpiffeID spiffe://other.example/spire/server")]
    Update(Write),
}

/// `federation create` and `update`.
#[derive(Debug, Args)]
pub(crate) struct Write {
    #[command(flatten)]
    relationship: RelationshipFlags,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

/// `federation delete` and `refresh`.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// SPIFFE ID of the trust domain
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

/// `federation list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

/// `federation show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The trust domain name of the federation relationship to show
    #[arg(long = "trustDomain", value_name = "NAME")]
    trust_domain: Option<String>,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

/// What became of one item of a batch.
type Item = (Option<types::Status>, Option<types::FederationRelationship>);

impl FederationVerb {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        match self {
            Self::Create(verb) => verb.create(printer).await,
            Self::Update(verb) => verb.update(printer).await,
            Self::Delete(verb) => verb.delete(printer).await,
            Self::Refresh(verb) => verb.refresh(printer).await,
            Self::List(verb) => verb.run(printer).await,
            Self::Show(verb) => verb.run(printer).await,
        }
    }
}

impl Write {
    async fn create(self, printer: &mut Printer) -> Result<(), CommandError> {
        let asked = self.relationship.read()?;
        let client = self.socket.connect().await?;
        let request = BatchCreateFederationRelationshipRequest {
            federation_relationships: asked.clone(),
            output_mask: None,
        };
        let mut relationships = client.trust_domain();
        let answer = relationships.batch_create_federation_relationship(request);
        let answer = client.answer(answer.await);
        let answer = answer.map_err(|e| e.during("request failed"))?;
        if self.output.output == Output::Json {
            let name = "spire.api.server.trustdomain.v1.BatchCreateFederationRelationshipResponse";
            json::print(printer, name, &answer)?;
        }
        let results = answer.results.into_iter();
        let items = results.map(|r| (r.status, r.federation_relationship));
        tell(printer, items.zip(asked), Verb::Create, self.output.output)
    }

    async fn update(self, printer: &mut Printer) -> Result<(), CommandError> {
        let asked = self.relationship.read()?;
        let client = self.socket.connect().await?;
        let request = BatchUpdateFederationRelationshipRequest {
            federation_relationships: asked.clone(),
            input_mask: None,
            output_mask: None,
        };
        let mut relationships = client.trust_domain();
        let answer = relationships.batch_update_federation_relationship(request);
        let answer = client.answer(answer.await);
        let answer = answer.map_err(|e| e.during("request failed"))?;
        if self.output.output == Output::Json {
            let name = "spire.api.server.trustdomain.v1.BatchUpdateFederationRelationshipResponse";
            json::print(printer, name, &answer)?;
        }
        let results = answer.results.into_iter();
        let items = results.map(|r| (r.status, r.federation_relationship));
        tell(printer, items.zip(asked), Verb::Update, self.output.output)
    }
}

/// What was done to relationships.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Create,
    Update,
}

/// Prints what became of each relationship, those that failed last, and fails if one failed.
fn tell(
    printer: &mut Printer,
    items: impl Iterator<Item = (Item, types::FederationRelationship)>,
    verb: Verb,
    output: Output,
) -> Result<(), CommandError> {
    let (word, failed) = match verb {
        Verb::Create => (
            "create",
            "failed to create one or more federation relationships",
        ),
        Verb::Update => (
            "update",
            "failed to update one or more federation relationships",
        ),
    };
    let mut failures = Vec::new();
    for ((status, made), asked) in items {
        let status = status.unwrap_or_default();
        if status.code != 0 {
            let code = code_name(Code::from_i32(status.code));
            failures.push(format!(
                "Failed to {word} the following federation relationship (code: {code}, msg: {:?}):\n{}",
                status.message,
                print(&asked)
            ));
        } else if output == Output::Pretty {
            printer.text(&format!("\n{}", print(&made.unwrap_or(asked))));
        }
    }
    // In JSON, what became of each stands in what was printed.
    if failures.is_empty() || output == Output::Json {
        return Ok(());
    }
    for failure in failures {
        printer.line("");
        printer.error_text(&failure);
    }
    Err(CommandError::Items(failed))
}

impl One {
    async fn delete(self, printer: &mut Printer) -> Result<(), CommandError> {
        let id = required(self.id, ID_REQUIRED)?;
        let client = self.socket.connect().await?;
        let request = BatchDeleteFederationRelationshipRequest {
            trust_domains: vec![id.clone()],
        };
        let mut relationships = client.trust_domain();
        let answer = relationships.batch_delete_federation_relationship(request);
        let answer = client.answer(answer.await);
        let answer = answer.map_err(|e| e.during("failed to delete federation relationship"))?;
        if self.output.output == Output::Json {
            let name = "spire.api.server.trustdomain.v1.BatchDeleteFederationRelationshipResponse";
            json::print(printer, name, &answer)?;
        }
        let (td, status) = match answer.results.into_iter().next() {
            Some(result) => (result.trust_domain, result.status),
            None => (id, None),
        };
        let badly = format!("failed to delete federation relationship {td:?}");
        let well = "federation relationship deleted.";
        done(printer, status, self.output.output, well, &badly)
    }

    async fn refresh(self, printer: &mut Printer) -> Result<(), CommandError> {
        let id = required(self.id, ID_REQUIRED)?;
        let client = self.socket.connect().await?;
        let request = RefreshBundleRequest {
            trust_domain: id.clone(),
        };
        let answer = client.answer(client.trust_domain().refresh_bundle(request).await);
        match answer {
            Ok(()) => {}
            Err(CommandError::Rpc(status)) if status.code() == Code::NotFound => {
                return Err(CommandError::Refused(format!(
                    "there is no federation relationship with trust domain {id:?}"
                )));
            }
            Err(error) => return Err(error.during("failed to refresh bundle")),
        }
        if self.output.output == Output::Json {
            let fine = types::Status {
                code: 0,
                message: "OK".into(),
            };
            return json::print(printer, "spire.api.types.Status", &fine);
        }
        printer.line("Bundle refreshed");
        Ok(())
    }
}

impl List {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let client = self.socket.connect().await?;
        let request = ListFederationRelationshipsRequest::default();
        let mut relationships = client.trust_domain();
        let list = relationships.list_federation_relationships(request).await;
        let list = client.answer(list);
        let list = list.map_err(|e| e.during("error listing federation relationship"))?;
        if self.output.output == Output::Json {
            let name = "spire.api.server.trustdomain.v1.ListFederationRelationshipsResponse";
            return json::print(printer, name, &list);
        }
        let found = &list.federation_relationships;
        let count = plural(
            found.len(),
            "federation relationship",
            "federation relationships",
        );
        printer.line(format!("Found {count}"));
        for relationship in found {
            printer.text(&format!("\n{}", print(relationship)));
        }
        Ok(())
    }
}

impl Show {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let td = required(self.trust_domain, "a trust domain name is required")?;
        let client = self.socket.connect().await?;
        let request = GetFederationRelationshipRequest {
            trust_domain: td.clone(),
            output_mask: None,
        };
        let mut relationships = client.trust_domain();
        let found = client.answer(relationships.get_federation_relationship(request).await);
        let found = found.map_err(|e| e.during("error showing federation relationship"))?;
        if self.output.output == Output::Json {
            return json::print(printer, "spire.api.types.FederationRelationship", &found);
        }
        printer.line(format!(
            "Found a federation relationship with trust domain {td}:\n"
        ));
        printer.text(&print(&found));
        Ok(())
    }
}
