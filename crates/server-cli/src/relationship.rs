//! Relationships as flags, as files, and as they are printed.

use clap::Args;
use countersign_identity::SpiffeId;
use countersign_identity::spiffe_id::InvalidId;
use countersign_proto::spire::api::types;
use countersign_proto::spire::api::types::federation_relationship::BundleEndpointProfile;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::bundle_data::{self, BundleFormat, InvalidBundleData};
use crate::flag::given;
use crate::input::{self, InputError, InvalidInput};

const WEB: &str = "https_web";
const SPIFFE: &str = "https_spiffe";

/// One relationship, or a file of them.
#[derive(Debug, Args)]
pub(crate) struct RelationshipFlags {
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
    #[arg(long = "trustDomainBundleFormat", value_enum, default_value_t = BundleFormat::Pem, value_name = "FORMAT")]
    trust_domain_bundle_format: BundleFormat,
}

#[derive(Deserialize)]
struct RelationshipsFile {
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

/// Why a relationship can't be meant as it is described.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidRelationship {
    /// A file and other flags.
    #[error("cannot use other flags to specify relationship fields when 'data' flag is set")]
    FileAndFlags,
    /// No trust domain.
    #[error("trust domain is required")]
    NoTrustDomain,
    /// No URL.
    #[error("bundle endpoint URL is required")]
    NoUrl,
    /// No SPIFFE ID, which this profile needs.
    #[error("endpoint SPIFFE ID is required if 'https_spiffe' endpoint profile is set")]
    NoEndpointId,
    /// The endpoint's ID is not a SPIFFE ID.
    #[error("cannot parse bundle endpoint SPIFFE ID")]
    EndpointId(#[from] InvalidId),
    /// There is no such profile.
    #[error("unknown bundle endpoint profile type: {0:?}")]
    Profile(String),
    /// There is no such format.
    #[error("bundle format {0:?} is unsupported")]
    BundleFormat(String),
    /// The bundle in the file is not a string.
    #[error("failed to unmarshal json")]
    BundleText(#[from] serde_json::Error),
    /// The file of relationships can't be used.
    #[error(transparent)]
    File(#[from] InvalidInput),
    /// A relationship of the file, counted from 0.
    #[error("could not parse item {index}")]
    Item {
        /// Its place.
        index: usize,
        /// Why not.
        source: Box<InvalidRelationship>,
    },
    /// The file of the bundle can't be read.
    #[error("cannot read bundle file")]
    BundleFile(#[source] InvalidInput),
    /// The file of the bundle has no bundle.
    #[error("cannot parse bundle file")]
    BundleFileData(#[source] InvalidBundleData),
    /// The bundle in the file of relationships is none.
    #[error("cannot parse bundle raw message")]
    RawBundle(#[source] Box<InvalidRelationship>),
    /// Bundle data can't be read.
    #[error(transparent)]
    BundleData(#[from] InvalidBundleData),
}

/// A relationship whose parts were checked, except for its bundle.
struct Described {
    relationship: types::FederationRelationship,
    /// The trust domain of the bundle: the endpoint's, which the bundle verifies.
    bundle_of: String,
}

impl Described {
    fn with(self, bundle: Option<types::Bundle>) -> types::FederationRelationship {
        types::FederationRelationship {
            trust_domain_bundle: bundle,
            ..self.relationship
        }
    }
}

impl RelationshipFlags {
    /// The relationships that are meant.
    pub(crate) fn read(self) -> Result<Vec<types::FederationRelationship>, InvalidRelationship> {
        if let Some(path) = self.data.as_deref().filter(|path| !path.is_empty()) {
            if self.has_others() {
                return Err(InvalidRelationship::FileAndFlags);
            }
            return from_file(path);
        }
        let described = describe(
            self.trust_domain.unwrap_or_default(),
            self.bundle_endpoint_url.unwrap_or_default(),
            self.bundle_endpoint_profile.unwrap_or_default(),
            self.endpoint_spiffe_id.unwrap_or_default(),
        )?;
        let bundle = match given(self.trust_domain_bundle_path) {
            Some(path) => {
                let bytes = input::bytes(&path).map_err(InvalidRelationship::BundleFile)?;
                let format = self.trust_domain_bundle_format;
                let bundle = bundle_data::parse(&bytes, format, &described.bundle_of);
                Some(bundle.map_err(InvalidRelationship::BundleFileData)?)
            }
            None => None,
        };
        Ok(vec![described.with(bundle)])
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
            || self.trust_domain_bundle_format != BundleFormat::Pem
    }
}

fn from_file(path: &str) -> Result<Vec<types::FederationRelationship>, InvalidRelationship> {
    let bytes = input::bytes(path)?;
    let RelationshipsFile { relationships } = serde_json::from_slice(&bytes)
        .map_err(|error| InputError::Relationships(error).of(path))?;
    let read = |(index, relationship)| {
        of_file(relationship).map_err(|error| InvalidRelationship::Item {
            index,
            source: Box::new(error),
        })
    };
    relationships.into_iter().enumerate().map(read).collect()
}

fn of_file(file: FileRelationship) -> Result<types::FederationRelationship, InvalidRelationship> {
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
        bundle_endpoint_profile,
        endpoint_spiffe_id,
    )?;
    let bundle = match &trust_domain_bundle {
        Some(raw) => {
            let bundle = raw_bundle(raw, trust_domain_bundle_format, &described.bundle_of);
            Some(bundle.map_err(|error| InvalidRelationship::RawBundle(Box::new(error)))?)
        }
        None => None,
    };
    Ok(described.with(bundle))
}

fn raw_bundle(
    raw: &RawValue,
    format: String,
    td: &str,
) -> Result<types::Bundle, InvalidRelationship> {
    match format.as_str() {
        "pem" => {
            let pem: String = serde_json::from_str(raw.get())?;
            Ok(bundle_data::parse(pem.as_bytes(), BundleFormat::Pem, td)?)
        }
        "spiffe" => Ok(bundle_data::parse(
            raw.get().as_bytes(),
            BundleFormat::Spiffe,
            td,
        )?),
        _ => Err(InvalidRelationship::BundleFormat(format)),
    }
}

fn describe(
    trust_domain: String,
    bundle_endpoint_url: String,
    profile: String,
    endpoint_spiffe_id: String,
) -> Result<Described, InvalidRelationship> {
    if trust_domain.is_empty() {
        return Err(InvalidRelationship::NoTrustDomain);
    }
    if bundle_endpoint_url.is_empty() {
        return Err(InvalidRelationship::NoUrl);
    }
    let (profile, bundle_of) = match profile.as_str() {
        // The endpoint has a certificate of the web's: the bundle is that of the trust domain itself.
        WEB => (
            BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {}),
            trust_domain.clone(),
        ),
        SPIFFE if endpoint_spiffe_id.is_empty() => return Err(InvalidRelationship::NoEndpointId),
        SPIFFE => {
            let bundle_of = SpiffeId::parse(&endpoint_spiffe_id)?
                .trust_domain_name()
                .to_owned();
            let profile = types::HttpsspiffeProfile { endpoint_spiffe_id };
            (BundleEndpointProfile::HttpsSpiffe(profile), bundle_of)
        }
        _ => return Err(InvalidRelationship::Profile(profile)),
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
pub(crate) fn print(relationship: &types::FederationRelationship) -> String {
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
