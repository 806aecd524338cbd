//! Files, and what is reported about those that are wrong. The tests with a server are the server's, in `cli/tests`.

use super::read::{Wanted, text};
use crate::flag::id_text;

fn read(text: &str) -> Wanted {
    super::read::text("entries.hcl", text).unwrap()
}

#[test]
fn a_file_says_what_the_api_s_fields_say() {
    let wanted = read(
        r#"
set = "web"
entry {
    id = "mine"
    spiffe_id = "spiffe://td/a"
    parent_id = "spiffe://td/p"
    selectors = ["unix:uid:2", "unix:uid:1"]
    x509_svid_ttl = 60
    jwt_svid_ttl = "30"
    federates_with = ["spiffe://other", "another"]
    dns_names = ["b.td", "a.td"]
    hint = "h"
    expires_at = 4102444800
    admin = true
    additional_attributes { jwt_svid_include_jti = true }
}
entry {
    spiffe_id = "spiffe://td/b", parent_id = "spiffe://td/p"
    selectors = "unix:uid:1"
}
"#,
    );
    assert_eq!(wanted.set.as_deref(), Some("web"));
    let [first, second] = wanted.entries.as_slice() else {
        panic!("{wanted:?}")
    };
    assert_eq!((first.id.as_str(), second.id.as_str()), ("mine", ""));
    assert_eq!(id_text(first.spiffe_id.as_ref()), "spiffe://td/a");
    let values: Vec<_> = first.selectors.iter().map(|s| s.value.as_str()).collect();
    assert_eq!(values, ["uid:1", "uid:2"], "sets have no order");
    assert_eq!(first.federates_with, ["another", "other"]);
    assert_eq!(
        first.dns_names,
        ["b.td", "a.td"],
        "the first is the common name"
    );
    assert_eq!((first.x509_svid_ttl, first.jwt_svid_ttl), (60, 30));
    assert_eq!(
        (first.hint.as_str(), first.expires_at, first.admin),
        ("h", 4_102_444_800, true)
    );
    assert!(first.additional_attributes.unwrap().jwt_svid_include_jti);
    assert_eq!(second.additional_attributes, None);
}

#[test]
fn the_files_of_entry_create_are_read_too() {
    let wanted = read(
        r#"{"entries": [{
            "selectors": [{"type": "unix", "value": "uid:1000"}, {"type": "unix", "value": "gid:1"}],
            "spiffe_id": "spiffe://td/a", "parent_id": "spiffe://td/p", "entry_id": "x",
            "x509_svid_ttl": 60, "dns_names": ["a.td"], "entryExpiry": 9, "admin": true
        }]}"#,
    );
    let [entry] = wanted.entries.as_slice() else {
        panic!("{wanted:?}")
    };
    assert_eq!((entry.id.as_str(), entry.expires_at), ("x", 9));
    assert_eq!(entry.selectors.len(), 2);
}

#[test]
fn all_faults_are_reported_together_with_their_places() {
    let told = text(
        "entries.hcl",
        r#"
set = "a.b"
entry {
    spiffe_id = "spiffe://td/spire/x"
    selectors = ["unix", "unix:uid:1", "unix:uid:1"]
    x509_svid_ttl = -1
}
entry {
    spiffe_id = "spiffe://td/a"
    parent_id = "spiffe://td/p"
    selectors = []
    hnt = "h"
    dns_names = ["a b", "a", "a"]
    id = "x", entry_id = "y"
    federates_with = ["NO"]
    store_svid = "perhaps"
}
"#,
    )
    .unwrap_err()
    .to_string();
    for (place, part) in [
        ("entries.hcl:2:", "set: a set's name"),
        ("entries.hcl:4:", "entry.parent_id is required"),
        (
            "entries.hcl:4:",
            "entry.spiffe_id: the path must not be empty, /spire",
        ),
        ("entries.hcl:5:", "selectors: \"unix\": "),
        ("entries.hcl:5:", "unix:uid:1 is repeated"),
        (
            "entries.hcl:6:",
            "x509_svid_ttl: must be a whole number from 0",
        ),
        ("entries.hcl:11:", "selectors: at least one selector"),
        (
            "entries.hcl:12:",
            "unknown key \"hnt\" in entry; did you mean \"hint\"?",
        ),
        ("entries.hcl:13:", "dns_names: \"a b\""),
        ("entries.hcl:13:", "dns_names: \"a\" is repeated"),
        ("entries.hcl:14:", "entry_id: id says the same"),
        ("entries.hcl:15:", "federates_with: \"NO\""),
        ("entries.hcl:16:", "store_svid"),
    ] {
        let found = told
            .lines()
            .any(|line| line.contains(place) && line.contains(part));
        assert!(found, "{place} {part} is not in:\n{told}");
    }
}

#[test]
fn no_entry_is_there_twice() {
    let entry = |id: &str, selectors: &str| {
        format!(
            "entry {{\n  id = \"{id}\"\n  spiffe_id = \"spiffe://td/a\"\n  parent_id = \"spiffe://td/p\"\n  selectors = {selectors}\n}}\n"
        )
    };
    let same = r#"["a:1", "a:2"]"#;
    let alike = entry("x", same) + &entry("y", r#"["a:2", "a:1"]"#);
    let told = text("f", &alike).unwrap_err().to_string();
    assert!(
        told.contains("f:9:15: entry.spiffe_id: the entry on line 3 has the same SPIFFE ID"),
        "{told}"
    );
    let twice = entry("x", same) + &entry("x", r#"["a:3"]"#);
    let told = text("f", &twice).unwrap_err().to_string();
    assert!(
        told.contains("f:8:8: entry.id: the entry on line 3 has this ID"),
        "{told}"
    );
}

#[test]
fn a_file_without_entries_says_nothing() {
    for empty in ["", "set = \"x\"", "entries = []"] {
        let told = text("f", empty).unwrap_err().to_string();
        assert!(told.contains("the file has no entries"), "{told}");
    }
}

#[test]
fn the_file_that_ships_is_sound() {
    let wanted = read(include_str!("../../../../../config/entries.hcl"));
    assert_eq!(
        (wanted.set.as_deref(), wanted.entries.len()),
        (Some("agents"), 2)
    );
}
