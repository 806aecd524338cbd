//! The state file: JSON with PEM in it, so that `openssl x509` can be pointed at its parts.

use countersign_identity::bundle::X509Authority;
use countersign_identity::{Bundle, PrivateKey, TrustDomain, X509Svid};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::document::{self, InvalidContent, JwtAuthorityPart, Secret};
use super::{NodeIdentity, NodeState};
use crate::pem;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u32,
    trust_domain: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<StateBundle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    svid: Option<NodeSvid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    renewed_svid: Option<NodeSvid>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateBundle {
    sequence_number: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_hint_seconds: Option<u64>,
    x509_authorities: Vec<PemAuthority>,
    /// Earlier files have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    jwt_authorities: Vec<JwtAuthorityPart>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PemAuthority {
    tainted: bool,
    certificate: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeSvid {
    reattestable: bool,
    chain: String,
    key: Secret,
}

/// The state as it stands in the file.
#[must_use]
pub fn write(state: &NodeState) -> Zeroizing<Vec<u8>> {
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
pub fn read(text: &[u8]) -> Result<NodeState, InvalidContent> {
    let file: StateFile = serde_json::from_slice(text)?;
    if file.version != VERSION {
        return Err(InvalidContent::Version(file.version));
    }
    let trust_domain =
        TrustDomain::new(&file.trust_domain).map_err(InvalidContent::of("trust_domain"))?;
    let identity =
        |part: Option<NodeSvid>| part.map(|part| identity(&part, &trust_domain)).transpose();
    Ok(NodeState {
        in_use: identity(file.svid)?,
        renewed: identity(file.renewed_svid)?,
        bundle: file
            .bundle
            .map(|part| bundle(part, &trust_domain))
            .transpose()?,
        trust_domain,
    })
}

fn bundle_part(bundle: &Bundle) -> StateBundle {
    let authority = |a: &X509Authority| PemAuthority {
        tainted: a.is_tainted(),
        certificate: pem::certificates([a.der()]),
    };
    StateBundle {
        sequence_number: bundle.sequence_number,
        refresh_hint_seconds: bundle.refresh_hint.map(|hint| hint.as_secs()),
        x509_authorities: bundle.x509_authorities.iter().map(authority).collect(),
        jwt_authorities: bundle.jwt_authorities.iter().map(Into::into).collect(),
    }
}

fn bundle(part: StateBundle, trust_domain: &TrustDomain) -> Result<Bundle, InvalidContent> {
    let mut x509 = Vec::new();
    for PemAuthority {
        tainted,
        certificate,
    } in part.x509_authorities
    {
        let ders = pem::read_certificates(certificate.as_bytes());
        let ders = ders.map_err(InvalidContent::of("bundle"))?;
        x509.extend(ders.into_iter().map(|der| Ok((der, tainted))));
    }
    document::bundle(
        Bundle::empty(trust_domain.clone()),
        part.sequence_number,
        part.refresh_hint_seconds,
        x509,
        part.jwt_authorities,
    )
}

fn svid_part(identity: &NodeIdentity) -> NodeSvid {
    NodeSvid {
        reattestable: identity.reattestable,
        chain: pem::certificates(identity.svid.chain()),
        key: Secret(pem::private_key(&identity.svid.key().to_pkcs8())),
    }
}

fn identity(part: &NodeSvid, trust_domain: &TrustDomain) -> Result<NodeIdentity, InvalidContent> {
    let chain = pem::read_certificates(part.chain.as_bytes());
    let chain = chain.map_err(InvalidContent::of("chain"))?;
    let key = pem::read_private_key(part.key.0.as_bytes()).map_err(InvalidContent::of("key"))?;
    let key = PrivateKey::from_pkcs8(&key).map_err(InvalidContent::of("key"))?;
    let svid = X509Svid::new(chain, key).map_err(InvalidContent::of("SVID"))?;
    if !svid.id().is_member_of(trust_domain) || !svid.id().is_agent() {
        return Err(InvalidContent::Inconsistent(format!(
            "{} is not the ID of a node agent of {trust_domain}",
            svid.id()
        )));
    }
    Ok(NodeIdentity {
        svid,
        reattestable: part.reattestable,
    })
}
