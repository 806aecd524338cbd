//! Files of entries and of entry IDs, as SPIRE's `-data` and `-file` take them.

use countersign_proto::spire::api::types;
use serde::Deserialize;

use crate::error::{CommandError, During as _};
use crate::flag::{self, InvalidFlag};
use crate::input::{self, InputError, InvalidInput, shown};

#[derive(Deserialize)]
struct EntriesFile {
    entries: Vec<FileEntry>,
}

/// One entry; keys that SPIRE ignores are ignored too.
#[derive(Default, Deserialize)]
#[serde(default)]
struct FileEntry {
    entry_id: String,
    parent_id: String,
    spiffe_id: String,
    selectors: Vec<FileSelector>,
    x509_svid_ttl: i32,
    jwt_svid_ttl: i32,
    federates_with: Vec<String>,
    admin: bool,
    downstream: bool,
    #[serde(rename = "entryExpiry")]
    entry_expiry: i64,
    dns_names: Vec<String>,
    store_svid: bool,
    hint: String,
    additional_attributes: Option<FileAttributes>,
}

#[derive(Deserialize)]
struct FileSelector {
    r#type: String,
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FileAttributes {
    disable_x509_svid_prefetch: bool,
    jwt_svid_include_jti: bool,
}

#[derive(Deserialize)]
struct IdsFile {
    ids: Vec<String>,
}

/// The entries in a file.
pub(super) fn entries(path: &str) -> Result<Vec<types::Entry>, CommandError> {
    let EntriesFile { entries } = read(path)?;
    let read = |(i, entry)| to_entry(entry).during(format!("{}: entry {}", shown(path), i + 1));
    entries.into_iter().enumerate().map(read).collect()
}

/// The entry IDs in a file.
pub(super) fn ids(path: &str) -> Result<Vec<String>, InvalidInput> {
    Ok(read::<IdsFile>(path)?.ids)
}

fn to_entry(entry: FileEntry) -> Result<types::Entry, InvalidFlag> {
    let selector = |s: FileSelector| types::Selector {
        r#type: s.r#type,
        value: s.value,
    };
    let attributes = |a: FileAttributes| types::entry::AdditionalAttributes {
        disable_x509_svid_prefetch: a.disable_x509_svid_prefetch,
        jwt_svid_include_jti: a.jwt_svid_include_jti,
    };
    Ok(types::Entry {
        id: entry.entry_id,
        spiffe_id: Some(flag::spiffe_id(&entry.spiffe_id)?),
        parent_id: Some(flag::spiffe_id(&entry.parent_id)?),
        selectors: entry.selectors.into_iter().map(selector).collect(),
        x509_svid_ttl: entry.x509_svid_ttl,
        federates_with: entry.federates_with,
        admin: entry.admin,
        downstream: entry.downstream,
        expires_at: entry.entry_expiry,
        dns_names: entry.dns_names,
        revision_number: 0,
        store_svid: entry.store_svid,
        jwt_svid_ttl: entry.jwt_svid_ttl,
        hint: entry.hint,
        created_at: 0,
        additional_attributes: entry.additional_attributes.map(attributes),
    })
}

fn read<T: for<'de> Deserialize<'de>>(path: &str) -> Result<T, InvalidInput> {
    let text = input::bytes(path)?;
    serde_json::from_slice(&text).map_err(|error| InputError::Json(error).of(path))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use countersign_transport::error::Chain;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn entries_of(text: &str) -> Result<Vec<types::Entry>, CommandError> {
        entries(file(text).path().to_str().unwrap())
    }

    #[test]
    fn a_file_for_spire_is_read() {
        let text = r#"{"entries": [{
            "selectors": [{"type": "unix", "value": "uid:1000"}],
            "spiffe_id": "spiffe://td/a", "parent_id": "spiffe://td/p", "x509_svid_ttl": 60,
            "dns_names": ["a.td"], "entryExpiry": 9, "admin": true, "ttl": 5
        }]}"#;
        let entry = entries_of(text).unwrap().remove(0);
        assert_eq!(flag::id_text(entry.spiffe_id.as_ref()), "spiffe://td/a");
        assert_eq!(
            (entry.x509_svid_ttl, entry.expires_at, entry.admin),
            (60, 9, true)
        );
        assert_eq!(entry.selectors[0].value, "uid:1000");
    }

    #[test]
    fn a_broken_file_is_refused_with_its_name_and_place() {
        for (text, told) in [
            ("{", "EOF"),
            ("{}", "missing field `entries`"),
            (
                r#"{"entries": [{"spiffe_id": "x", "parent_id": "spiffe://td/p"}]}"#,
                "entry 1: \"x\" is not a SPIFFE ID",
            ),
            (r#"{"entries": [{"admin": "yes"}]}"#, "line 1"),
        ] {
            let error = entries_of(text).unwrap_err();
            let refused = Chain(&error).to_string();
            assert!(refused.contains(told), "{refused}");
        }
        assert!(
            entries("/nonexistent.json")
                .unwrap_err()
                .to_string()
                .contains("/nonexistent.json")
        );
    }

    #[test]
    fn ids_are_read() {
        assert_eq!(
            ids(file(r#"{"ids": ["a", "b"]}"#).path().to_str().unwrap()).unwrap(),
            ["a", "b"]
        );
    }
}
