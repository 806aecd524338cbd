//! What stands in the file, before it is encrypted: JSON, with DER in base64.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_identity::bundle::{JwtAuthority, X509Authority};
use countersign_identity::entry::MAX_HINT_LEN;
use countersign_identity::{
    Bundle, EntryId, PrivateKey, Selector, SelectorSet, SpiffeId, TrustDomain, UnixTime, X509Svid,
};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::limits;
use crate::sync::entry::{AuthorizedEntry, Delivery, Privilege};
use crate::sync::snapshot::ServedSvid;

/// What an earlier process kept.
#[derive(Debug, Default)]
pub struct Kept {
    /// Entries with their SVIDs. Whether these are still good is not known here.
    pub svids: Vec<(AuthorizedEntry, X509Svid)>,
    /// The bundles of foreign trust domains.
    pub federated: BTreeMap<TrustDomain, Arc<Bundle>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    svids: Vec<SvidPart>,
    federated: Vec<BundlePart>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SvidPart {
    id: String,
    spiffe_id: String,
    selectors: Vec<String>,
    federates_with: Vec<String>,
    revision: i64,
    created_at: i64,
    hint: String,
    on_demand: bool,
    admin_or_downstream: bool,
    chain: Vec<String>,
    key: Secret,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BundlePart {
    trust_domain: String,
    sequence_number: u64,
    refresh_hint_seconds: Option<u64>,
    x509_authorities: Vec<X509Part>,
    jwt_authorities: Vec<JwtPart>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct X509Part {
    certificate: String,
    tainted: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JwtPart {
    key_id: String,
    public_key: String,
    expires_at: Option<u64>,
    tainted: bool,
}

/// Text that is wiped when it is dropped.
struct Secret(Zeroizing<String>);

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// The document with as many of these SVIDs as there is room for.
pub fn write<'a>(
    svids: impl Iterator<Item = (&'a Arc<AuthorizedEntry>, &'a Arc<ServedSvid>)>,
    federated: impl Iterator<Item = &'a Arc<Bundle>>,
) -> Zeroizing<Vec<u8>> {
    let document = Document {
        svids: svids
            .take(limits::SVIDS_ON_DISK)
            .map(|(entry, svid)| svid_part(entry, svid))
            .collect(),
        federated: federated.map(|bundle| bundle_part(bundle)).collect(),
    };
    // Sized at once: growing would leave copies of keys behind.
    let size: usize = document.svids.iter().map(SvidPart::size).sum();
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 64 * 1024));
    // Strings and numbers alone: there is nothing that could fail to be JSON.
    drop(serde_json::to_writer(&mut *bytes, &document));
    bytes
}

impl SvidPart {
    /// More than it takes.
    fn size(&self) -> usize {
        let texts = self.selectors.iter().chain(&self.chain);
        let texts: usize = texts.chain(&self.federates_with).map(|s| 2 * s.len()).sum();
        texts + 2 * (self.hint.len() + self.spiffe_id.len()) + self.key.0.len() + 512
    }
}

/// Reads what [`write()`] wrote; anything else is refused whole.
///
/// # Errors
/// What is wrong with it. No secret stands in that.
pub fn read(bytes: &[u8], trust_domain: &TrustDomain) -> Result<Kept, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if document.svids.len() > limits::SVIDS_ON_DISK {
        return Err(format!("more than {} SVIDs", limits::SVIDS_ON_DISK));
    }
    let svids = document
        .svids
        .iter()
        .map(|part| svid(part, trust_domain))
        .collect::<Result<_, _>>()?;
    let federated = document
        .federated
        .into_iter()
        .map(|part| bundle(part).map(|b| (b.trust_domain.clone(), Arc::new(b))))
        .collect::<Result<_, _>>()?;
    Ok(Kept { svids, federated })
}

fn svid_part(entry: &AuthorizedEntry, svid: &ServedSvid) -> SvidPart {
    SvidPart {
        id: entry.id.to_string(),
        spiffe_id: entry.spiffe_id.to_string(),
        selectors: entry.selectors.iter().map(ToString::to_string).collect(),
        federates_with: entry
            .federates_with
            .iter()
            .map(ToString::to_string)
            .collect(),
        revision: entry.revision,
        created_at: entry.created_at,
        hint: entry.hint.clone(),
        on_demand: entry.delivery == Delivery::OnDemand,
        admin_or_downstream: entry.is_privileged(),
        chain: svid
            .svid()
            .chain()
            .iter()
            .map(|der| STANDARD.encode(der))
            .collect(),
        key: Secret(Zeroizing::new(STANDARD.encode(svid.key()))),
    }
}

