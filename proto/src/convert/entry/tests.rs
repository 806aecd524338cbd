use countersign_identity::selector::InvalidSelector;

use super::*;

fn wire_id(path: &str) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: "td".into(),
        path: path.into(),
    }
}

fn wire_selector(kind: &str, value: &str) -> types::Selector {
    types::Selector {
        r#type: kind.into(),
        value: value.into(),
    }
}

fn wire() -> types::Entry {
    types::Entry {
        id: "entry-1".into(),
        spiffe_id: Some(wire_id("/coder")),
        parent_id: Some(wire_id("/spire/agent/join_token/t")),
        selectors: vec![
            wire_selector("unix", "gid:1"),
            wire_selector("unix", "uid:1"),
        ],
        x509_svid_ttl: 60,
        federates_with: vec!["other.org".into()],
        admin: true,
        downstream: true,
        expires_at: 1_900_000_000,
        dns_names: vec!["coder.td".into(), "*.coder.td".into()],
        revision_number: 3,
        store_svid: true,
        jwt_svid_ttl: 30,
        hint: "main".into(),
        created_at: 1_800_000_000,
        additional_attributes: Some(types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: true,
        }),
    }
}

#[test]
fn an_entry_survives_the_wire() {
    let entry = Entry::try_from(wire()).unwrap();
    assert_eq!(types::Entry::from(&entry), wire());
}

#[test]
fn zero_means_default_and_never() {
    let zero = types::Entry {
        x509_svid_ttl: 0,
        jwt_svid_ttl: 0,
        expires_at: 0,
        additional_attributes: None,
        ..wire()
    };
    let entry = Entry::try_from(zero.clone()).unwrap();
    assert_eq!(
        (entry.x509_svid_ttl, entry.jwt_svid_ttl, entry.expires_at),
        (None, None, None)
    );
    assert_eq!(types::Entry::from(&entry), zero);
}

#[test]
fn each_bad_part_is_refused() {
    let check = |corrupt: fn(&mut types::Entry), want: InvalidEntry| {
        let mut entry = wire();
        corrupt(&mut entry);
        assert_eq!(Entry::try_from(entry), Err(want));
    };
    check(|e| e.id.clear(), InvalidEntry::Id(InvalidEntryId::Empty));
    check(
        |e| e.id = "a b".into(),
        InvalidEntry::Id(InvalidEntryId::Char),
    );
    check(
        |e| e.id = "a".repeat(256),
        InvalidEntry::Id(InvalidEntryId::TooLong),
    );
    check(|e| e.spiffe_id = None, InvalidEntry::SpiffeIdMissing);
    check(
        |e| e.spiffe_id = Some(wire_id("x")),
        InvalidEntry::SpiffeId(InvalidId::PathLeadingSlash),
    );
    let not_workload = |path: &str| {
        InvalidEntry::SpiffeIdNotWorkload(SpiffeId::parse(&format!("spiffe://td{path}")).unwrap())
    };
    check(
        |e| e.spiffe_id = Some(wire_id("/spire/x")),
        not_workload("/spire/x"),
    );
    check(
        |e| e.spiffe_id = Some(wire_id("/spire")),
        not_workload("/spire"),
    );
    check(|e| e.spiffe_id = Some(wire_id("")), not_workload(""));
    check(|e| e.parent_id = None, InvalidEntry::ParentIdMissing);
    check(
        |e| e.parent_id = Some(wire_id("/a//b")),
        InvalidEntry::ParentId(InvalidId::PathEmptySegment),
    );
    check(
        |e| e.parent_id = Some(wire_id("")),
        InvalidEntry::ParentIdWithoutPath(SpiffeId::parse("spiffe://td").unwrap()),
    );
    check(|e| e.selectors.clear(), InvalidEntry::SelectorsEmpty);
    check(
        |e| e.selectors = vec![wire_selector("a", "b"); MAX_SELECTORS + 1],
        InvalidEntry::SelectorsTooMany,
    );
    check(
        |e| e.selectors[0].value.clear(),
        InvalidEntry::Selectors(InvalidSelector::ValueMissing.into()),
    );
    check(|e| e.x509_svid_ttl = -1, InvalidEntry::X509SvidTtl);
    check(|e| e.jwt_svid_ttl = -1, InvalidEntry::JwtSvidTtl);
    check(
        |e| e.federates_with.push("Bad".into()),
        InvalidEntry::FederatesWith(InvalidId::TrustDomainChar),
    );
    check(
        |e| e.federates_with = vec!["a".into(); MAX_FEDERATES_WITH + 1],
        InvalidEntry::FederatesWithTooMany,
    );
    check(
        |e| e.dns_names[1] = "a.".into(),
        InvalidEntry::DnsName {
            name: "a.".into(),
            why: InvalidDnsName::EmptyLabel,
        },
    );
    check(
        |e| e.dns_names = vec!["a".into(); MAX_DNS_NAMES + 1],
        InvalidEntry::DnsNamesTooMany,
    );
    check(|e| e.expires_at = -1, InvalidEntry::ExpiresAt);
    check(
        |e| e.hint = "h".repeat(MAX_HINT_LEN + 1),
        InvalidEntry::Hint,
    );
    check(|e| e.revision_number = -1, InvalidEntry::RevisionNumber);
    check(|e| e.created_at = -1, InvalidEntry::CreatedAt);
    check(
        |e| e.selectors.push(wire_selector("docker", "label:x")),
        InvalidEntry::StoreSvidSelectors,
    );
    check(
        |e| {
            e.additional_attributes
                .as_mut()
                .unwrap()
                .disable_x509_svid_prefetch = true;
        },
        InvalidEntry::StoreSvidPrefetch,
    );
}

