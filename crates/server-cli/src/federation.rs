//! `federation create`, `update`, `show`, `list`, `refresh` and `delete`.

use clap::{Args, Subcommand};
use countersign_daemon::cli::Printer;
use countersign_proto::spire::api::server::trustdomain::v1::{
    BatchCreateFederationRelationshipRequest, BatchDeleteFederationRelationshipRequest,
    BatchUpdateFederationRelationshipRequest, GetFederationRelationshipRequest,
    ListFederationRelationshipsRequest, RefreshBundleRequest,
};
use countersign_proto::spire::api::types;
use tonic::Code;

use crate::batch::{Noun, Results, report_only};
use crate::client::CallFlags;
use crate::error::{CommandError, During as _};
use crate::flag::{plural, required};
use crate::json;
use crate::relationship::{RelationshipFlags, print};

const ID_REQUIRED: &str = "id is required";
const REQUEST_FAILED: &str = "request failed";

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
    Create(WriteRelationships),
    /// Deletes a dynamic federation relationship; the bundle stays
    #[command(
        after_help = "Example:\n  countersign-server federation delete -id spiffe://other.example\n\
        To forget the bundle too: bundle delete"
    )]
    Delete(OneRelationship),
    /// Lists all dynamic federation relationships
    #[command(after_help = "Example:\n  countersign-server federation list")]
    List(CallFlags),
    #[command(after_help = "Example: at once, instead of at the next interval\n  \
        countersign-server federation refresh -id spiffe://other.example")]
    /// Refreshes the bundle from the specified federated trust domain
    Refresh(OneRelationship),
    /// Shows a dynamic federation relationship
    #[command(
        after_help = "Example:\n  countersign-server federation show -trustDomain other.example"
    )]
    Show(ShowRelationship),
    /// Updates a dynamic federation relationship with a foreign trust domain
    #[command(after_help = "Example: the endpoint has moved\n  \
        countersign-server federation update -trustDomain other.example \\\n    \
        -bundleEndpointURL https://new.other.example:8443 -bundleEndpointProfile https_spiffe \\\n    \
        -endpointSpiffeID spiffe://other.example/spire/server")]
    Update(WriteRelationships),
}

/// `federation create` and `update`.
#[derive(Debug, Args)]
pub(crate) struct WriteRelationships {
    #[command(flatten)]
    relationship: RelationshipFlags,
    #[command(flatten)]
    flags: CallFlags,
}

/// `federation delete` and `refresh`.
#[derive(Debug, Args)]
pub(crate) struct OneRelationship {
    /// SPIFFE ID of the trust domain
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    flags: CallFlags,
}

/// `federation show`.
#[derive(Debug, Args)]
pub(crate) struct ShowRelationship {
    /// The trust domain name of the federation relationship to show
    #[arg(long = "trustDomain", value_name = "NAME")]
    trust_domain: Option<String>,
    #[command(flatten)]
    flags: CallFlags,
}

impl FederationVerb {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        match self {
            Self::Create(verb) => verb.create(printer).await,
            Self::Update(verb) => verb.update(printer).await,
            Self::Delete(verb) => verb.delete(printer).await,
            Self::Refresh(verb) => verb.refresh(printer).await,
            Self::List(flags) => list(&flags, printer).await,
            Self::Show(verb) => verb.run(printer).await,
        }
    }
}

impl WriteRelationships {
    async fn create(self, printer: &mut Printer) -> Result<(), CommandError> {
        let asked = self.relationship.read()?;
        let client = self.flags.connect().await?;
        let request = BatchCreateFederationRelationshipRequest {
            federation_relationships: asked.clone(),
            output_mask: None,
        };
        let mut relationships = client.trust_domain();
        let answer = client.call(relationships.batch_create_federation_relationship(request));
        let answer = answer.await.during(REQUEST_FAILED)?;
        if self.flags.json() {
            return Ok(json::print(printer, &answer)?);
        }
        let made = answer.results.into_iter();
        let made = made.map(|r| (r.status, r.federation_relationship));
        report(printer, made.zip(asked), "create")
    }

