//! The file: which entries there should be. Everything that is wrong with it is reported together, each with its place.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;

use countersign_config::{Document, Element, InvalidConfig, Limits, Position, Section};
use countersign_identity::entry::{DnsName, EntryId, MAX_HINT_LEN};
use countersign_identity::spiffe_id::InvalidId;
use countersign_identity::{Selector, SpiffeId, TrustDomain};
use countersign_proto::spire::api::types;

use super::likeness::Likeness;
use crate::error::CommandError;
use crate::input::{InputError, STDIN};

/// The longest file, in bytes, and how many keys it may have: some 100,000 entries.
const LIMITS: Limits = Limits {
    text: 64 << 20,
    items: 2_000_000,
};
/// The longest name of a set, in bytes.
const MAX_SET_LEN: usize = 64;

/// What a file says.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The name that begins the IDs that this command makes.
    pub(super) set: Option<String>,
    /// In the order of the file. Those without an ID have an empty one.
    pub(super) entries: Vec<types::Entry>,
}

/// Reads a file, or standard input.
pub(super) fn file(path: &str) -> Result<Wanted, CommandError> {
    let document = if path == STDIN {
        let mut text = String::new();
        let limit = u64::try_from(LIMITS.text).unwrap_or(u64::MAX);
        let read = std::io::stdin()
            .take(limit.saturating_add(1))
            .read_to_string(&mut text);
        read.map_err(|error| InputError::Read(error).of(path))?;
        Document::parse_within(LIMITS, "stdin", &text, countersign_config::ENTRY_FILE_KEYS)
    } else {
        Document::load_within(LIMITS, Path::new(path), countersign_config::ENTRY_FILE_KEYS)
    };
    document.and_then(wanted).map_err(CommandError::EntryFile)
}

/// Reads a text; `file` is only its name in messages.
#[cfg(test)]
pub(super) fn text(file: &str, text: &str) -> Result<Wanted, InvalidConfig> {
    Document::parse_within(LIMITS, file, text, countersign_config::ENTRY_FILE_KEYS).and_then(wanted)
}

fn wanted(document: Document) -> Result<Wanted, InvalidConfig> {
    let (wanted, _) = document.read(|document| {
        let root = document.root();
        let set = root.parsed("set", set_name);
        let mut seen = Seen::default();
        let mut entries = Vec::new();
        let mut sections_seen = 0;
        let sections = ["entry", "entries"].map(|name| document.sections(name));
        for section in sections.into_iter().flatten() {
            sections_seen += 1;
            if let Some(entry) = entry(&section) {
                seen.note(&section, &entry);
                entries.push(entry);
            }
        }
        if sections_seen == 0 {
            root.wrong("entry", "the file has no entries");
        }
        Some(Wanted { set, entries })
    })?;
    Ok(wanted)
}

/// A set's name, which begins the IDs of its entries, is too long or has other characters than an ID may have.
#[derive(Debug, thiserror::Error)]
#[error("a set's name has at most {MAX_SET_LEN} letters, digits, dashes and underscores")]
struct InvalidSetName;

fn set_name(text: &str) -> Result<String, InvalidSetName> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if text.len() > MAX_SET_LEN || !text.bytes().all(plain) {
        return Err(InvalidSetName);
    }
    Ok(text.to_owned())
}

