//! What became of the items of a batch, of which each has a status of its own.

use countersign_daemon::cli::Printer;
use countersign_proto::spire::api::types;
use tonic::Code;

use crate::error::{CommandError, code_name};

/// The status of an item that failed.
pub(crate) fn failure(status: Option<types::Status>) -> Option<types::Status> {
    let status = status.unwrap_or_else(|| types::Status {
        code: Code::Unknown.into(),
        message: "the server said nothing about it".to_owned(),
    });
    (status.code != 0).then_some(status)
}

/// `code: …, msg: …`, as SPIRE prints the status of an item.
pub(crate) fn status_text(status: &types::Status) -> String {
    let code = code_name(Code::from_i32(status.code));
    format!("code: {code}, msg: {:?}", status.message)
}

/// What one item is called, and several.
pub(crate) struct Noun(pub(crate) &'static str, pub(crate) &'static str);

/// A batch by what became of its items, in the order of the batch.
pub(crate) struct Results<T> {
    pub(crate) succeeded: Vec<T>,
    failed: Vec<(types::Status, T)>,
}

impl<T> FromIterator<(Option<types::Status>, T)> for Results<T> {
    fn from_iter<I: IntoIterator<Item = (Option<types::Status>, T)>>(items: I) -> Self {
        let mut results = Self {
            succeeded: Vec::new(),
            failed: Vec::new(),
        };
        for (status, item) in items {
            match failure(status) {
                None => results.succeeded.push(item),
                Some(status) => results.failed.push((status, item)),
            }
        }
        results
    }
}

impl<T> Results<T> {
    /// Reports each item that failed, as `report` prints the text about it; fails if there is one.
    pub(crate) fn fail_if_any_failed(
        &self,
        verb: &'static str,
        Noun(item, items): Noun,
        shown: impl Fn(&T) -> String,
        mut report: impl FnMut(&str),
    ) -> Result<(), CommandError> {
        for (status, failed) in &self.failed {
            let (status, shown) = (status_text(status), shown(failed));
            report(&format!(
                "Failed to {verb} the following {item} ({status}):\n{shown}"
            ));
        }
        if self.failed.is_empty() {
            Ok(())
        } else {
            Err(CommandError::Items { verb, items })
        }
    }
}

/// Prints `success` if the only item of a batch succeeded; `failing` is what the error says, with the server's message.
pub(crate) fn report_only(
    printer: &mut Printer,
    status: Option<types::Status>,
    success: &str,
    failing: impl Into<String>,
) -> Result<(), CommandError> {
    match failure(status) {
        None => {
            printer.line(success);
            Ok(())
        }
        Some(status) => Err(CommandError::Refused {
            failure: failing.into(),
            message: status.message,
        }),
    }
}
