//! The `federation` section: the bundle endpoint, and the relationships with foreign trust domains.

use std::net::IpAddr;
use std::time::Duration;

use countersign_config::Section;
use countersign_identity::federation::{EndpointProfile, EndpointUrl, Relationship};
use countersign_identity::{SpiffeId, TrustDomain};

use crate::federation::{
    CertificateFiles, EndpointCertificate, EndpointSettings, FederationSettings,
};

const DEFAULT_REFRESH_HINT: Duration = Duration::from_secs(5 * 60);
const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// The files are read once a second at most.
const LEAST_SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// SPIRE's smallest hint.
const LEAST_REFRESH_HINT: Duration = Duration::from_secs(1);
/// A longer time is a mistake in the unit.
const MOST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Reads the section; faults are noted on it.
pub(super) fn settings(server: &Section<'_>) -> FederationSettings {
    let section = server.section("federation");
    let own = server.string("trust_domain");
    let relationships = section
        .named("federates_with")
        .iter()
        .filter_map(|(name, section)| relationship(name, section, own.as_deref()))
        .collect();
    FederationSettings {
        endpoint: endpoint(&section.section("bundle_endpoint")),
        relationships,
    }
}

fn endpoint(section: &Section<'_>) -> Option<EndpointSettings> {
    if !section.is_present() {
        return None;
    }
    section.require(&["port"]);
    let address = section
        .parsed("address", str::parse::<IpAddr>)
        .unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let refresh_hint = section
        .duration("refresh_hint", LEAST_REFRESH_HINT..=MOST)
        .unwrap_or(DEFAULT_REFRESH_HINT);
    let port = section.port("port");
    let certificate = certificate(&section.section("profile"));
    Some(EndpointSettings {
        address,
        port: port?,
        refresh_hint,
        certificate: certificate?,
    })
}

fn certificate(profiles: &Section<'_>) -> Option<EndpointCertificate> {
    let (spiffe, web) = (
        profiles.section("https_spiffe"),
        profiles.section("https_web"),
    );
    match (spiffe.is_present(), web.is_present()) {
        (true, true) => {
            web.wrong_here("a bundle endpoint has one profile: remove https_spiffe or https_web");
            None
        }
        (_, false) => Some(EndpointCertificate::Svid),
        (false, true) => {
            let file = web.section("serving_cert_file");
            if !file.is_present() {
                web.wrong_here("serving_cert_file is required");
                return None;
            }
            file.require(&["cert_file_path", "key_file_path"]);
            let sync_interval = file
                .duration("file_sync_interval", LEAST_SYNC_INTERVAL..=MOST)
                .unwrap_or(DEFAULT_SYNC_INTERVAL);
            Some(EndpointCertificate::File(CertificateFiles {
                chain: file.path("cert_file_path")?,
                key: file.path("key_file_path")?,
                sync_interval,
            }))
        }
    }
}

fn relationship(name: &str, section: &Section<'_>, own: Option<&str>) -> Option<Relationship> {
    let trust_domain = match TrustDomain::from_name_or_id(name) {
        Ok(td) => Some(td),
        Err(error) => {
            section.wrong_here(format!("{name:?} is no trust domain: {error}"));
            None
        }
    };
    let own = own.and_then(|own| TrustDomain::from_name_or_id(own).ok());
    if trust_domain.is_some() && trust_domain == own {
        section.wrong_here("a trust domain can't federate with itself");
        return None;
    }
    section.require(&["bundle_endpoint_url"]);
    let url = section.parsed("bundle_endpoint_url", EndpointUrl::parse);
    let profile = profile(section);
    Some(Relationship {
        trust_domain: trust_domain?,
        url: url?,
        profile: profile?,
    })
}

