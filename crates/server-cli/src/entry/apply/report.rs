//! What `entry apply` prints: the difference between server and file, and what was changed.

use countersign_daemon::cli::{Printer, Style};
use countersign_proto::spire::api::types;
use serde_json::{Map, Value, json};

use super::plan::{Plan, Update};
use crate::batch::status_text;
use crate::error::CommandError;
use crate::flag::{id_text, plural};

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) created: usize,
    pub(super) updated: usize,
    pub(super) deleted: usize,
    /// Not deleted, because something else failed before.
    pub(super) not_deleted: usize,
    pub(super) failed: Vec<Failed>,
}

/// What the server refused.
#[derive(Debug)]
pub(super) struct Failed {
    verb: &'static str,
    name: String,
    status: types::Status,
}

impl Failed {
    pub(super) fn new(verb: &'static str, entry: &types::Entry, status: types::Status) -> Self {
        Self {
            verb,
            name: name(entry),
            status,
        }
    }
}

impl Outcome {
    pub(super) fn done(&self) -> usize {
        self.created + self.updated + self.deleted + self.failed.len()
    }

    /// The error of a run that stopped before its end.
    pub(super) fn interrupted(&self, error: CommandError) -> CommandError {
        let Self {
            created,
            updated,
            deleted,
            ..
        } = self;
        CommandError::During {
            doing: format!(
                "stopped after {created} created, {updated} updated, {deleted} deleted; run it again to finish"
            )
            .into(),
            source: Box::new(error),
        }
    }
}

/// `spiffe://td/path (ID)`, as far as it is known.
fn name(entry: &types::Entry) -> String {
    let spiffe_id = id_text(entry.spiffe_id.as_ref());
    match (spiffe_id.is_empty(), entry.id.is_empty()) {
        (false, false) => format!("{spiffe_id} ({})", entry.id),
        (true, _) => entry.id.clone(),
        (_, true) => spiffe_id,
    }
}

/// Prints what is to change.
pub(super) fn differences(printer: &mut Printer, plan: &Plan, prune: bool) {
    for entry in &plan.create {
        let heading = format!("+ create {}", name(entry));
        printer.line(printer.paint(Style::Good, heading));
        for (field, value) in fields(entry) {
            let value = shown(&value);
            if !value.is_empty() {
                printer.line(format_args!("    {field:<22} {value}"));
            }
        }
    }
    for Update { old, new } in &plan.update {
        let heading = format!("~ update {}", name(old));
        printer.line(printer.paint(Style::Notice, heading));
        for (field, before, after) in changed(old, new) {
            let before = printer.paint(Style::Bad, or_nothing(&shown(&before)));
            let after = printer.paint(Style::Good, or_nothing(&shown(&after)));
            printer.line(format_args!("    {field:<22} {before} -> {after}"));
        }
    }
    if prune {
        for entry in &plan.surplus {
            let heading = format!("- delete {}", name(entry));
            printer.line(printer.paint(Style::Bad, heading));
        }
    }
    let (create, update) = (plan.create.len(), plan.update.len());
    let delete = if prune { plan.surplus.len() } else { 0 };
    printer.line(format_args!(
        "Difference: {create} to create, {update} to update, {delete} to delete, {} as they should be",
        plan.unchanged
    ));
    if let Some(set) = plan
        .set
        .as_deref()
        .filter(|_| !prune && !plan.surplus.is_empty())
    {
        let count = plural(plan.surplus.len(), "entry", "entries");
        printer.line(format_args!(
            "{count} of the set {set:?} not in the file; -prune deletes what is not in it"
        ));
    }
}

/// Prints what was done.
pub(super) fn outcome(printer: &mut Printer, outcome: &Outcome, dry_run: bool) {
    if dry_run {
        printer.line("Nothing was changed (-dryRun)");
        return;
    }
    for failed in &outcome.failed {
        printer.error_text(&format!(
            "Failed to {} {} ({})\n",
            failed.verb,
            failed.name,
            status_text(&failed.status)
        ));
    }
    if outcome.not_deleted > 0 {
        let entries = plural(outcome.not_deleted, "entry was", "entries were");
        printer.error_text(&format!(
            "{entries} not deleted, because something else failed before\n"
        ));
    }
    printer.line(format_args!(
        "Done: {} created, {} updated, {} deleted, {} failed",
        outcome.created,
        outcome.updated,
        outcome.deleted,
        outcome.failed.len()
    ));
}

