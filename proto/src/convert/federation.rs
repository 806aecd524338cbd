//! Relationships with foreign trust domains.

use countersign_identity::federation::{EndpointProfile, EndpointUrl, InvalidUrl, Relationship};
use countersign_identity::spiffe_id::InvalidId;
use countersign_identity::{Bundle, SpiffeId, TrustDomain};

use super::bundle::InvalidBundle;
use crate::spire::api::types;
use crate::spire::api::types::federation_relationship::BundleEndpointProfile;

/// Why a message is no relationship.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRelationship {
    /// The trust domain.
    #[error("failed to parse trust domain: {0}")]
    TrustDomain(InvalidId),
    /// The URL.
    #[error("{0}")]
    Url(#[from] InvalidUrl),
    /// No profile.
    #[error("unsupported bundle endpoint profile type: a profile is required")]
    Profile,
    /// The endpoint's SPIFFE ID.
    #[error("failed to parse endpoint SPIFFE ID: {0}")]
    EndpointId(InvalidId),
    /// The bundle.
    #[error("failed to parse bundle: {0}")]
    Bundle(#[from] InvalidBundle),
    /// The bundle is another trust domain's.
    #[error(
        "trust domain bundle ({0:?}) must match the trust domain of the federation relationship ({1:?})"
    )]
    BundleOfAnother(String, String),
}

/// Reads a relationship, and the bundle that came with it.
///
/// # Errors
/// The part that makes no sense.
pub fn relationship(
    message: types::FederationRelationship,
) -> Result<(Relationship, Option<Bundle>), InvalidRelationship> {
    let types::FederationRelationship {
        trust_domain,
        bundle_endpoint_url,
        bundle_endpoint_profile,
        trust_domain_bundle,
    } = message;
    let trust_domain =
        TrustDomain::from_name_or_id(&trust_domain).map_err(InvalidRelationship::TrustDomain)?;
    let url = EndpointUrl::parse(&bundle_endpoint_url)?;
    let profile = match bundle_endpoint_profile.ok_or(InvalidRelationship::Profile)? {
        BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {}) => EndpointProfile::Web,
        BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile { endpoint_spiffe_id }) => {
            let id =
                SpiffeId::parse(&endpoint_spiffe_id).map_err(InvalidRelationship::EndpointId)?;
            EndpointProfile::Spiffe(id)
        }
    };
    let bundle = trust_domain_bundle.map(Bundle::try_from).transpose()?;
    if let Some(bundle) = &bundle
        && bundle.trust_domain != trust_domain
    {
        return Err(InvalidRelationship::BundleOfAnother(
            bundle.trust_domain.to_string(),
            trust_domain.to_string(),
        ));
    }
    let relationship = Relationship {
        trust_domain,
        url,
        profile,
    };
    Ok((relationship, bundle))
}

/// The message, with the fields that are asked for and the trust domain; all of them if there is no mask.
#[must_use]
pub fn masked(
    relationship: &Relationship,
    bundle: Option<&Bundle>,
    mask: Option<&types::FederationRelationshipMask>,
) -> types::FederationRelationship {
    let types::FederationRelationshipMask {
        bundle_endpoint_url,
        bundle_endpoint_profile,
        trust_domain_bundle,
    } = mask.copied().unwrap_or(types::FederationRelationshipMask {
        bundle_endpoint_url: true,
        bundle_endpoint_profile: true,
        trust_domain_bundle: true,
    });
    let Relationship {
        trust_domain,
        url,
        profile,
    } = relationship;
    let profile = match profile {
        EndpointProfile::Web => BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {}),
        EndpointProfile::Spiffe(id) => {
            BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile {
                endpoint_spiffe_id: id.to_string(),
            })
        }
    };
    types::FederationRelationship {
        trust_domain: trust_domain.to_string(),
        bundle_endpoint_url: if bundle_endpoint_url {
            url.to_string()
        } else {
            String::new()
        },
        bundle_endpoint_profile: bundle_endpoint_profile.then_some(profile),
        trust_domain_bundle: bundle.filter(|_| trust_domain_bundle).map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> types::FederationRelationship {
        types::FederationRelationship {
            trust_domain: "other".into(),
            bundle_endpoint_url: "https://other.test:8443".into(),
            bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(
                types::HttpsspiffeProfile {
                    endpoint_spiffe_id: "spiffe://other/spire/server".into(),
                },
            )),
            trust_domain_bundle: Some(types::Bundle {
                trust_domain: "other".into(),
                refresh_hint: 5,
                ..types::Bundle::default()
            }),
        }
    }

    #[test]
    fn a_relationship_survives_the_wire() {
        let web = types::FederationRelationship {
            bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsWeb(
                types::HttpsWebProfile {},
            )),
            trust_domain_bundle: None,
            ..wire()
        };
        for message in [wire(), web] {
            let (read, bundle) = relationship(message.clone()).unwrap();
            assert_eq!(masked(&read, bundle.as_ref(), None), message);
        }
    }

    #[test]
    fn a_mask_keeps_what_it_names_and_the_trust_domain() {
        let (read, bundle) = relationship(wire()).unwrap();
        let masked = |mask| masked(&read, bundle.as_ref(), Some(&mask));
        let bare = types::FederationRelationship {
            trust_domain: "other".into(),
            ..Default::default()
        };
        let none = types::FederationRelationshipMask::default();
        assert_eq!(masked(none), bare);
        let url = types::FederationRelationshipMask {
            bundle_endpoint_url: true,
            ..none
        };
        let want = types::FederationRelationship {
            bundle_endpoint_url: wire().bundle_endpoint_url,
            ..bare
        };
        assert_eq!(masked(url), want);
    }

    #[test]
    fn each_bad_part_is_refused() {
        let refused = |corrupt: fn(&mut types::FederationRelationship)| {
            let mut message = wire();
            corrupt(&mut message);
            relationship(message).unwrap_err()
        };
        assert!(matches!(
            refused(|r| r.trust_domain.clear()),
            InvalidRelationship::TrustDomain(_)
        ));
        assert_eq!(
            refused(|r| r.bundle_endpoint_url = "http://x".into()),
            InvalidRelationship::Url(InvalidUrl::Scheme)
        );
        assert_eq!(
            refused(|r| r.bundle_endpoint_profile = None),
            InvalidRelationship::Profile
        );
        assert!(matches!(
            refused(|r| {
                let profile = types::HttpsspiffeProfile::default();
                r.bundle_endpoint_profile = Some(BundleEndpointProfile::HttpsSpiffe(profile));
            }),
            InvalidRelationship::EndpointId(_)
        ));
        assert_eq!(
            refused(|r| r.trust_domain_bundle.as_mut().unwrap().refresh_hint = -1),
            InvalidRelationship::Bundle(InvalidBundle::RefreshHint)
        );
        assert_eq!(
            refused(|r| r.trust_domain_bundle.as_mut().unwrap().trust_domain = "x".into()),
            InvalidRelationship::BundleOfAnother("x".into(), "other".into())
        );
    }
}