fn profile(section: &Section<'_>) -> Option<EndpointProfile> {
    let profiles = section.section("bundle_endpoint_profile");
    let (spiffe, web) = (
        profiles.section("https_spiffe"),
        profiles.section("https_web"),
    );
    match (spiffe.is_present(), web.is_present()) {
        (true, false) => {
            spiffe.require(&["endpoint_spiffe_id"]);
            let id = spiffe.parsed("endpoint_spiffe_id", SpiffeId::parse)?;
            Some(EndpointProfile::Spiffe(id))
        }
        (false, true) => Some(EndpointProfile::Web),
        _ => {
            section.wrong_here(
                "one profile is required: bundle_endpoint_profile \"https_spiffe\" { endpoint_spiffe_id = \"...\" } or \
                 bundle_endpoint_profile \"https_web\" {}",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, ServerConfig};

    fn read(federation: &str) -> Result<FederationSettings, String> {
        let text = format!(
            "server {{\n trust_domain = \"example.org\"\n data_dir = \"/d\"\n federation {{\n{federation}\n}}\n}}\n\
             plugins {{ KeyManager \"memory\" {{}} NodeAttestor \"join_token\" {{}} }}\n"
        );
        ServerConfig::parse("f", &text, &Overrides::default())
            .map(|(config, _)| config.federation)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_spires_documentation_shows_is_read() {
        let found = read(
            r#"bundle_endpoint {
                address = "127.0.0.1"
                port = 8443
                refresh_hint = "10m"
                profile "https_web" {
                    serving_cert_file {
                        cert_file_path = "cert.pem"
                        key_file_path = "key.pem"
                        file_sync_interval = "30s"
                    }
                }
            }
            federates_with "one.org" {
                bundle_endpoint_url = "https://one.org/bundle"
                bundle_endpoint_profile "https_web" {}
            }
            federates_with "two.org" {
                bundle_endpoint_url = "https://two.org:8443"
                bundle_endpoint_profile "https_spiffe" {
                    endpoint_spiffe_id = "spiffe://two.org/server"
                }
            }"#,
        );
        let relationship = |td: &str, url: &str, profile| Relationship {
            trust_domain: TrustDomain::new(td).unwrap(),
            url: EndpointUrl::parse(url).unwrap(),
            profile,
        };
        let id = SpiffeId::parse("spiffe://two.org/server").unwrap();
        let want = FederationSettings {
            endpoint: Some(EndpointSettings {
                address: IpAddr::from([127, 0, 0, 1]),
                port: 8443,
                refresh_hint: Duration::from_secs(600),
                certificate: EndpointCertificate::File(CertificateFiles {
                    chain: "cert.pem".into(),
                    key: "key.pem".into(),
                    sync_interval: Duration::from_secs(30),
                }),
            }),
            relationships: vec![
                relationship("one.org", "https://one.org/bundle", EndpointProfile::Web),
                relationship(
                    "two.org",
                    "https://two.org:8443",
                    EndpointProfile::Spiffe(id),
                ),
            ],
        };
        assert_eq!(found, Ok(want));
    }

    #[test]
    fn the_bundle_endpoint_is_off_by_default_and_has_defaults() {
        let endpoint = read("bundle_endpoint { port = 1 }")
            .unwrap()
            .endpoint
            .unwrap();
        let want = EndpointSettings {
            address: IpAddr::from([0, 0, 0, 0]),
            port: 1,
            refresh_hint: Duration::from_secs(300),
            certificate: EndpointCertificate::Svid,
        };
        assert_eq!(endpoint, want);
        assert_eq!(read(""), Ok(FederationSettings::default()));
    }

    #[test]
    fn each_mistake_is_reported() {
        let spiffe = "bundle_endpoint_profile \"https_spiffe\"";
        for (text, why) in [
            ("bundle_endpoint {}", "port is required"),
            ("bundle_endpoint { port = 1 address = \"x\" }", "address"),
            (
                "bundle_endpoint { port = 1\n profile \"https_web\" {} }",
                "serving_cert_file is required",
            ),
            (
                "bundle_endpoint { port = 1\n profile \"https_web\" {}\n profile \"https_spiffe\" {} }",
                "one profile",
            ),
            ("federates_with \"Bad\" {}", "is no trust domain"),
            ("federates_with \"example.org\" {}", "with itself"),
            (
                "federates_with \"a.org\" {}",
                "bundle_endpoint_url is required",
            ),
            ("federates_with \"a.org\" {}", "one profile is required"),
            (
                &format!("federates_with \"a.org\" {{ {spiffe} {{}} }}"),
                "endpoint_spiffe_id is required",
            ),
            (
                "federates_with \"a.org\" { bundle_endpoint_url = \"http://a.org\" }",
                "must use the https scheme",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