/// Both as one JSON document.
pub(super) fn json(
    printer: &mut Printer,
    plan: &Plan,
    outcome: &Outcome,
    prune: bool,
    dry_run: bool,
) {
    let update = |Update { old, new }: &Update| {
        let changes = changed(old, new).into_iter().map(|(field, from, to)| {
            let change = json!({ "from": from, "to": to });
            (field.to_owned(), change)
        });
        json!({
            "id": old.id,
            "spiffe_id": id_text(old.spiffe_id.as_ref()),
            "changes": Map::from_iter(changes),
        })
    };
    let whole = |entry: &types::Entry| {
        let fields = fields(entry).into_iter();
        let fields = fields.map(|(field, value)| (field.to_owned(), value));
        let id = (!entry.id.is_empty()).then(|| ("id".to_owned(), json!(entry.id)));
        Value::Object(fields.chain(id).collect())
    };
    let failed = |failed: &Failed| {
        json!({
            "verb": failed.verb,
            "entry": failed.name,
            "code": failed.status.code,
            "message": failed.status.message,
        })
    };
    let (delete, surplus): (&[_], &[_]) = if prune {
        (&plan.surplus, &[])
    } else {
        (&[], &plan.surplus)
    };
    printer.json(&json!({
        "set": plan.set,
        "dry_run": dry_run,
        "difference": {
            "create": plan.create.iter().map(whole).collect::<Vec<_>>(),
            "update": plan.update.iter().map(update).collect::<Vec<_>>(),
            "delete": delete.iter().map(whole).collect::<Vec<_>>(),
            "not_in_file": surplus.iter().map(|entry| json!(entry.id)).collect::<Vec<_>>(),
            "unchanged": plan.unchanged,
        },
        "done": {
            "created": outcome.created,
            "updated": outcome.updated,
            "deleted": outcome.deleted,
            "not_deleted": outcome.not_deleted,
            "failed": outcome.failed.iter().map(failed).collect::<Vec<_>>(),
        },
    }));
}

/// What an entry says, by the names that files use.
fn fields(entry: &types::Entry) -> Vec<(&'static str, Value)> {
    let attributes = entry.additional_attributes.unwrap_or_default();
    let selector = |s: &types::Selector| format!("{}:{}", s.r#type, s.value);
    let selectors: Vec<_> = entry.selectors.iter().map(selector).collect();
    vec![
        ("spiffe_id", json!(id_text(entry.spiffe_id.as_ref()))),
        ("parent_id", json!(id_text(entry.parent_id.as_ref()))),
        ("selectors", json!(selectors)),
        ("x509_svid_ttl", json!(entry.x509_svid_ttl)),
        ("jwt_svid_ttl", json!(entry.jwt_svid_ttl)),
        ("dns_names", json!(entry.dns_names)),
        ("federates_with", json!(entry.federates_with)),
        ("hint", json!(entry.hint)),
        ("expires_at", json!(entry.expires_at)),
        ("admin", json!(entry.admin)),
        ("downstream", json!(entry.downstream)),
        ("store_svid", json!(entry.store_svid)),
        (
            "disable_x509_svid_prefetch",
            json!(attributes.disable_x509_svid_prefetch),
        ),
        (
            "jwt_svid_include_jti",
            json!(attributes.jwt_svid_include_jti),
        ),
    ]
}

/// The fields that differ, before and after.
fn changed(old: &types::Entry, new: &types::Entry) -> Vec<(&'static str, Value, Value)> {
    let pairs = fields(old).into_iter().zip(fields(new));
    pairs
        .filter(|((_, before), (_, after))| before != after)
        .map(|((field, before), (_, after))| (field, before, after))
        .collect()
}

/// A value as people read it; empty if it says nothing.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let texts: Vec<String> = items.iter().map(shown).collect();
            texts.join(", ")
        }
        Value::Number(number) if number.as_i64() == Some(0) => String::new(),
        Value::Bool(false) => String::new(),
        other => other.to_string(),
    }
}

fn or_nothing(text: &str) -> &str {
    if text.is_empty() { "(none)" } else { text }
}
