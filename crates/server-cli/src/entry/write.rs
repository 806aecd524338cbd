//! `entry create` and `entry update`.

use clap::Args;
use countersign_daemon::cli::Printer;
use countersign_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchUpdateEntryRequest, GetEntryRequest,
};
use countersign_proto::spire::api::types;

use super::file;
use super::print::print_entry;
use crate::batch::{Noun, Results, failure};
use crate::client::{CallFlags, Client};
use crate::error::{CommandError, During as _};
use crate::flag::{self, required_id};
use crate::json;

/// The path of the server's own ID, which is the parent of entries for nodes.
const SERVER_PATH: &str = "/spire/server";
const SPIFFE_ID_REQUIRED: &str = "a SPIFFE ID is required";

/// What an entry says, as flags.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
struct EntryFlags {
    /// The ID of the registration entry. On create it is optional: if not set, a new one is made
    #[arg(long = "entryID", value_name = "ID")]
    entry_id: Option<String>,
    /// The SPIFFE ID of this record's parent
    #[arg(long = "parentID", value_name = "ID")]
    parent_id: Option<String>,
    /// The SPIFFE ID that this record represents
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// A colon-delimited type:value selector. Can be used more than once
    #[arg(long = "selector", value_name = "TYPE:VALUE")]
    selectors: Vec<String>,
    /// The lifetime, in seconds, of X.509-SVIDs issued for this entry [default: the server's]
    #[arg(
        long = "x509SVIDTTL",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    x509_svid_ttl: Option<i32>,
    /// The lifetime, in seconds, of JWT-SVIDs issued for this entry [default: the server's]
    #[arg(
        long = "jwtSVIDTTL",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    jwt_svid_ttl: Option<i32>,
    /// A DNS name for the SVIDs of this entry. Can be used more than once
    #[arg(long = "dns", value_name = "NAME")]
    dns_names: Vec<String>,
    /// SPIFFE ID of a trust domain to federate with. Can be used more than once
    #[arg(long = "federatesWith", value_name = "ID")]
    federates_with: Vec<String>,
    /// Grants the SPIFFE ID in this entry access to the server's management APIs
    #[arg(long)]
    admin: bool,
    /// The entry describes a downstream server
    #[arg(long)]
    downstream: bool,
    /// When the entry is to be pruned, in seconds since the epoch [default: never]
    #[arg(long = "entryExpiry", value_name = "SECONDS")]
    entry_expiry: Option<i64>,
    /// Tells apart entries with the same SPIFFE ID
    #[arg(long, value_name = "HINT")]
    hint: Option<String>,
    /// The SVID is to be stored for the workload instead of being served to it
    #[arg(long = "storeSVID")]
    store_svid: bool,
    /// The X.509-SVID is signed only when a workload asks for it
    #[arg(long = "disableX509SVIDPrefetch")]
    disable_x509_svid_prefetch: bool,
    /// JWT-SVIDs get a unique "jti" claim and are not cached by agents
    #[arg(long = "jwtSVIDIncludeJTI")]
    jwt_svid_include_jti: bool,
    /// Path to a file with registration entries in JSON (optional); other flags are then ignored. If set to '-', read
    /// from stdin
    #[arg(long, value_name = "FILE")]
    data: Option<String>,
}

/// `entry create`.
#[derive(Debug, Args)]
pub(crate) struct CreateEntries {
    #[command(flatten)]
    entry: EntryFlags,
    /// If set, this entry applies to matching nodes rather than to workloads
    #[arg(long)]
    node: bool,
    #[command(flatten)]
    flags: CallFlags,
}

/// `entry update`.
#[derive(Debug, Args)]
pub(crate) struct UpdateEntries {
    #[command(flatten)]
    entry: EntryFlags,
    #[command(flatten)]
    flags: CallFlags,
}

impl EntryFlags {
    fn into_entry(self, parent_id: types::Spiffeid) -> Result<types::Entry, CommandError> {
        let attributes = types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch: self.disable_x509_svid_prefetch,
            jwt_svid_include_jti: self.jwt_svid_include_jti,
        };
        Ok(types::Entry {
            id: self.entry_id.unwrap_or_default(),
            spiffe_id: Some(required_id(self.spiffe_id, SPIFFE_ID_REQUIRED)?),
            parent_id: Some(parent_id),
            selectors: flag::selectors(&self.selectors)?,
            x509_svid_ttl: ttl(self.x509_svid_ttl, "a positive x509-SVID TTL is required")?,
            federates_with: self.federates_with,
            admin: self.admin,
            downstream: self.downstream,
            expires_at: self.entry_expiry.unwrap_or_default(),
            dns_names: self.dns_names,
            revision_number: 0,
            store_svid: self.store_svid,
            jwt_svid_ttl: ttl(self.jwt_svid_ttl, "a positive JWT-SVID TTL is required")?,
            hint: self.hint.unwrap_or_default(),
            created_at: 0,
            // Attributes of which none is set are left out, as SPIRE leaves them out.
            additional_attributes: Some(attributes).filter(|set| *set != Default::default()),
        })
    }

    fn need_selectors(&self) -> Result<(), CommandError> {
        if self.selectors.is_empty() {
            return Err(CommandError::Usage("at least one selector is required"));
        }
        Ok(())
    }
}

