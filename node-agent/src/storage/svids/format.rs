//! What stands in the file, before it is encrypted: JSON, with DER in base64.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_identity::entry::MAX_HINT_LEN;
use countersign_identity::{
    Bundle, EntryId, PrivateKey, Selector, SelectorSet, SpiffeId, TrustDomain, X509Svid,
};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::super::document::{self, InvalidContent, JwtAuthorityPart, Secret};
use crate::entry::{AuthorizedEntry, Delivery};
use crate::limits;
use crate::svid::ServedSvid;

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
    svids: Vec<WorkloadSvid>,
    federated: Vec<ForeignBundle>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkloadSvid {
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
struct ForeignBundle {
    trust_domain: String,
    sequence_number: u64,
    refresh_hint_seconds: Option<u64>,
    x509_authorities: Vec<X509Part>,
    jwt_authorities: Vec<JwtAuthorityPart>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct X509Part {
    certificate: String,
    tainted: bool,
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
    let size: usize = document.svids.iter().map(WorkloadSvid::size).sum();
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 64 * 1024));
    // Strings and numbers alone: there is nothing that could fail to be JSON.
    drop(serde_json::to_writer(&mut *bytes, &document));
    bytes
}

impl WorkloadSvid {
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
pub fn read(bytes: &[u8], trust_domain: &TrustDomain) -> Result<Kept, InvalidContent> {
    let document: Document = serde_json::from_slice(bytes)?;
    if document.svids.len() > limits::SVIDS_ON_DISK {
        return Err(InvalidContent::Inconsistent(format!(
            "more than {} SVIDs",
            limits::SVIDS_ON_DISK
        )));
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

fn svid_part(entry: &AuthorizedEntry, svid: &ServedSvid) -> WorkloadSvid {
    WorkloadSvid {
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
        admin_or_downstream: entry.privileged,
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
    part: &WorkloadSvid,
    trust_domain: &TrustDomain,
) -> Result<(AuthorizedEntry, X509Svid), InvalidContent> {
    let entry = entry(part, trust_domain)?;
    let chain = part
        .chain
        .iter()
        .map(|der| STANDARD.decode(der).map(CertificateDer::from))
        .collect::<Result<Vec<_>, _>>()
        .map_err(InvalidContent::of("chain"))?;
    let key = STANDARD.decode(part.key.0.as_bytes());
    let key = Zeroizing::new(
        key.map_err(|_| InvalidContent::Inconsistent("key: not base64".to_owned()))?,
    );
    let key = PrivateKey::from_pkcs8(&key).map_err(InvalidContent::of("key"))?;
    let svid = X509Svid::new(chain, key).map_err(InvalidContent::of("SVID"))?;
    if *svid.id() != entry.spiffe_id {
        return Err(InvalidContent::Inconsistent(format!(
            "the SVID of entry {} has another SPIFFE ID",
            entry.id
        )));
    }
    Ok((entry, svid))
}

fn entry(
    part: &WorkloadSvid,
    trust_domain: &TrustDomain,
) -> Result<AuthorizedEntry, InvalidContent> {
    let spiffe_id = SpiffeId::parse(&part.spiffe_id).map_err(InvalidContent::of("spiffe_id"))?;
    if !spiffe_id.is_member_of(trust_domain) {
        return Err(InvalidContent::Inconsistent(format!(
            "{spiffe_id} is not of {trust_domain}"
        )));
    }
    let selectors = part.selectors.iter().map(|text| Selector::parse(text));
    let selectors: SelectorSet = selectors
        .collect::<Result<_, _>>()
        .map_err(InvalidContent::of("selector"))?;
    if selectors.iter().next().is_none() {
        return Err(InvalidContent::Inconsistent(
            "an entry without selectors".to_owned(),
        ));
    }
    if part.revision < 0 || part.hint.len() > MAX_HINT_LEN {
        return Err(InvalidContent::Inconsistent(
            "an entry with a bad revision or hint".to_owned(),
        ));
    }
    let federates_with = part.federates_with.iter().map(|td| TrustDomain::new(td));
    Ok(AuthorizedEntry {
        id: EntryId::new(&part.id).map_err(InvalidContent::of("entry ID"))?,
        spiffe_id,
        selectors,
        federates_with: federates_with
            .collect::<Result<_, _>>()
            .map_err(InvalidContent::of("federates_with"))?,
        revision: part.revision,
        created_at: part.created_at,
        hint: part.hint.clone(),
        delivery: if part.on_demand {
            Delivery::OnDemand
        } else {
            Delivery::Prefetched
        },
        privileged: part.admin_or_downstream,
    })
}

fn bundle_part(bundle: &Bundle) -> ForeignBundle {
    let x509 = bundle.x509_authorities.iter().map(|authority| X509Part {
        certificate: STANDARD.encode(authority.der()),
        tainted: authority.is_tainted(),
    });
    ForeignBundle {
        trust_domain: bundle.trust_domain.to_string(),
        sequence_number: bundle.sequence_number,
        refresh_hint_seconds: bundle.refresh_hint.map(|hint| hint.as_secs()),
        x509_authorities: x509.collect(),
        jwt_authorities: bundle.jwt_authorities.iter().map(Into::into).collect(),
    }
}

fn bundle(part: ForeignBundle) -> Result<Bundle, InvalidContent> {
    let td = TrustDomain::new(&part.trust_domain).map_err(InvalidContent::of("trust domain"))?;
    let x509 = part.x509_authorities.into_iter().map(|part| {
        let der = STANDARD.decode(&part.certificate);
        let der = der.map_err(InvalidContent::of("bundle"))?;
        Ok((der.into(), part.tainted))
    });
    document::bundle(
        Bundle::empty(td),
        part.sequence_number,
        part.refresh_hint_seconds,
        x509,
        part.jwt_authorities,
    )
}
