//! Relationships as flags, as files, and as they are printed.

use clap::Args;
use countersign_identity::SpiffeId;
use countersign_proto::spire::api::types;
use countersign_proto::spire::api::types::federation_relationship::BundleEndpointProfile;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::bundle::data::{self, Format};
use crate::error::CommandError;
use crate::input;

const WEB: &str = "https_web";
const SPIFFE: &str = "https_spiffe";

/// One relationship, or a file of them.
#[derive(Debug, Args)]
pub(super) struct RelationshipFlags {
    /// Path to a file containing federation relationships in JSON format. If set to '-', read the JSON from stdin
    #[arg(long, value_name = "PATH")]
    data: Option<String>,
    /// Name of the trust domain to federate with (e.g., example.org)
    #[arg(long = "trustDomain", value_name = "NAME")]
    trust_domain: Option<String>,
    /// URL of the SPIFFE bundle endpoint that provides the trust bundle (must use the HTTPS protocol)
    #[arg(long = "bundleEndpointURL", value_name = "URL")]
    bundle_endpoint_url: Option<String>,
    /// Endpoint profile type (either "https_web" or "https_spiffe")
    #[arg(long = "bundleEndpointProfile", value_name = "PROFILE")]
    bundle_endpoint_profile: Option<String>,
    /// SPIFFE ID of the SPIFFE bundle endpoint server. Only used for the profile https_spiffe
    #[arg(long = "endpointSpiffeID", value_name = "ID")]
    endpoint_spiffe_id: Option<String>,
    /// Path to the trust domain bundle data (optional)
    #[arg(long = "trustDomainBundlePath", value_name = "PATH")]
    trust_domain_bundle_path: Option<String>,
    /// The format of the bundle data (optional)
    #[arg(long = "trustDomainBundleFormat", value_enum, default_value_t = Format::Pem, value_name = "FORMAT")]
    trust_domain_bundle_format: Format,
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "federationRelationships")]
    relationships: Vec<FileRelationship>,
}

/// One relationship of a file; keys that SPIRE ignores are ignored too.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct FileRelationship {
    trust_domain: String,
    #[serde(rename = "bundleEndpointURL", alias = "bundleEndpointUrl")]
    bundle_endpoint_url: String,
    bundle_endpoint_profile: String,
    #[serde(
        rename = "endpointSPIFFEID",
        alias = "endpointSpiffeID",
        alias = "endpointSpiffeId"
    )]
    endpoint_spiffe_id: String,
    /// A text in PEM, or a SPIFFE bundle document as it is.
    trust_domain_bundle: Option<Box<RawValue>>,
    trust_domain_bundle_format: String,
}

/// A relationship whose parts were looked at, but for its bundle.
struct Described {
    relationship: types::FederationRelationship,
    /// Whose bundle belongs to it: the endpoint's, which verifies it.
    bundle_of: String,
}

impl RelationshipFlags {
    /// The relationships that are meant.
    pub(super) fn read(&self) -> Result<Vec<types::FederationRelationship>, CommandError> {
        let text = |flag: &Option<String>| flag.clone().unwrap_or_default();
        if let Some(path) = self.data.as_deref().filter(|path| !path.is_empty()) {
            if self.has_others() {
                return Err(CommandError::usage(
                    "cannot use other flags to specify relationship fields when 'data' flag is set",
                ));
            }
            return from_file(path);
        }
        let described = describe(
            text(&self.trust_domain),
            text(&self.bundle_endpoint_url),
            &text(&self.bundle_endpoint_profile),
            text(&self.endpoint_spiffe_id),
        )?;
        let path = self.trust_domain_bundle_path.as_deref();
        let bundle = match path.filter(|path| !path.is_empty()) {
            Some(path) => {
                let bytes = input::bytes(path).map_err(|e| e.during("cannot read bundle file"))?;
                let format = self.trust_domain_bundle_format;
                let bundle = data::parse(&bytes, format, &described.bundle_of);
                Some(bundle.map_err(|e| e.during("cannot parse bundle file"))?)
            }
            None => None,
        };
        Ok(vec![types::FederationRelationship {
            trust_domain_bundle: bundle,
            ..described.relationship
        }])
    }

    fn has_others(&self) -> bool {
        [
            &self.trust_domain,
            &self.bundle_endpoint_url,
            &self.bundle_endpoint_profile,
            &self.endpoint_spiffe_id,
            &self.trust_domain_bundle_path,
        ]
        .into_iter()
        .flatten()
        .any(|text| !text.is_empty())
            || self.trust_domain_bundle_format != Format::Pem
    }
}

