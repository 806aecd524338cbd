//! The slots' ways, and the journal through the store's form and back.

use std::time::Duration;

use countersign_identity::issue::{Subject, self_signed_authority};
use countersign_identity::{KeyType, PrivateKey, TrustDomain};

use super::*;

fn slot<A>(status: SlotStatus, secs: u64, authority: A) -> Slot<A> {
    Slot {
        status,
        key: KeyName::random(),
        validity: Validity {
            not_before: UnixTime::from_secs(secs),
            not_after: UnixTime::from_secs(secs + 60),
        },
        tainted: false,
        authority,
    }
}

fn starts(slots: &Slots<()>) -> Vec<(SlotStatus, u64)> {
    let start = |slot: &Slot<()>| (slot.status, slot.validity.not_before.as_secs());
    slots.iter().map(start).collect()
}

fn x509() -> X509 {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let certificate = self_signed_authority(
        &TrustDomain::new("example.org").unwrap(),
        &Subject::authority(),
        &key,
        Duration::from_secs(60),
        UnixTime::from_secs(1_800_000_000),
    )
    .unwrap();
    X509 {
        certificate: X509Authority::new(certificate).unwrap(),
        issuers: vec![CertificateDer::from(vec![1, 2, 3])],
    }
}

fn journal() -> Journal {
    let jwt = |key_id: &str| Jwt {
        key_id: key_id.into(),
        public_key: vec![4, 5],
    };
    Journal {
        x509: Slots {
            active: Some(slot(SlotStatus::Active, 1, x509())),
            other: Some(Slot {
                tainted: true,
                ..slot(SlotStatus::Old, 2, x509())
            }),
        },
        jwt: Slots {
            active: Some(slot(SlotStatus::Active, 3, jwt("a"))),
            other: Some(slot(SlotStatus::Prepared, 4, jwt("b"))),
        },
    }
}

#[test]
fn authorities_move_from_prepared_to_active_to_old_and_out() {
    use SlotStatus::{Active, Old, Prepared};

    let first = Slots::default()
        .with_prepared(slot(Prepared, 1, ()))
        .with_activated();
    assert_eq!(starts(&first), [(Active, 1)]);
    let second = first.with_prepared(slot(Prepared, 2, ()));
    assert_eq!(starts(&second), [(Active, 1), (Prepared, 2)]);
    let second = second.with_activated();
    assert_eq!(starts(&second), [(Active, 2), (Old, 1)]);
    assert_eq!(second.with_activated(), second);
    let third = second.with_prepared(slot(Prepared, 3, ()));
    assert_eq!(starts(&third), [(Active, 2), (Prepared, 3)]);
    assert_eq!(starts(&third.without_other()), [(Active, 2)]);
}

#[test]
fn a_journal_is_read_as_it_was_written() {
    let journal = journal();
    assert_eq!(Journal::from_stored(&journal.to_stored()), journal);
}

#[test]
fn a_slot_that_makes_no_sense_is_left_out() {
    let mut stored = journal().to_stored();
    stored.x509[0].status = 99;
    stored.x509[1].key_name = "../../etc/passwd".into();
    stored.jwt[0].key_id.clear();
    stored.jwt[1].status = 0;
    assert_eq!(Journal::from_stored(&stored), Journal::default());

    let mut stored = journal().to_stored();
    stored.x509[0].chain.clear();
    stored.x509[1].chain[0] = "no certificate".into();
    assert_eq!(Journal::from_stored(&stored).x509, Slots::default());
}

#[test]
fn of_two_authorities_in_one_place_the_later_one_counts() {
    let mut stored = journal().to_stored();
    stored.jwt[1].status = stored.jwt[0].status;
    let read = Journal::from_stored(&stored).jwt;
    assert_eq!((read.active().unwrap().id(), read.other()), ("b", None));
}