fn ttl(secs: Option<i32>, negative: &'static str) -> Result<i32, CommandError> {
    match secs.unwrap_or_default() {
        secs if secs < 0 => Err(CommandError::Usage(negative)),
        secs => Ok(secs),
    }
}

impl CreateEntries {
    pub(super) async fn run(mut self, printer: &mut Printer) -> Result<(), CommandError> {
        let entries = match self.entry.data.take() {
            Some(path) => file::entries(&path)?,
            None => {
                let parent_id = self.parent_id()?;
                vec![self.entry.into_entry(parent_id)?]
            }
        };
        let client = self.flags.connect().await?;
        let request = BatchCreateEntryRequest {
            entries: entries.clone(),
            output_mask: None,
        };
        let mut response = client
            .call(client.entry().batch_create_entry(request))
            .await?;
        let answers = response.results.iter_mut();
        let results = asked_where_failed(answers.map(|r| (&r.status, &mut r.entry)), entries);
        if self.flags.json() {
            return Ok(json::print(printer, &response)?);
        }
        report(printer, &results, "create")
    }

    fn parent_id(&self) -> Result<types::Spiffeid, CommandError> {
        let flags = &self.entry;
        flags.need_selectors()?;
        if self.node {
            if !flags.federates_with.is_empty() {
                return Err(CommandError::Usage("node entries can not federate"));
            }
            return Ok(types::Spiffeid {
                path: SERVER_PATH.into(),
                ..required_id(flags.spiffe_id.clone(), SPIFFE_ID_REQUIRED)?
            });
        }
        let parent_id = required_id(
            flags.parent_id.clone(),
            "a parent ID is required if the node flag is not set",
        );
        Ok(parent_id?)
    }
}

impl UpdateEntries {
    pub(super) async fn run(mut self, printer: &mut Printer) -> Result<(), CommandError> {
        let file = self.entry.data.take();
        let from_flags = file.is_none();
        let mut entries = match file {
            Some(path) => file::entries(&path)?,
            None => vec![entry(self.entry)?],
        };
        let client = self.flags.connect().await?;
        if let [entry] = entries.as_mut_slice()
            && from_flags
        {
            add_present_attributes(&client, entry).await?;
        }
        let request = BatchUpdateEntryRequest {
            entries: entries.clone(),
            input_mask: None,
            output_mask: None,
        };
        let mut response = client
            .call(client.entry().batch_update_entry(request))
            .await?;
        let answers = response.results.iter_mut();
        let results = asked_where_failed(answers.map(|r| (&r.status, &mut r.entry)), entries);
        if self.flags.json() {
            return Ok(json::print(printer, &response)?);
        }
        report(printer, &results, "update")
    }
}

fn entry(mut flags: EntryFlags) -> Result<types::Entry, CommandError> {
    flags.entry_id = Some(flag::required(flags.entry_id, "entry ID is required")?);
    flags.need_selectors()?;
    let parent_id = required_id(flags.parent_id.take(), "a parent ID is required")?;
    flags.into_entry(parent_id)
}

/// Adds the attributes that the server's entry has: the API replaces them as a whole, and each flag sets only one.
async fn add_present_attributes(
    client: &Client,
    entry: &mut types::Entry,
) -> Result<(), CommandError> {
    let Some(asked) = &mut entry.additional_attributes else {
        return Ok(());
    };
    let request = GetEntryRequest {
        id: entry.id.clone(),
        output_mask: None,
    };
    let present = client.call(client.entry().get_entry(request)).await;
    let present =
        present.during("failed to fetch existing entry to merge additional attributes")?;
    let present = present.additional_attributes.unwrap_or_default();
    asked.disable_x509_svid_prefetch |= present.disable_x509_svid_prefetch;
    asked.jwt_svid_include_jti |= present.jwt_svid_include_jti;
    Ok(())
}

/// The results of a batch. The server gives no entry where it failed: this puts the one that was sent there.
fn asked_where_failed<'a>(
    answers: impl Iterator<Item = (&'a Option<types::Status>, &'a mut Option<types::Entry>)>,
    asked: Vec<types::Entry>,
) -> Results<types::Entry> {
    let results = answers.zip(asked).map(|((status, entry), asked)| {
        if failure(status.clone()).is_some() {
            *entry = Some(asked);
        }
        (status.clone(), entry.clone().unwrap_or_default())
    });
    results.collect()
}

/// Prints what became of each entry for people, and fails if one failed. As JSON the statuses say it, and the exit code
/// doesn't: so it is with SPIRE, whose scripts read them.
fn report(
    printer: &mut Printer,
    results: &Results<types::Entry>,
    verb: &'static str,
) -> Result<(), CommandError> {
    for entry in &results.succeeded {
        printer.text(&print_entry(entry));
    }
    let noun = Noun("entry", "entries");
    results.fail_if_any_failed(verb, noun, print_entry, |failure| {
        printer.error_text(failure);
    })
}
