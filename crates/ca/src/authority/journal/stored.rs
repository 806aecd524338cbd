//! The journal as it stands in the store.

use countersign_identity::UnixTime;
use countersign_identity::bundle::X509Authority;
use countersign_proto::store::v1 as stored;
use countersign_proto::store::v1::journal::{JwtSlot, Status, X509Slot};
use rustls_pki_types::CertificateDer;
use tracing::warn;

use super::{Journal, Jwt, Slot, SlotStatus, Slots, X509};
use crate::authority::schedule::Validity;
use crate::keymanager::KeyName;

impl Journal {
    /// Reads a stored journal. A slot that can't be read is logged and left out: a new authority takes its place.
    #[must_use]
    pub fn from_stored(journal: &stored::Journal) -> Self {
        let stored::Journal { x509, jwt } = journal;
        Self {
            x509: read(x509.iter().map(|s| (s.key_name.as_str(), read_x509(s)))),
            jwt: read(jwt.iter().map(|s| (s.key_name.as_str(), read_jwt(s)))),
        }
    }

    /// As it is stored.
    #[must_use]
    pub fn to_stored(&self) -> stored::Journal {
        stored::Journal {
            x509: self.x509.iter().map(write_x509).collect(),
            jwt: self.jwt.iter().map(write_jwt).collect(),
        }
    }
}

fn read<'a, A>(slots: impl Iterator<Item = (&'a str, Result<Slot<A>, &'static str>)>) -> Slots<A> {
    let mut read = Slots::default();
    for (key, slot) in slots {
        let left_out = match slot {
            Ok(slot) => {
                let place = match slot.status {
                    SlotStatus::Active => &mut read.active,
                    SlotStatus::Prepared | SlotStatus::Old => &mut read.other,
                };
                place
                    .replace(slot)
                    .map(|_| "another one stands in its place")
            }
            Err(reason) => Some(reason),
        };
        if let Some(reason) = left_out {
            warn!(
                key,
                reason, "Leaving out an authority that the journal can't explain"
            );
        }
    }
    read
}

fn read_x509(slot: &X509Slot) -> Result<Slot<X509>, &'static str> {
    let mut chain = slot
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.to_vec()));
    let certificate = chain.next().ok_or("it has no certificate")?;
    let certificate =
        X509Authority::new(certificate).map_err(|_| "its certificate can't be used")?;
    Ok(Slot {
        status: read_status(slot.status())?,
        key: read_key(&slot.key_name)?,
        validity: read_validity(slot.issued_at, slot.expires_at),
        tainted: slot.tainted,
        authority: X509 {
            certificate,
            issuers: chain.collect(),
        },
    })
}

fn read_jwt(slot: &JwtSlot) -> Result<Slot<Jwt>, &'static str> {
    if slot.key_id.is_empty() {
        return Err("it has no key ID");
    }
    Ok(Slot {
        status: read_status(slot.status())?,
        key: read_key(&slot.key_name)?,
        validity: read_validity(slot.issued_at, slot.expires_at),
        tainted: slot.tainted,
        authority: Jwt {
            key_id: slot.key_id.clone(),
            public_key: slot.public_key.to_vec(),
        },
    })
}

fn read_status(status: Status) -> Result<SlotStatus, &'static str> {
    match status {
        Status::Prepared => Ok(SlotStatus::Prepared),
        Status::Active => Ok(SlotStatus::Active),
        Status::Old => Ok(SlotStatus::Old),
        Status::Unknown => Err("its status is not known to this version"),
    }
}

fn read_key(name: &str) -> Result<KeyName, &'static str> {
    KeyName::parse(name).ok_or("its key's name is not one of this server's")
}

fn read_validity(issued_at: i64, expires_at: i64) -> Validity {
    Validity {
        not_before: UnixTime::from_i64(issued_at),
        not_after: UnixTime::from_i64(expires_at),
    }
}

fn write_status(status: SlotStatus) -> i32 {
    match status {
        SlotStatus::Prepared => Status::Prepared,
        SlotStatus::Active => Status::Active,
        SlotStatus::Old => Status::Old,
    }
    .into()
}

fn write_x509(slot: &Slot<X509>) -> X509Slot {
    let X509 {
        certificate,
        issuers,
    } = &slot.authority;
    let chain = std::iter::once(certificate.der()).chain(issuers);
    X509Slot {
        status: write_status(slot.status),
        key_name: slot.key.to_string(),
        chain: chain.map(|der| der.to_vec().into()).collect(),
        issued_at: slot.validity.not_before.as_i64(),
        expires_at: slot.validity.not_after.as_i64(),
        tainted: slot.tainted,
    }
}

fn write_jwt(slot: &Slot<Jwt>) -> JwtSlot {
    let Jwt { key_id, public_key } = &slot.authority;
    JwtSlot {
        status: write_status(slot.status),
        key_name: slot.key.to_string(),
        key_id: key_id.clone(),
        public_key: public_key.clone().into(),
        issued_at: slot.validity.not_before.as_i64(),
        expires_at: slot.validity.not_after.as_i64(),
        tainted: slot.tainted,
    }
}