fn svid(
    part: &SvidPart,
    trust_domain: &TrustDomain,
) -> Result<(AuthorizedEntry, X509Svid), String> {
    let entry = entry(part, trust_domain)?;
    let chain = part
        .chain
        .iter()
        .map(|der| STANDARD.decode(der).map(CertificateDer::from))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("chain: {e}"))?;
    let key = STANDARD.decode(part.key.0.as_bytes());
    let key = Zeroizing::new(key.map_err(|_| "key: not base64".to_owned())?);
    let key = PrivateKey::from_pkcs8(&key).map_err(|e| format!("key: {e}"))?;
    let svid = X509Svid::new(chain, key).map_err(|e| format!("SVID: {e}"))?;
    if *svid.id() != entry.spiffe_id {
        return Err(format!("the SVID of entry {} is another's", entry.id));
    }
    Ok((entry, svid))
}

fn entry(part: &SvidPart, trust_domain: &TrustDomain) -> Result<AuthorizedEntry, String> {
    let spiffe_id = SpiffeId::parse(&part.spiffe_id).map_err(|e| format!("spiffe_id: {e}"))?;
    if !spiffe_id.is_member_of(trust_domain) {
        return Err(format!("{spiffe_id} is not of {trust_domain}"));
    }
    let selectors = part.selectors.iter().map(|text| Selector::parse(text));
    let selectors: SelectorSet = selectors
        .collect::<Result<_, _>>()
        .map_err(|e| format!("selector: {e}"))?;
    if selectors.iter().next().is_none() {
        return Err("an entry without selectors".to_owned());
    }
    if part.revision < 0 || part.hint.len() > MAX_HINT_LEN {
        return Err("an entry with a bad revision or hint".to_owned());
    }
    let federates_with = part.federates_with.iter().map(|td| TrustDomain::new(td));
    Ok(AuthorizedEntry {
        id: EntryId::new(&part.id).map_err(|e| format!("entry ID: {e}"))?,
        spiffe_id,
        selectors,
        federates_with: federates_with
            .collect::<Result<_, _>>()
            .map_err(|e| format!("federates_with: {e}"))?,
        revision: part.revision,
        created_at: part.created_at,
        hint: part.hint.clone(),
        delivery: if part.on_demand {
            Delivery::OnDemand
        } else {
            Delivery::Prefetched
        },
        privilege: if part.admin_or_downstream {
            Privilege::AdminOrDownstream
        } else {
            Privilege::None
        },
    })
}

fn bundle_part(bundle: &Bundle) -> BundlePart {
    let x509 = bundle.x509_authorities.iter().map(|authority| X509Part {
        certificate: STANDARD.encode(authority.der()),
        tainted: authority.is_tainted(),
    });
    let jwt = bundle.jwt_authorities.iter().map(|authority| JwtPart {
        key_id: authority.key_id.clone(),
        public_key: STANDARD.encode(&authority.public_key),
        expires_at: authority.expires_at.map(UnixTime::as_secs),
        tainted: authority.tainted,
    });
    BundlePart {
        trust_domain: bundle.trust_domain.to_string(),
        sequence_number: bundle.sequence_number,
        refresh_hint_seconds: bundle.refresh_hint.map(|hint| hint.as_secs()),
        x509_authorities: x509.collect(),
        jwt_authorities: jwt.collect(),
    }
}

fn bundle(part: BundlePart) -> Result<Bundle, String> {
    let td = TrustDomain::new(&part.trust_domain).map_err(|e| format!("trust domain: {e}"))?;
    let mut bundle = Bundle::empty(td);
    bundle.sequence_number = part.sequence_number;
    bundle.refresh_hint = part.refresh_hint_seconds.map(Duration::from_secs);
    for part in part.x509_authorities {
        let der = STANDARD.decode(&part.certificate);
        let der = der.map_err(|e| format!("authority: {e}"))?;
        let authority = X509Authority::new(der.into()).map_err(|e| format!("authority: {e}"))?;
        bundle
            .x509_authorities
            .push(authority.with_tainted(part.tainted));
    }
    for part in part.jwt_authorities {
        let public_key = STANDARD.decode(&part.public_key);
        bundle.jwt_authorities.push(JwtAuthority {
            key_id: part.key_id,
            public_key: public_key.map_err(|e| format!("JWT key: {e}"))?,
            expires_at: part.expires_at.map(UnixTime::from_secs),
            tainted: part.tainted,
        });
    }
    Ok(bundle)
}