#[test]
fn repetitions_are_told_apart_from_malformed_entries() {
    let mut entry = wire();
    entry.selectors.push(wire_selector("unix", "uid:1"));
    assert!(Entry::try_from(entry).unwrap_err().is_repetition());
    let mut entry = wire();
    entry.dns_names.push("coder.td".into());
    assert!(Entry::try_from(entry).unwrap_err().is_repetition());
    assert!(!InvalidEntry::Hint.is_repetition());
}

#[test]
fn a_mask_keeps_what_it_names_and_the_id() {
    assert_eq!(masked(wire(), None), wire());
    let bare = types::Entry {
        id: "entry-1".into(),
        ..Default::default()
    };
    assert_eq!(masked(wire(), Some(&types::EntryMask::default())), bare);
    let mask = types::EntryMask {
        hint: true,
        selectors: true,
        ..Default::default()
    };
    let want = types::Entry {
        hint: "main".into(),
        selectors: wire().selectors,
        ..bare
    };
    assert_eq!(masked(wire(), Some(&mask)), want);
    assert_eq!(masked(wire(), Some(&everything())), wire());
}

fn updated(
    new: types::Entry,
    mask: Option<&types::EntryMask>,
) -> Result<types::Entry, InvalidEntry> {
    let old = Entry::try_from(wire()).unwrap();
    let entry = EntryUpdate::new(new, mask)?.apply(&old)?;
    Ok(types::Entry::from(&entry))
}

#[test]
fn an_update_changes_what_the_mask_names_and_nothing_else() {
    let new = types::Entry {
        id: "other".into(),
        hint: "new".into(),
        // Not named by the mask, and so not looked at.
        x509_svid_ttl: -7,
        revision_number: 99,
        created_at: 99,
        ..Default::default()
    };
    let mask = types::EntryMask {
        hint: true,
        revision_number: true,
        created_at: true,
        ..Default::default()
    };
    let want = types::Entry {
        hint: "new".into(),
        ..wire()
    };
    assert_eq!(updated(new, Some(&mask)), Ok(want));
}

#[test]
fn an_update_without_a_mask_changes_all_but_the_servers_fields() {
    let new = types::Entry {
        id: "other".into(),
        spiffe_id: Some(wire_id("/new")),
        parent_id: Some(wire_id("/parent")),
        selectors: vec![wire_selector("unix", "uid:9")],
        revision_number: 99,
        created_at: 99,
        ..Default::default()
    };
    let want = types::Entry {
        id: "entry-1".into(),
        revision_number: 3,
        created_at: 1_800_000_000,
        ..new.clone()
    };
    assert_eq!(updated(new.clone(), None), Ok(want.clone()));
    assert_eq!(updated(new, Some(&everything())), Ok(want));
}

#[test]
fn an_update_is_checked_against_the_fields_that_stay() {
    let new = types::Entry {
        selectors: vec![wire_selector("unix", "uid:9"), wire_selector("k8s", "ns:a")],
        ..Default::default()
    };
    let mask = types::EntryMask {
        selectors: true,
        ..Default::default()
    };
    // Two types are valid in themselves; the entry that stores its SVID can't have them.
    assert!(EntryUpdate::new(new.clone(), Some(&mask)).is_ok());
    assert_eq!(
        updated(new, Some(&mask)),
        Err(InvalidEntry::StoreSvidSelectors)
    );
}

fn everything() -> types::EntryMask {
    types::EntryMask {
        spiffe_id: true,
        parent_id: true,
        selectors: true,
        x509_svid_ttl: true,
        federates_with: true,
        admin: true,
        downstream: true,
        expires_at: true,
        dns_names: true,
        revision_number: true,
        store_svid: true,
        jwt_svid_ttl: true,
        hint: true,
        created_at: true,
        additional_attributes: true,
    }
}
