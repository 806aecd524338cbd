//! `entry apply`: makes the server's entries what a file says.
//!
//! The whole file is read and checked before the server is asked for anything, and everything that will change is known
//! and shown before the first change is made. Deletions come last and only after everything else went well, so that a run
//! that is interrupted leaves too much rather than too little; the next run finishes it.

use clap::Args;
use countersign_daemon::cli::{Output, OutputFlag, Printer};
use countersign_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, ListEntriesRequest,
};
use countersign_proto::spire::api::types;

use crate::client::{Client, SocketFlag};
use crate::error::CommandError;
use plan::{Plan, Relevant};
use report::{Failed, Outcome};

mod plan;
mod read;
mod report;
#[cfg(test)]
mod tests;

/// How many entries one request changes.
const BATCH: usize = 500;
/// What one page of the server's entries holds.
const PAGE_SIZE: i32 = 500;
/// After how many entries a word is said about how far it is.
const PROGRESS: usize = 10_000;

/// `entry apply`.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// File with the entries that there should be, HCL or JSON. If set to '-', read from stdin
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: String,
    /// Also deletes entries of the file's set that are not in the file. The set is what `set = "name"` in the file says;
    /// its entries are those whose ID begins with that name and a dot, as this command names what it makes for a set
    #[arg(long)]
    prune: bool,
    /// Shows what would change, and changes nothing
    #[arg(long = "dryRun")]
    dry_run: bool,
    #[command(flatten)]
    output: OutputFlag,
    #[command(flatten)]
    socket: SocketFlag,
}

impl Apply {
    pub(super) async fn run(self, printer: &mut Printer) -> Result<(), CommandError> {
        let wanted = read::file(&self.file)?;
        if self.prune && wanted.set.is_none() {
            return Err(CommandError::usage(
                "-prune deletes what is missing in the file from the file's set only, and the file names none: \
                 write `set = \"name\"` into it",
            ));
        }
        let client = self.socket.connect().await?;
        let present = present(&client, &Relevant::of(&wanted), printer).await?;
        let plan = Plan::new(wanted, present).map_err(CommandError::usage)?;
        let json = self.output.output == Output::Json;
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
            Err(CommandError::Items("failed to apply one or more entries"))
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
            progress(printer, outcome.done(), batch.len(), total, "changes made");
        }
        for batch in plan.update.chunks(BATCH) {
            let entries: Vec<_> = batch.iter().map(|update| update.new.clone()).collect();
            update(client, entries, &mut outcome).await?;
            progress(printer, outcome.done(), batch.len(), total, "changes made");
        }
        if !self.prune {
            return Ok(outcome);
        }
        if !outcome.failed.is_empty() {
            outcome.kept = plan.surplus.len();
            return Ok(outcome);
        }
        for batch in plan.surplus.chunks(BATCH) {
            let ids = batch.iter().map(|entry| entry.id.clone()).collect();
            delete(client, ids, &mut outcome).await?;
            progress(printer, outcome.done(), batch.len(), total, "changes made");
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
    let mut page_token = String::new();
    let mut read = 0;
    loop {
        let request = ListEntriesRequest {
            filter: None,
            output_mask: None,
            page_size: PAGE_SIZE,
            page_token,
        };
        let page = client.answer(client.entry().list_entries(request).await);
        let page = page.map_err(|e| e.during("error fetching entries"))?;
        let count = page.entries.len();
        read += count;
        if read / PROGRESS > (read - count) / PROGRESS {
            printer.error_text(&format!("{read} entries of the server read\n"));
        }
        found.extend(page.entries.into_iter().filter(|e| relevant.is(e)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

fn progress(printer: &mut Printer, done: usize, last: usize, total: usize, what: &str) {
    if done / PROGRESS > done.saturating_sub(last) / PROGRESS {
        printer.error_text(&format!("{done} of {total} {what}\n"));
    }
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
    let response = client.answer(client.entry().batch_create_entry(request).await);
    let response = response.map_err(|e| outcome.interrupted(e))?;
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
    entries: Vec<types::Entry>,
    outcome: &mut Outcome,
) -> Result<(), CommandError> {
    let request = BatchUpdateEntryRequest {
        entries: entries.clone(),
        input_mask: None,
        output_mask: Some(types::EntryMask::default()),
    };
    let response = client.answer(client.entry().batch_update_entry(request).await);
    let response = response.map_err(|e| outcome.interrupted(e))?;
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
    let response = client.answer(client.entry().batch_delete_entry(request).await);
    let response = response.map_err(|e| outcome.interrupted(e))?;
    for result in response.results {
        match failure(result.status) {
            None => outcome.deleted += 1,
            // Somebody else was faster: it is gone, which is what was wanted.
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

fn failure(status: Option<types::Status>) -> Option<types::Status> {
    let status = status.unwrap_or(types::Status {
        code: tonic::Code::Unknown.into(),
        message: "the server said nothing about it".to_owned(),
    });
    (status.code != 0).then_some(status)
}
