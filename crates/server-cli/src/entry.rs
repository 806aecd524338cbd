//! `entry create`, `show`, `update`, `delete`, `count` and `apply`.

mod apply;
mod file;
mod filter;
mod print;
mod write;

use clap::{Args, Subcommand};
use countersign_daemon::cli::Printer;
use countersign_proto::spire::api::server::entry::v1::{
    BatchDeleteEntryRequest, BatchDeleteEntryResponse, CountEntriesRequest, GetEntryRequest,
    ListEntriesRequest, ListEntriesResponse, list_entries_request,
};
use countersign_proto::spire::api::types;

use crate::batch::{failure, status_text};
use crate::client::{CallFlags, Client};
use crate::error::{CommandError, During as _};
use crate::flag::{given, plural};
use crate::{json, page};

use apply::ApplyEntries;
use filter::EntryFilter;
use print::print_entry;
use write::{CreateEntries, UpdateEntries};

/// Entries in one page; SPIRE's own size.
const PAGE_SIZE: i32 = 500;

/// Verbs on registration entries.
#[derive(Debug, Subcommand)]
pub(crate) enum EntryVerb {
    /// Creates registration entries
    #[command(
        after_help = "Example: the program /usr/bin/planner of user 1000, on the node whose token named it node1\n  \
        countersign-server entry create -parentID spiffe://example.org/node1 \\\n    \
        -spiffeID spiffe://example.org/planner \\\n    \
        -selector unix:uid:1000 -selector unix:path:/usr/bin/planner\n\
        With -data, a file: {\"entries\": [{\"parent_id\": \"...\", \"spiffe_id\": \"...\", \
        \"selectors\": [{\"type\": \"unix\", \"value\": \"uid:1000\"}]}]}"
    )]
    Create(Box<CreateEntries>),
    /// Displays configured registration entries
    #[command(
        after_help = "Examples:\n  countersign-server entry show -spiffeID spiffe://example.org/planner\n  \
        countersign-server entry show -selector unix:uid:1000 -output json"
    )]
    Show(ShowEntries),
    /// Updates registration entries
    #[command(
        after_help = "An update replaces the entry: give every field that it should have afterwards.\n  \
        countersign-server entry update -entryID ID -parentID spiffe://example.org/node1 \\\n    \
        -spiffeID spiffe://example.org/planner -selector unix:uid:1001"
    )]
    Update(Box<UpdateEntries>),
    /// Deletes registration entries
    #[command(
        after_help = "Examples:\n  countersign-server entry delete -entryID ID\n  \
        echo '{\"ids\": [\"ID\", \"ID\"]}' | countersign-server entry delete -file -"
    )]
    Delete(DeleteEntries),
    /// Counts registration entries
    #[command(
        after_help = "Example:\n  countersign-server entry count -parentID spiffe://example.org/node1"
    )]
    Count(CountEntries),
    /// Changes the registration entries to what a file says, and shows the difference
    #[command(
        after_help = "Examples:\n  countersign-server entry apply -f entries.hcl -dryRun\n  \
        countersign-server entry apply -f entries.hcl -prune\n\
        In the file, for each entry:\n  \
        entry {\n    spiffe_id = \"spiffe://example.org/planner\"\n    \
        parent_id = \"spiffe://example.org/node1\"\n    selectors = [\"unix:uid:1000\"]\n  }\n\
        An entry of the file stands for the server's entry with the same ID or, if it has no ID, with the same SPIFFE ID, \
        parent and selectors. Deletions come last, and only if everything else succeeded."
    )]
    Apply(ApplyEntries),
}

/// `entry show`.
#[derive(Debug, Args)]
pub(crate) struct ShowEntries {
    /// The entry ID of the record to show
    #[arg(long = "entryID", value_name = "ID")]
    entry_id: Option<String>,
    #[command(flatten)]
    filter: EntryFilter,
    #[command(flatten)]
    flags: CallFlags,
}

/// `entry count`.
#[derive(Debug, Args)]
pub(crate) struct CountEntries {
    #[command(flatten)]
    filter: EntryFilter,
    #[command(flatten)]
    flags: CallFlags,
}

/// `entry delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteEntries {
    /// The registration entry ID of the record to delete
    #[arg(long = "entryID", value_name = "ID")]
    entry_id: Option<String>,
    /// Path to a file with a JSON structure for batch deletion (optional). If set to '-', read from stdin
    #[arg(long, value_name = "FILE")]
    file: Option<String>,
    #[command(flatten)]
    flags: CallFlags,
}

