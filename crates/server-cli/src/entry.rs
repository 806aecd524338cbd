//! `entry create`, `show`, `update`, `delete`, `count` and `apply`.

mod apply;
mod file;
mod filter;
mod print;
mod write;

use clap::{Args, Subcommand};
use countersign_daemon::cli::{Output, OutputFlag, Printer};
use countersign_proto::spire::api::server::entry::v1::{
    BatchDeleteEntryRequest, BatchDeleteEntryResponse, CountEntriesRequest, GetEntryRequest,
    ListEntriesRequest, ListEntriesResponse, count_entries_request, list_entries_request,
};

use crate::client::{Client, SocketFlag};
use crate::error::{CommandError, code_name};
use crate::flag::plural;
use crate::json;

use apply::Apply;
use filter::Filter;
use print::print_entry;
use write::{Create, Update};

/// What one page holds; SPIRE's own size.
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
    Create(Box<Create>),
    /// Displays configured registration entries
    #[command(
        after_help = "Examples:\n  countersign-server entry show -spiffeID spiffe://example.org/planner\n  \
        countersign-server entry show -selector unix:uid:1000 -output json"
    )]
    Show(Show),
    /// Updates registration entries
    #[command(
        after_help = "An update replaces the entry: name everything that it should have afterwards.\n  \
        countersign-server entry update -entryID ID -parentID spiffe://example.org/node1 \\\n    \
        -spiffeID spiffe://example.org/planner -selector unix:uid:1001"
    )]
    Update(Box<Update>),
    /// Deletes registration entries
    #[command(
        after_help = "Examples:\n  countersign-server entry delete -entryID ID\n  \
        echo '{\"ids\": [\"ID\", \"ID\"]}' | countersign-server entry delete -file -"
    )]
    Delete(Delete),
    /// Counts registration entries
    #[command(
        after_help = "Example:\n  countersign-server entry count -parentID spiffe://example.org/node1"
    )]
    Count(Count),
    /// Makes the registration entries what a file says, and shows the difference
    #[command(
        after_help = "Examples:\n  countersign-server entry apply -f entries.hcl -dryRun\n  \
        countersign-server entry apply -f entries.hcl -prune\n\
        In the file, as many as there are:\n  \
        entry {\n    spiffe_id = \"spiffe://example.org/planner\"\n    \
        parent_id = \"spiffe://example.org/node1\"\n    selectors = [\"unix:uid:1000\"]\n  }\n\
        An entry of the file means the one with its ID if it has one, else the one with the same SPIFFE ID, parent and \
        selectors. Deletions come last, and only if all else went well."
    )]
    Apply(Apply),
}

/// `entry show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The entry ID of the record to show
    #[arg(long = "entryID", value_name = "ID")]
    entry_id: Option<String>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

/// `entry count`.
#[derive(Debug, Args)]
pub(crate) struct Count {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

/// `entry delete`.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The registration entry ID of the record to delete
    #[arg(long = "entryID", value_name = "ID")]
    entry_id: Option<String>,
    /// Path to a file with a JSON structure for batch deletion (optional). If set to '-', read from stdin
    #[arg(long, value_name = "FILE")]
    file: Option<String>,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
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

impl Show {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let entry_id = self.entry_id.as_deref().filter(|id| !id.is_empty());
        if entry_id.is_some() && self.filter.is_narrow() {
            return Err(CommandError::usage(
                "the -entryID flag can't be combined with others",
            ));
        }
        let filter = self.filter.to_list()?;
        let client = self.socket.connect().await?;
        let mut entries = match entry_id {
            Some(id) => {
                let request = GetEntryRequest {
                    id: id.to_owned(),
                    output_mask: None,
                };
                let entry = client.answer(client.entry().get_entry(request).await);
                vec![entry.map_err(|e| e.during(format!("error fetching entry ID {id}")))?]
            }
            None => fetch(&client, &filter)
                .await
                .map_err(|e| e.during("error fetching entries"))?,
        };
        print::sort(&mut entries);
        if self.output.output == Output::Json {
            let all = ListEntriesResponse {
                entries,
                next_page_token: String::new(),
            };
            return json::print(
                printer,
                "spire.api.server.entry.v1.ListEntriesResponse",
                &all,
            );
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
) -> Result<Vec<countersign_proto::spire::api::types::Entry>, CommandError> {
    let mut entries = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListEntriesRequest {
            filter: Some(filter.clone()),
            output_mask: None,
            page_size: PAGE_SIZE,
            page_token,
        };
        let page = client.answer(client.entry().list_entries(request).await)?;
        entries.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(entries);
        }
    }
}

impl Count {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let list_entries_request::Filter {
            by_spiffe_id,
            by_parent_id,
            by_selectors,
            by_federates_with,
            by_hint,
            by_downstream,
        } = self.filter.to_list()?;
        let filter = count_entries_request::Filter {
            by_spiffe_id,
            by_parent_id,
            by_selectors,
            by_federates_with,
            by_hint,
            by_downstream,
        };
        let client = self.socket.connect().await?;
        let request = CountEntriesRequest {
            filter: Some(filter),
        };
        let response = client.answer(client.entry().count_entries(request).await)?;
        if self.output.output == Output::Json {
            return json::print(
                printer,
                "spire.api.server.entry.v1.CountEntriesResponse",
                &response,
            );
        }
        let count = usize::try_from(response.count).unwrap_or_default();
        printer.line(plural(count, "registration entry", "registration entries"));
        Ok(())
    }
}

impl Delete {
    async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let ids = match (&self.file, self.entry_id) {
            (Some(file), _) => file::ids(file)?,
            (None, Some(id)) if !id.is_empty() => vec![id],
            (None, _) => return Err(CommandError::usage("an entry ID is required")),
        };
        let client = self.socket.connect().await?;
        let request = BatchDeleteEntryRequest { ids };
        let response = client.answer(client.entry().batch_delete_entry(request).await)?;
        if self.output.output == Output::Json {
            return json::print(
                printer,
                "spire.api.server.entry.v1.BatchDeleteEntryResponse",
                &response,
            );
        }
        delete_told(printer, &response)
    }
}

fn delete_told(
    printer: &mut Printer,
    response: &BatchDeleteEntryResponse,
) -> Result<(), CommandError> {
    let (mut deleted, mut failed) = (0_usize, 0_usize);
    let mut failures = String::new();
    for result in &response.results {
        let status = result.status.clone().unwrap_or_default();
        if status.code == 0 {
            deleted += 1;
            printer.line(format_args!("Deleted entry with ID: {}", result.id));
        } else {
            failed += 1;
            let code = code_name(tonic::Code::from_i32(status.code));
            failures.push_str(&format!(
                "Failed to delete entry with ID {} (code: {code}, msg: {:?})\n",
                result.id, status.message
            ));
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
        return Err(CommandError::Items("failed to delete one or more entries"));
    }
    Ok(())
}
