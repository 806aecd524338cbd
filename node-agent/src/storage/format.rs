//! The state file: JSON with PEM in it, so that `openssl x509` can be pointed at its parts.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_identity::bundle::{JwtAuthority, X509Authority};
use countersign_identity::{Bundle, PrivateKey, TrustDomain, UnixTime, X509Svid};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{NodeIdentity, State};
use crate::pem;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u32,
    trust_domain: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<BundlePart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    svid: Option<SvidPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    renewed_svid: Option<SvidPart>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BundlePart {
    sequence_number: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_hint_seconds: Option<u64>,
    x509_authorities: Vec<AuthorityPart>,
    /// Earlier files have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    jwt_authorities: Vec<JwtAuthorityPart>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JwtAuthorityPart {
    key_id: String,
    public_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    tainted: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorityPart {
    tainted: bool,
    certificate: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SvidPart {
    reattestable: bool,
    chain: String,
    key: Secret,
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

/// The state as it stands in the file.
#[must_use]
pub fn write(state: &State) -> Zeroizing<Vec<u8>> {
    let file = StateFile {
        version: VERSION,
        trust_domain: state.trust_domain.to_string(),
        bundle: state.bundle.as_ref().map(bundle_part),
        svid: state.in_use.as_ref().map(svid_part),
        renewed_svid: state.renewed.as_ref().map(svid_part),
    };
    // Strings and numbers alone: there is nothing that could fail to be JSON.
    Zeroizing::new(serde_json::to_vec_pretty(&file).unwrap_or_default())
}

/// Reads what [`write()`] wrote; anything else is refused whole.
///
/// # Errors
/// What is wrong with it. No secret stands in that.
pub fn read(text: &[u8]) -> Result<State, String> {
    // The error of serde_json names line and column and, with strings of ours only, no secret.
    let file: StateFile = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    if file.version != VERSION {
        return Err(format!(
            "version {} is not one that this program knows",
            file.version
        ));
    }
    let trust_domain =
        TrustDomain::new(&file.trust_domain).map_err(|e| format!("trust_domain: {e}"))?;
    let bundle = file
        .bundle
        .map(|part| bundle(part, &trust_domain))
        .transpose()?;
    let in_use = file
        .svid
        .map(|part| identity(&part, &trust_domain))
        .transpose()?;
    let renewed = file
        .renewed_svid
        .map(|part| identity(&part, &trust_domain))
        .transpose()?;
    Ok(State {
        trust_domain,
        bundle,
        in_use,
        renewed,
    })
}

fn bundle_part(bundle: &Bundle) -> BundlePart {
    let authority = |a: &X509Authority| AuthorityPart {
        tainted: a.is_tainted(),
        certificate: pem::certificates([a.der()]),
    };
    let jwt = |a: &JwtAuthority| JwtAuthorityPart {
        key_id: a.key_id.clone(),
        public_key: STANDARD.encode(&a.public_key),
        expires_at: a.expires_at.map(UnixTime::as_secs),
        tainted: a.tainted,
    };
    BundlePart {
        sequence_number: bundle.sequence_number,
        refresh_hint_seconds: bundle.refresh_hint.map(|hint| hint.as_secs()),
        x509_authorities: bundle.x509_authorities.iter().map(authority).collect(),
        jwt_authorities: bundle.jwt_authorities.iter().map(jwt).collect(),
    }
}

fn bundle(part: BundlePart, trust_domain: &TrustDomain) -> Result<Bundle, String> {
    let mut bundle = Bundle::empty(trust_domain.clone());
    bundle.sequence_number = part.sequence_number;
    bundle.refresh_hint = part.refresh_hint_seconds.map(Duration::from_secs);
    for part in part.jwt_authorities {
        let public_key = STANDARD.decode(&part.public_key);
        bundle.jwt_authorities.push(JwtAuthority {
            key_id: part.key_id,
            public_key: public_key.map_err(|e| format!("JWT authority: {e}"))?,
            expires_at: part.expires_at.map(UnixTime::from_secs),
            tainted: part.tainted,
        });
    }
    for AuthorityPart {
        tainted,
        certificate,
    } in part.x509_authorities
    {
        for der in pem::read_certificates(certificate.as_bytes())? {
            let authority = X509Authority::new(der).map_err(|e| format!("bundle: {e}"))?;
            bundle
                .x509_authorities
                .push(authority.with_tainted(tainted));
        }
    }
    Ok(bundle)
}

fn svid_part(identity: &NodeIdentity) -> SvidPart {
    SvidPart {
        reattestable: identity.reattestable,
        chain: pem::certificates(identity.svid.chain()),
        key: Secret(pem::private_key(&identity.svid.key().to_pkcs8())),
    }
}

fn identity(part: &SvidPart, trust_domain: &TrustDomain) -> Result<NodeIdentity, String> {
    let chain = pem::read_certificates(part.chain.as_bytes())?;
    let key = pem::read_private_key(part.key.0.as_bytes())?;
    let key = PrivateKey::from_pkcs8(&key).map_err(|e| e.to_string())?;
    let svid = X509Svid::new(chain, key).map_err(|e| e.to_string())?;
    if !svid.id().is_member_of(trust_domain) || !svid.id().is_agent() {
        return Err(format!(
            "{} is not the ID of a node agent of {trust_domain}",
            svid.id()
        ));
    }
    Ok(NodeIdentity {
        svid,
        reattestable: part.reattestable,
    })
}