impl EntryVerb {
    pub(crate) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        match self {
            Self::Create(create) => create.run(printer).await,
            Self::Show(show) => show.run(printer).await,
            Self::Update(update) => update.run(printer).await,
            Self::Delete(delete) => delete.run(printer).await,
            Self::Count(count) => count.run(printer).await,
            Self::Apply(apply) => apply.run(printer).await,
        }
    }
}

impl ShowEntries {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let entry_id = given(self.entry_id);
        if entry_id.is_some() && self.filter.is_narrow() {
            return Err(CommandError::Usage(
                "the -entryID flag can't be combined with others",
            ));
        }
        let filter = self.filter.to_list()?;
        let client = self.flags.connect().await?;
        let mut entries = match entry_id {
            Some(id) => {
                let request = GetEntryRequest {
                    id: id.clone(),
                    output_mask: None,
                };
                let entry = client.call(client.entry().get_entry(request)).await;
                vec![entry.during(format!("error fetching entry ID {id}"))?]
            }
            None => fetch(&client, &filter)
                .await
                .during("error fetching entries")?,
        };
        print::sort(&mut entries);
        if self.flags.json() {
            let all = ListEntriesResponse {
                entries,
                next_page_token: String::new(),
            };
            return Ok(json::print(printer, &all)?);
        }
        printer.line(format_args!(
            "Found {}",
            plural(entries.len(), "entry", "entries")
        ));
        entries
            .iter()
            .for_each(|entry| printer.text(&print_entry(entry)));
        Ok(())
    }
}

async fn fetch(
    client: &Client,
    filter: &list_entries_request::Filter,
) -> Result<Vec<types::Entry>, CommandError> {
    let mut entries = Vec::new();
    let list = async |page_token| {
        let request = ListEntriesRequest {
            filter: Some(filter.clone()),
            output_mask: None,
            page_size: PAGE_SIZE,
            page_token,
        };
        let page = client.call(client.entry().list_entries(request)).await?;
        Ok((page.entries, page.next_page_token))
    };
    page::each(list, |page| entries.extend(page)).await?;
    Ok(entries)
}

impl CountEntries {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let filter = self.filter.to_list()?;
        let client = self.flags.connect().await?;
        let request = CountEntriesRequest {
            filter: Some(filter.into()),
        };
        let response = client.call(client.entry().count_entries(request)).await?;
        if self.flags.json() {
            return Ok(json::print(printer, &response)?);
        }
        let count = usize::try_from(response.count).unwrap_or_default();
        printer.line(plural(count, "registration entry", "registration entries"));
        Ok(())
    }
}

impl DeleteEntries {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let ids = match (&self.file, given(self.entry_id)) {
            (Some(file), _) => file::ids(file)?,
            (None, Some(id)) => vec![id],
            (None, None) => return Err(CommandError::Usage("an entry ID is required")),
        };
        let client = self.flags.connect().await?;
        let request = BatchDeleteEntryRequest { ids };
        let response = client
            .call(client.entry().batch_delete_entry(request))
            .await?;
        if self.flags.json() {
            return Ok(json::print(printer, &response)?);
        }
        report_deleted(printer, response)
    }
}

fn report_deleted(
    printer: &mut Printer,
    response: BatchDeleteEntryResponse,
) -> Result<(), CommandError> {
    let (mut deleted, mut failed) = (0_usize, 0_usize);
    let mut failures = String::new();
    for result in response.results {
        match failure(result.status) {
            None => {
                deleted += 1;
                printer.line(format_args!("Deleted entry with ID: {}", result.id));
            }
            Some(status) => {
                failed += 1;
                let status = status_text(&status);
                failures.push_str(&format!(
                    "Failed to delete entry with ID {} ({status})\n",
                    result.id
                ));
            }
        }
    }
    if deleted > 0 {
        printer.text("\n\n");
    }
    printer.error_text(&failures);
    match (deleted, failed) {
        (_, 0) => printer.line(format_args!("Deleted {deleted} entries successfully")),
        (0, _) => printer.text(&format!("\n\nFailed to delete {failed} entries\n")),
        _ => printer.text(&format!(
            "\n\nDeleted {deleted} entries successfully, but failed to delete {failed} entries\n"
        )),
    }
    if failed > 0 {
        let (verb, items) = ("delete", "entries");
        return Err(CommandError::Items { verb, items });
    }
    Ok(())
}
