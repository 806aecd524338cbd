//! `entry apply`: makes the server's entries what a file says.
//!
//! The whole file is read and checked before the server is asked for anything, and everything that will change is known
//! and shown before the first change is made. Deletions come last and only after everything else went well, so that a run
//! that is interrupted leaves too much rather than too little; the next run finishes it.

use clap::Args;
use countersign_daemon::cli::Printer;
use countersign_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, ListEntriesRequest,
};
use countersign_proto::spire::api::types;

use crate::batch::failure;
use crate::client::{CallFlags, Client};
use crate::error::{CommandError, During as _};
use crate::page;
use plan::{Plan, Relevant};
use report::{Failed, Outcome};

mod likeness;
mod plan;
mod read;
mod report;
#[cfg(test)]
mod tests;

/// How many entries one request changes.
const BATCH: usize = 500;
/// Entries in one page.
const PAGE_SIZE: i32 = 500;
/// After how many entries the progress is reported.
const PROGRESS: usize = 10_000;

/// `entry apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyEntries {
    /// File with the desired entries, in HCL or JSON. If set to '-', read from stdin
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: String,
    /// Also deletes entries of the file's set that are not in the file. `set = "name"` in the file names the set; its
    /// entries are those with an ID that begins with this name and a dot, as the IDs do that this command makes
    #[arg(long)]
    prune: bool,
    /// Shows what would change, and changes nothing
    #[arg(long = "dryRun")]
    dry_run: bool,
    #[command(flatten)]
    flags: CallFlags,
}

impl ApplyEntries {
    pub(super) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let wanted = read::file(&self.file)?;
        if self.prune && wanted.set.is_none() {
            return Err(CommandError::Usage(
                "-prune only deletes entries of the file's set, and the file names none: add `set = \"name\"` to it",
            ));
        }
        let client = self.flags.connect().await?;
        let present = present(&client, &Relevant::of(&wanted), printer).await?;
        let plan = Plan::new(wanted, present).map_err(CommandError::Conflicts)?;
        let json = self.flags.json();
        if !json {
            report::differences(printer, &plan, self.prune);
        }
        let outcome = if self.dry_run {
            Outcome::default()
        } else {
            self.change(&client, &plan, printer).await?
        };
        if json {
            report::json(printer, &plan, &outcome, self.prune, self.dry_run);
        } else {
            report::outcome(printer, &outcome, self.dry_run);
        }
        if outcome.failed.is_empty() {
            Ok(())
        } else {
            let (verb, items) = ("apply", "entries");
            Err(CommandError::Items { verb, items })
        }
    }

    /// Makes the changes: first what adds, then what changes, then what takes away.
    async fn change(
        &self,
        client: &Client,
        plan: &Plan,
        printer: &mut Printer,
    ) -> Result<Outcome, CommandError> {
        let mut outcome = Outcome::default();
        let total = plan.changes(self.prune);
        for batch in plan.create.chunks(BATCH) {
            create(client, batch, &mut outcome).await?;
            progress(printer, &outcome, batch.len(), total);
        }
        for batch in plan.update.chunks(BATCH) {
            let entries: Vec<_> = batch.iter().map(|update| update.new.clone()).collect();
            update(client, &entries, &mut outcome).await?;
            progress(printer, &outcome, batch.len(), total);
        }
        if !self.prune {
            return Ok(outcome);
        }
        // After a failure the file's entries may not all be there yet: nothing is taken away before they are.
        if !outcome.failed.is_empty() {
            outcome.not_deleted = plan.surplus.len();
            return Ok(outcome);
        }
        for batch in plan.surplus.chunks(BATCH) {
            let ids = batch.iter().map(|entry| entry.id.clone()).collect();
            delete(client, ids, &mut outcome).await?;
            progress(printer, &outcome, batch.len(), total);
        }
        Ok(outcome)
    }
}

/// The entries of the server that matter for the file.
async fn present(
    client: &Client,
    relevant: &Relevant,
    printer: &mut Printer,
) -> Result<Vec<types::Entry>, CommandError> {
    let mut found = Vec::new();
    let mut read = 0;
    let list = async |page_token| {
        let request = ListEntriesRequest {
            filter: None,
            output_mask: None,
            page_size: PAGE_SIZE,
            page_token,
        };
        let page = client.call(client.entry().list_entries(request)).await;
        let page = page.during("error fetching entries")?;
        Ok((page.entries, page.next_page_token))
    };
    let take = |page: Vec<types::Entry>| {
        read += page.len();
        if passes_mark(read, page.len()) {
            printer.error_text(&format!("{read} entries of the server read\n"));
        }
        found.extend(page.into_iter().filter(|entry| relevant.is(entry)));
    };
    page::each(list, take).await?;
    Ok(found)
}

fn progress(printer: &mut Printer, outcome: &Outcome, batch: usize, total: usize) {
    let done = outcome.done();
    if passes_mark(done, batch) {
        printer.error_text(&format!("{done} of {total} changes made\n"));
    }
}

/// Whether the last of these many entries were the ones after which progress is reported.
fn passes_mark(done: usize, last: usize) -> bool {
    done / PROGRESS > done.saturating_sub(last) / PROGRESS
}

async fn create(
    client: &Client,
    entries: &[types::Entry],
    outcome: &mut Outcome,
) -> Result<(), CommandError> {
    let request = BatchCreateEntryRequest {
        entries: entries.to_vec(),
        output_mask: Some(types::EntryMask::default()),
    };
    let response = client
        .call(client.entry().batch_create_entry(request))
        .await;
    let response = response.map_err(|error| outcome.interrupted(error))?;
    for (asked, result) in entries.iter().zip(response.results) {
        match failure(result.status) {
            None => outcome.created += 1,
            Some(status) => outcome.failed.push(Failed::new("create", asked, status)),
        }
    }
    Ok(())
}

async fn update(
    client: &Client,
    entries: &[types::Entry],
    outcome: &mut Outcome,
) -> Result<(), CommandError> {
    let request = BatchUpdateEntryRequest {
        entries: entries.to_vec(),
        input_mask: None,
        output_mask: Some(types::EntryMask::default()),
    };
    let response = client
        .call(client.entry().batch_update_entry(request))
        .await;
    let response = response.map_err(|error| outcome.interrupted(error))?;
    for (asked, result) in entries.iter().zip(response.results) {
        match failure(result.status) {
            None => outcome.updated += 1,
            Some(status) => outcome.failed.push(Failed::new("update", asked, status)),
        }
    }
    Ok(())
}

async fn delete(
    client: &Client,
    ids: Vec<String>,
    outcome: &mut Outcome,
) -> Result<(), CommandError> {
    let request = BatchDeleteEntryRequest { ids };
    let response = client
        .call(client.entry().batch_delete_entry(request))
        .await;
    let response = response.map_err(|error| outcome.interrupted(error))?;
    for result in response.results {
        match failure(result.status) {
            None => outcome.deleted += 1,
            // Another client deleted it in the meantime, which is what was wanted.
            Some(status) if status.code == i32::from(tonic::Code::NotFound) => {
                outcome.deleted += 1;
            }
            Some(status) => {
                let entry = types::Entry {
                    id: result.id,
                    ..types::Entry::default()
                };
                outcome.failed.push(Failed::new("delete", &entry, status));
            }
        }
    }
    Ok(())
}
