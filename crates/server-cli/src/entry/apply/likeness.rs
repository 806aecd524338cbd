//! Which entries are alike: the server has no two entries with the same SPIFFE ID, parent and selectors.

use aws_lc_rs::digest;
use countersign_proto::spire::api::types;

use crate::flag::id_text;

/// What makes entries alike: SPIFFE ID, parent and the set of selectors.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Likeness {
    spiffe_id: String,
    parent_id: String,
    selectors: Vec<(String, String)>,
}

impl Likeness {
    pub(super) fn of(entry: &types::Entry) -> Self {
        let pair = |s: &types::Selector| (s.r#type.clone(), s.value.clone());
        let mut selectors: Vec<_> = entry.selectors.iter().map(pair).collect();
        selectors.sort_unstable();
        Self {
            spiffe_id: id_text(entry.spiffe_id.as_ref()),
            parent_id: id_text(entry.parent_id.as_ref()),
            selectors,
        }
    }

    /// The ID of an entry that is made for a set: the same each time, so that a second run finds what the first made.
    pub(super) fn id_in(&self, set: &str) -> String {
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut part = |text: &str| {
            hash.update(&text.len().to_be_bytes());
            hash.update(text.as_bytes());
        };
        part(&self.spiffe_id);
        part(&self.parent_id);
        for (kind, value) in &self.selectors {
            part(kind);
            part(value);
        }
        let hash = hash.finish();
        let hex = hash.as_ref().iter().take(16);
        hex.fold(format!("{set}."), |text, byte| format!("{text}{byte:02x}"))
    }
}
