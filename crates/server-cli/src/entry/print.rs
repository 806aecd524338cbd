//! Entries as SPIRE prints them.

use std::fmt::Write as _;

use countersign_proto::spire::api::types;

use crate::flag::{go_time, id_text};

/// One entry, with an empty line after it. Fields that are rarely set are shown only when they are.
pub(super) fn print_entry(entry: &types::Entry) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<24}: {value}");
    };
    field(
        "Entry ID",
        if entry.id.is_empty() {
            &"(none)"
        } else {
            &entry.id
        },
    );
    field("SPIFFE ID", &id_text(entry.spiffe_id.as_ref()));
    field("Parent ID", &id_text(entry.parent_id.as_ref()));
    field("Revision", &entry.revision_number);
    if entry.downstream {
        field("Downstream", &true);
    }
    field("X509-SVID TTL", &ttl(entry.x509_svid_ttl));
    field("JWT-SVID TTL", &ttl(entry.jwt_svid_ttl));
    if entry.expires_at != 0 {
        field("Expiration time", &go_time(entry.expires_at));
    }
    for selector in &entry.selectors {
        field(
            "Selector",
            &format_args!("{}:{}", selector.r#type, selector.value),
        );
    }
    entry
        .federates_with
        .iter()
        .for_each(|id| field("FederatesWith", id));
    entry
        .dns_names
        .iter()
        .for_each(|name| field("DNS name", name));
    if entry.admin {
        field("Admin", &true);
    }
    if entry.store_svid {
        field("StoreSvid", &true);
    }
    if !entry.hint.is_empty() {
        field("Hint", &entry.hint);
    }
    let attributes = entry.additional_attributes.unwrap_or_default();
    if attributes.disable_x509_svid_prefetch {
        field("DisableX509SvidPrefetch", &true);
    }
    if attributes.jwt_svid_include_jti {
        field("JwtSvidIncludeJti", &true);
    }
    text.push('\n');
    text
}

fn ttl(secs: i32) -> String {
    if secs == 0 {
        "default".into()
    } else {
        secs.to_string()
    }
}

/// Sorts entries by what people look for first: SPIFFE ID, parent, lifetimes, selectors.
pub(super) fn sort(entries: &mut [types::Entry]) {
    let id = |id: &Option<types::Spiffeid>| id.clone().map(|id| (id.trust_domain, id.path));
    let selectors = |entry: &types::Entry| {
        let pairs = entry
            .selectors
            .iter()
            .map(|s| (s.r#type.clone(), s.value.clone()));
        (entry.selectors.len(), pairs.collect::<Vec<_>>())
    };
    for entry in entries.iter_mut() {
        entry
            .selectors
            .sort_by(|a, b| (&a.r#type, &a.value).cmp(&(&b.r#type, &b.value)));
    }
    entries.sort_by_cached_key(|entry| {
        (
            id(&entry.spiffe_id),
            id(&entry.parent_id),
            entry.x509_svid_ttl,
            entry.jwt_svid_ttl,
            selectors(entry),
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(path: &str) -> Option<types::Spiffeid> {
        Some(types::Spiffeid {
            trust_domain: "td".into(),
            path: path.into(),
        })
    }

    #[test]
    fn an_entry_with_everything_looks_as_spire_prints_it() {
        let entry = types::Entry {
            id: "e1".into(),
            spiffe_id: id("/a"),
            parent_id: id("/p"),
            selectors: vec![types::Selector {
                r#type: "unix".into(),
                value: "uid:1".into(),
            }],
            x509_svid_ttl: 20,
            jwt_svid_ttl: 0,
            federates_with: vec!["other".into()],
            admin: true,
            downstream: true,
            expires_at: 1_700_000_000,
            dns_names: vec!["a.td".into()],
            revision_number: 3,
            store_svid: true,
            hint: "internal".into(),
            created_at: 1,
            additional_attributes: Some(types::entry::AdditionalAttributes {
                disable_x509_svid_prefetch: true,
                jwt_svid_include_jti: true,
            }),
        };
        let want = "\
Entry ID                : e1
SPIFFE ID               : spiffe://td/a
Parent ID               : spiffe://td/p
Revision                : 3
Downstream              : true
X509-SVID TTL           : 20
JWT-SVID TTL            : default
Expiration time         : 2023-11-14 22:13:20 +0000 UTC
Selector                : unix:uid:1
FederatesWith           : other
DNS name                : a.td
Admin                   : true
StoreSvid               : true
Hint                    : internal
DisableX509SvidPrefetch : true
JwtSvidIncludeJti       : true

";
        assert_eq!(print_entry(&entry), want);
    }

    #[test]
    fn an_entry_without_an_id_says_so() {
        assert!(
            print_entry(&types::Entry::default()).starts_with("Entry ID                : (none)\n")
        );
    }

    #[test]
    fn entries_are_sorted_by_spiffe_id_and_then_by_parent() {
        let entry = |spiffe_id, parent_id| types::Entry {
            spiffe_id: id(spiffe_id),
            parent_id: id(parent_id),
            ..Default::default()
        };
        let mut entries = [entry("/b", "/1"), entry("/a", "/2"), entry("/a", "/1")];
        sort(&mut entries);
        assert_eq!(
            entries,
            [entry("/a", "/1"), entry("/a", "/2"), entry("/b", "/1")]
        );
    }
}
