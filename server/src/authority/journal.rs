//! What a server writes down about its authorities: the row `ca/<server id>`.
//!
//! The journal names keys, it never holds them. It is committed together with the bundle, so that whatever the server
//! signs with was published, and it is checked against the key manager at the start.

use countersign_identity::UnixTime;
use countersign_proto::store::v1 as stored;
use rustls_pki_types::CertificateDer;
use tracing::warn;

use super::schedule::Validity;
use crate::keymanager::KeyName;

/// Where an authority stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotStatus {
    /// In the bundle, and not used yet.
    Prepared,
    /// Signs.
    Active,
    /// Signed before; stays in the bundle for what it signed.
    Old,
}

/// One authority: its key's name and its self-signed certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Where it stands.
    pub status: SlotStatus,
    /// The key's name in the key manager.
    pub key: KeyName,
    /// The root certificate.
    pub certificate: CertificateDer<'static>,
    /// The certificate's validity.
    pub validity: Validity,
}

/// The two slots of one server, in no particular order; an empty journal is that of a first start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// At most one is active; at most one other is prepared or old.
    pub slots: Vec<Slot>,
}

impl Journal {
    /// The authority that signs.
    #[must_use]
    pub fn active(&self) -> Option<&Slot> {
        self.slots.iter().find(|s| s.status == SlotStatus::Active)
    }

    /// The authority that was published to be the next.
    #[must_use]
    pub fn prepared(&self) -> Option<&Slot> {
        self.slots.iter().find(|s| s.status == SlotStatus::Prepared)
    }

    /// Whether a slot uses this key.
    #[must_use]
    pub fn names(&self, key: &KeyName) -> bool {
        self.slots.iter().any(|slot| slot.key == *key)
    }

    /// With this authority as the next one; what held the other slot is left out.
    #[must_use]
    pub fn with_prepared(&self, prepared: Slot) -> Self {
        Self {
            slots: self
                .active()
                .cloned()
                .into_iter()
                .chain([prepared])
                .collect(),
        }
    }

    /// With the prepared authority active and the active one old. Without a prepared one, nothing changes.
    #[must_use]
    pub fn with_activated(&self) -> Self {
        let Some(prepared) = self.prepared() else {
            return self.clone();
        };
        let old = self.active().map(|slot| Slot {
            status: SlotStatus::Old,
            ..slot.clone()
        });
        let active = Slot {
            status: SlotStatus::Active,
            ..prepared.clone()
        };
        Self {
            slots: [Some(active), old].into_iter().flatten().collect(),
        }
    }

    /// Reads a stored journal. A slot that can't be read is told in the log and left out: a new authority takes its place.
    #[must_use]
    pub fn from_stored(stored: &stored::Journal) -> Self {
        let mut slots = Vec::with_capacity(stored.x509.len());
        for slot in &stored.x509 {
            match read_slot(slot) {
                Ok(slot) => slots.push(slot),
                Err(reason) => warn!(
                    key = slot.key_name,
                    reason, "Leaving out an authority that the journal can't explain"
                ),
            }
        }
        Self { slots }
    }

    /// As it is stored.
    #[must_use]
    pub fn to_stored(&self) -> stored::Journal {
        stored::Journal {
            x509: self.slots.iter().map(write_slot).collect(),
            jwt: Vec::new(),
        }
    }
}

fn write_slot(slot: &Slot) -> stored::journal::X509Slot {
    let status = match slot.status {
        SlotStatus::Prepared => stored::journal::Status::Prepared,
        SlotStatus::Active => stored::journal::Status::Active,
        SlotStatus::Old => stored::journal::Status::Old,
    };
    stored::journal::X509Slot {
        status: status.into(),
        key_name: slot.key.to_string(),
        chain: vec![slot.certificate.to_vec().into()],
        issued_at: slot.validity.not_before.as_i64(),
        expires_at: slot.validity.not_after.as_i64(),
        tainted: false,
    }
}

fn read_slot(slot: &stored::journal::X509Slot) -> Result<Slot, &'static str> {
    let status = match slot.status() {
        stored::journal::Status::Prepared => SlotStatus::Prepared,
        stored::journal::Status::Active => SlotStatus::Active,
        stored::journal::Status::Old => SlotStatus::Old,
        stored::journal::Status::Unknown => return Err("its status is not known to this version"),
    };
    let certificate = slot.chain.first().ok_or("it has no certificate")?;
    Ok(Slot {
        status,
        key: KeyName::parse(&slot.key_name).ok_or("its key's name is not one of this server's")?,
        certificate: CertificateDer::from(certificate.to_vec()),
        validity: Validity {
            not_before: UnixTime::from_i64(slot.issued_at),
            not_after: UnixTime::from_i64(slot.expires_at),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(status: SlotStatus, secs: u64) -> Slot {
        Slot {
            status,
            key: KeyName::random(),
            certificate: CertificateDer::from(vec![1, 2, 3]),
            validity: Validity {
                not_before: UnixTime::from_secs(secs),
                not_after: UnixTime::from_secs(secs + 60),
            },
        }
    }

    #[test]
    fn authorities_move_from_prepared_to_active_to_old_and_out() {
        let first = Journal::default()
            .with_prepared(slot(SlotStatus::Prepared, 1))
            .with_activated();
        assert_eq!(
            first.active().unwrap().validity.not_before,
            UnixTime::from_secs(1)
        );
        let second = first
            .with_prepared(slot(SlotStatus::Prepared, 2))
            .with_activated();
        assert_eq!(second.slots.len(), 2);
        assert_eq!(
            second.active().unwrap().validity.not_before,
            UnixTime::from_secs(2)
        );
        let third = second.with_prepared(slot(SlotStatus::Prepared, 3));
        let starts: Vec<_> = third
            .slots
            .iter()
            .map(|s| s.validity.not_before.as_secs())
            .collect();
        assert_eq!(starts, [2, 3]);
    }

    #[test]
    fn a_journal_is_read_as_it_was_written() {
        let journal = Journal {
            slots: vec![slot(SlotStatus::Active, 1), slot(SlotStatus::Old, 2)],
        };
        assert_eq!(Journal::from_stored(&journal.to_stored()), journal);
    }

    #[test]
    fn a_slot_that_makes_no_sense_is_left_out() {
        let mut stored = Journal {
            slots: vec![slot(SlotStatus::Active, 1), slot(SlotStatus::Old, 2)],
        }
        .to_stored();
        stored.x509[0].status = 99;
        stored.x509[1].key_name = "../../etc/passwd".into();
        assert_eq!(Journal::from_stored(&stored), Journal::default());
    }
}