/// Why a SPIFFE ID can't be an entry's.
#[derive(Debug, thiserror::Error)]
enum InvalidWorkloadId {
    #[error(transparent)]
    Id(#[from] InvalidId),
    #[error("the path must not be empty, /spire or below /spire/")]
    Reserved,
}

fn workload_id(text: &str) -> Result<SpiffeId, InvalidWorkloadId> {
    let id = SpiffeId::parse(text)?;
    if id.is_workload() {
        Ok(id)
    } else {
        Err(InvalidWorkloadId::Reserved)
    }
}

/// The positions of the entries read so far, to find one that is there twice.
#[derive(Default)]
struct Seen {
    ids: HashMap<String, Position>,
    alike: HashMap<Likeness, Position>,
}

impl Seen {
    fn note(&mut self, section: &Section<'_>, entry: &types::Entry) {
        let at = section.at("spiffe_id");
        if !entry.id.is_empty()
            && let Some(first) = self.ids.insert(entry.id.clone(), at)
        {
            let line = first.line;
            section.wrong("id", format!("the entry on line {line} has this ID"));
        }
        if let Some(first) = self.alike.insert(Likeness::of(entry), at) {
            section.wrong(
                "spiffe_id",
                format!(
                    "the entry on line {} has the same SPIFFE ID, parent and selectors",
                    first.line
                ),
            );
        }
    }
}

/// One entry; `None` if it can't be compared with others. Everything that is wrong with it has been noted.
fn entry(section: &Section<'_>) -> Option<types::Entry> {
    section.require(&["spiffe_id", "parent_id"]);
    let id = one_of(section, "id", "entry_id", |key| {
        section.parsed(key, |text| EntryId::new(text).map(|id| id.to_string()))
    });
    let expires_at = one_of(section, "expires_at", "entryExpiry", |key| {
        section.integer(key, 0..=i64::MAX)
    });
    let ttl = |key: &str| {
        let seconds = section.integer(key, 0..=i64::from(i32::MAX));
        i32::try_from(seconds.unwrap_or_default()).unwrap_or_default()
    };
    let flag = |key: &str| section.bool(key).unwrap_or_default();
    let spiffe_id = section.parsed("spiffe_id", workload_id);
    let parent_id = section.parsed("parent_id", SpiffeId::parse);
    let selectors = selectors(section);
    let store_svid = flag("store_svid");
    let attributes = attributes(section);
    check_stored(section, store_svid, &selectors, attributes);
    let entry = types::Entry {
        id: id.unwrap_or_default(),
        spiffe_id: spiffe_id.as_ref().map(Into::into),
        parent_id: parent_id.as_ref().map(Into::into),
        selectors,
        x509_svid_ttl: ttl("x509_svid_ttl"),
        federates_with: federation(section),
        admin: flag("admin"),
        downstream: flag("downstream"),
        expires_at: expires_at.unwrap_or_default(),
        dns_names: dns_names(section),
        revision_number: 0,
        store_svid,
        jwt_svid_ttl: ttl("jwt_svid_ttl"),
        hint: hint(section),
        created_at: 0,
        additional_attributes: attributes,
    };
    (spiffe_id.is_some() && parent_id.is_some()).then_some(entry)
}

/// A key that has two names: the API's, and the one in files for `-data`.
fn one_of<T>(
    section: &Section<'_>,
    name: &str,
    other: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let (first, second) = (read(name), read(other));
    if first.is_some() && second.is_some() {
        section.wrong(other, format!("{name} says the same: remove one"));
    }
    first.or(second)
}

/// As `type:value`, or as sections with `type` and `value`.
fn selectors(section: &Section<'_>) -> Vec<types::Selector> {
    let mut all = Vec::new();
    let elements = section.elements("selectors");
    if elements.is_empty() {
        section.wrong("selectors", "at least one selector is required");
    }
    for element in elements {
        let parsed = match element {
            Element::Text(text) => Selector::parse(&text).map_err(|e| format!("{text:?}: {e}")),
            Element::Section(pair) => {
                let part = |key| pair.string(key).unwrap_or_default();
                Selector::new(&part("type"), &part("value")).map_err(|e| e.to_string())
            }
        };
        match parsed {
            Ok(selector) if all.contains(&selector) => {
                section.wrong("selectors", format!("{selector} is repeated"));
            }
            Ok(selector) => all.push(selector),
            Err(error) => section.wrong("selectors", error),
        }
    }
    all.sort_unstable();
    all.iter().map(Into::into).collect()
}

fn federation(section: &Section<'_>) -> Vec<String> {
    let mut all = Vec::new();
    for name in section.list("federates_with").unwrap_or_default() {
        match TrustDomain::from_name_or_id(&name) {
            Ok(td) => all.push(td.to_string()),
            Err(error) => section.wrong("federates_with", format!("{name:?}: {error}")),
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

fn dns_names(section: &Section<'_>) -> Vec<String> {
    let names = section.list("dns_names").unwrap_or_default();
    for (i, name) in names.iter().enumerate() {
        if let Err(error) = DnsName::new(name) {
            section.wrong("dns_names", format!("{name:?}: {error}"));
        } else if names.iter().take(i).any(|other| other == name) {
            section.wrong("dns_names", format!("{name:?} is repeated"));
        }
    }
    names
}

fn hint(section: &Section<'_>) -> String {
    let hint = section.string("hint").unwrap_or_default();
    if hint.len() > MAX_HINT_LEN {
        section.wrong("hint", format!("it is longer than {MAX_HINT_LEN} bytes"));
    }
    hint
}

/// None if none is set, as the server keeps it.
fn attributes(section: &Section<'_>) -> Option<types::entry::AdditionalAttributes> {
    let attributes = section.section("additional_attributes");
    let flag = |key: &str| attributes.bool(key).unwrap_or_default();
    let attributes = types::entry::AdditionalAttributes {
        disable_x509_svid_prefetch: flag("disable_x509_svid_prefetch"),
        jwt_svid_include_jti: flag("jwt_svid_include_jti"),
    };
    (attributes != types::entry::AdditionalAttributes::default()).then_some(attributes)
}

fn check_stored(
    section: &Section<'_>,
    store_svid: bool,
    selectors: &[types::Selector],
    attributes: Option<types::entry::AdditionalAttributes>,
) {
    if !store_svid {
        return;
    }
    let first = selectors.first().map(|s| &s.r#type);
    if selectors.iter().any(|s| Some(&s.r#type) != first) {
        section.wrong("store_svid", "it needs selectors of one type");
    }
    if attributes.is_some_and(|a| a.disable_x509_svid_prefetch) {
        section.wrong("store_svid", "it excludes disable_x509_svid_prefetch");
    }
}