fn from_file(path: &str) -> Result<Vec<types::FederationRelationship>, CommandError> {
    let bytes = input::bytes(path)?;
    let File { relationships } = serde_json::from_slice(&bytes)
        .map_err(|e| input::refused(path, &format!("failed to parse JSON: {e}")))?;
    let read = |(i, relationship)| {
        of_file(relationship).map_err(|e| e.during(format!("could not parse item {i}")))
    };
    relationships.into_iter().enumerate().map(read).collect()
}

fn of_file(file: FileRelationship) -> Result<types::FederationRelationship, CommandError> {
    let FileRelationship {
        trust_domain,
        bundle_endpoint_url,
        bundle_endpoint_profile,
        endpoint_spiffe_id,
        trust_domain_bundle,
        trust_domain_bundle_format,
    } = file;
    let described = describe(
        trust_domain,
        bundle_endpoint_url,
        &bundle_endpoint_profile,
        endpoint_spiffe_id,
    )?;
    let bundle = match &trust_domain_bundle {
        Some(raw) => {
            let bundle = raw_bundle(raw, &trust_domain_bundle_format, &described.bundle_of);
            Some(bundle.map_err(|e| e.during("cannot parse bundle raw message"))?)
        }
        None => None,
    };
    Ok(types::FederationRelationship {
        trust_domain_bundle: bundle,
        ..described.relationship
    })
}

fn raw_bundle(raw: &RawValue, format: &str, td: &str) -> Result<types::Bundle, CommandError> {
    match format {
        "pem" => {
            let pem: String = serde_json::from_str(raw.get())
                .map_err(|e| CommandError::usage(format!("failed to unmarshal json: {e}")))?;
            data::parse(pem.as_bytes(), Format::Pem, td)
        }
        "spiffe" => data::parse(raw.get().as_bytes(), Format::Spiffe, td),
        other => Err(CommandError::usage(format!(
            "bundle format {other:?} is unsupported"
        ))),
    }
}

fn describe(
    trust_domain: String,
    bundle_endpoint_url: String,
    profile: &str,
    endpoint_spiffe_id: String,
) -> Result<Described, CommandError> {
    if trust_domain.is_empty() {
        return Err(CommandError::usage("trust domain is required"));
    }
    if bundle_endpoint_url.is_empty() {
        return Err(CommandError::usage("bundle endpoint URL is required"));
    }
    let (profile, bundle_of) = match profile {
        WEB => (
            BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {}),
            trust_domain.clone(),
        ),
        SPIFFE if endpoint_spiffe_id.is_empty() => {
            return Err(CommandError::usage(
                "endpoint SPIFFE ID is required if 'https_spiffe' endpoint profile is set",
            ));
        }
        SPIFFE => {
            let id = SpiffeId::parse(&endpoint_spiffe_id).map_err(|e| {
                CommandError::usage(format!("cannot parse bundle endpoint SPIFFE ID: {e}"))
            })?;
            let bundle_of = id.trust_domain_name().to_owned();
            let profile = types::HttpsspiffeProfile { endpoint_spiffe_id };
            (BundleEndpointProfile::HttpsSpiffe(profile), bundle_of)
        }
        other => {
            return Err(CommandError::usage(format!(
                "unknown bundle endpoint profile type: {other:?}"
            )));
        }
    };
    Ok(Described {
        relationship: types::FederationRelationship {
            trust_domain,
            bundle_endpoint_url,
            bundle_endpoint_profile: Some(profile),
            trust_domain_bundle: None,
        },
        bundle_of,
    })
}

/// A relationship as people read it.
pub(super) fn print(relationship: &types::FederationRelationship) -> String {
    let types::FederationRelationship {
        trust_domain,
        bundle_endpoint_url,
        bundle_endpoint_profile,
        trust_domain_bundle: _,
    } = relationship;
    let profile = match bundle_endpoint_profile {
        Some(BundleEndpointProfile::HttpsWeb(_)) => {
            format!("Bundle endpoint profile   : {WEB}\n")
        }
        Some(BundleEndpointProfile::HttpsSpiffe(profile)) => format!(
            "Bundle endpoint profile   : {SPIFFE}\nEndpoint SPIFFE ID        : {}\n",
            profile.endpoint_spiffe_id
        ),
        None => String::new(),
    };
    format!(
        "Trust domain              : {trust_domain}\nBundle endpoint URL       : {bundle_endpoint_url}\n{profile}"
    )
}
