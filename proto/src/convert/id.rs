//! SPIFFE IDs.

use countersign_identity::spiffe_id::InvalidId;
use countersign_identity::{SpiffeId, TrustDomain};

use crate::spire::api::types;

impl TryFrom<types::Spiffeid> for SpiffeId {
    type Error = InvalidId;

    /// The trust domain may also be given as `spiffe://name`, as SPIRE accepts it.
    fn try_from(id: types::Spiffeid) -> Result<Self, InvalidId> {
        let types::Spiffeid { trust_domain, path } = id;
        TrustDomain::from_name_or_id(&trust_domain)?.id_with_path(&path)
    }
}

impl From<&SpiffeId> for types::Spiffeid {
    fn from(id: &SpiffeId) -> Self {
        Self {
            trust_domain: id.trust_domain_name().to_owned(),
            path: id.path().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(trust_domain: &str, path: &str) -> types::Spiffeid {
        types::Spiffeid {
            trust_domain: trust_domain.into(),
            path: path.into(),
        }
    }

    #[test]
    fn an_id_survives_the_wire() {
        let id = SpiffeId::parse("spiffe://td/a/b").unwrap();
        assert_eq!(types::Spiffeid::from(&id), wire("td", "/a/b"));
        assert_eq!(SpiffeId::try_from(wire("td", "/a/b")), Ok(id.clone()));
        assert_eq!(SpiffeId::try_from(wire("spiffe://td", "/a/b")), Ok(id));
    }

    #[test]
    fn each_bad_part_is_refused() {
        assert_eq!(
            SpiffeId::try_from(wire("", "/a")),
            Err(InvalidId::TrustDomainMissing)
        );
        assert_eq!(
            SpiffeId::try_from(wire("TD", "/a")),
            Err(InvalidId::TrustDomainChar)
        );
        assert_eq!(
            SpiffeId::try_from(wire("td", "a")),
            Err(InvalidId::PathLeadingSlash)
        );
        assert_eq!(
            SpiffeId::try_from(wire("td", "/a/")),
            Err(InvalidId::PathTrailingSlash)
        );
    }
}
