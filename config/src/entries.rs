//! The registry of files that say which entries there should be.

use crate::key::{Key, Rule, section, value};

/// The keys of a file for `entry apply`: the fields of SPIRE's entry API, and those names by which files for `entry
/// create -data` call them.
pub const ENTRY_FILE_KEYS: &[Key] = &[
    value("set"),
    sections("entry", ENTRY),
    sections("entries", ENTRY),
];

const ENTRY: &[Key] = &[
    value("id"),
    value("entry_id"),
    value("spiffe_id"),
    value("parent_id"),
    Key {
        name: "selectors",
        rule: Rule::Elements(SELECTOR),
    },
    value("x509_svid_ttl"),
    value("jwt_svid_ttl"),
    value("federates_with"),
    value("dns_names"),
    value("hint"),
    value("expires_at"),
    value("entryExpiry"),
    value("admin"),
    value("downstream"),
    value("store_svid"),
    section(
        "additional_attributes",
        &[
            value("disable_x509_svid_prefetch"),
            value("jwt_svid_include_jti"),
        ],
    ),
];

const SELECTOR: &[Key] = &[value("type"), value("value")];

const fn sections(name: &'static str, keys: &'static [Key]) -> Key {
    let rule = Rule::Sections(keys);
    Key { name, rule }
}