    async fn update(self, printer: &mut Printer) -> Result<(), CommandError> {
        let asked = self.relationship.read()?;
        let client = self.flags.connect().await?;
        let request = BatchUpdateFederationRelationshipRequest {
            federation_relationships: asked.clone(),
            input_mask: None,
            output_mask: None,
        };
        let mut relationships = client.trust_domain();
        let answer = client.call(relationships.batch_update_federation_relationship(request));
        let answer = answer.await.during(REQUEST_FAILED)?;
        if self.flags.json() {
            return Ok(json::print(printer, &answer)?);
        }
        let made = answer.results.into_iter();
        let made = made.map(|r| (r.status, r.federation_relationship));
        report(printer, made.zip(asked), "update")
    }
}

/// What became of one relationship: its status, and the relationship as it is now.
type Made = (Option<types::Status>, Option<types::FederationRelationship>);

/// Reports what became of each relationship, those that failed last; fails if one failed.
fn report(
    printer: &mut Printer,
    items: impl Iterator<Item = (Made, types::FederationRelationship)>,
    verb: &'static str,
) -> Result<(), CommandError> {
    let items = items.map(|((status, made), asked)| (status, made.unwrap_or(asked)));
    let results: Results<_> = items.collect();
    for relationship in &results.succeeded {
        printer.text(&format!("\n{}", print(relationship)));
    }
    let noun = Noun("federation relationship", "federation relationships");
    results.fail_if_any_failed(verb, noun, print, |failure| {
        printer.line("");
        printer.error_text(failure);
    })
}

impl OneRelationship {
    async fn delete(self, printer: &mut Printer) -> Result<(), CommandError> {
        let id = required(self.id, ID_REQUIRED)?;
        let client = self.flags.connect().await?;
        let request = BatchDeleteFederationRelationshipRequest {
            trust_domains: vec![id.clone()],
        };
        let mut relationships = client.trust_domain();
        let answer = client.call(relationships.batch_delete_federation_relationship(request));
        let answer = answer
            .await
            .during("failed to delete federation relationship")?;
        if self.flags.json() {
            return Ok(json::print(printer, &answer)?);
        }
        let (td, status) = match answer.results.into_iter().next() {
            Some(result) => (result.trust_domain, result.status),
            None => (id, None),
        };
        let failing = format!("failed to delete federation relationship {td:?}");
        report_only(printer, status, "federation relationship deleted.", failing)
    }

    async fn refresh(self, printer: &mut Printer) -> Result<(), CommandError> {
        let id = required(self.id, ID_REQUIRED)?;
        let client = self.flags.connect().await?;
        let request = RefreshBundleRequest {
            trust_domain: id.clone(),
        };
        let mut relationships = client.trust_domain();
        match client.call(relationships.refresh_bundle(request)).await {
            Ok(()) => {}
            Err(CommandError::Rpc(status)) if status.code() == Code::NotFound => {
                return Err(CommandError::NoRelationship(id));
            }
            refused => refused.during("failed to refresh bundle")?,
        }
        if self.flags.json() {
            let ok = types::Status {
                code: 0,
                message: "OK".into(),
            };
            return Ok(json::print(printer, &ok)?);
        }
        printer.line("Bundle refreshed");
        Ok(())
    }
}

async fn list(flags: &CallFlags, printer: &mut Printer) -> Result<(), CommandError> {
    let client = flags.connect().await?;
    let request = ListFederationRelationshipsRequest::default();
    let mut relationships = client.trust_domain();
    let list = client.call(relationships.list_federation_relationships(request));
    let list = list.await.during("error listing federation relationship")?;
    if flags.json() {
        return Ok(json::print(printer, &list)?);
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

impl ShowRelationship {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let td = required(self.trust_domain, "a trust domain name is required")?;
        let client = self.flags.connect().await?;
        let request = GetFederationRelationshipRequest {
            trust_domain: td.clone(),
            output_mask: None,
        };
        let mut relationships = client.trust_domain();
        let found = client.call(relationships.get_federation_relationship(request));
        let found = found
            .await
            .during("error showing federation relationship")?;
        if self.flags.json() {
            return Ok(json::print(printer, &found)?);
        }
        printer.line(format!(
            "Found a federation relationship with trust domain {td}:\n"
        ));
        printer.text(&print(&found));
        Ok(())
    }
}
