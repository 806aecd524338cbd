//! Bundles as people hand them over: certificates in PEM, or a SPIFFE bundle document.

use clap::ValueEnum;
use countersign_identity::bundle::document::{self, InvalidDocument};
use countersign_identity::spiffe_id::InvalidId;
use countersign_identity::{Bundle, TrustDomain};
use countersign_proto::spire::api::types;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject as _};

use crate::json::AnswerError;
use crate::pem::block;

/// How a bundle is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BundleFormat {
    /// PEM, one block per X.509 authority
    Pem,
    /// A SPIFFE bundle document, for federation
    Spiffe,
}

/// Why bundle data can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidBundleData {
    /// It was said to be of something that is no trust domain.
    #[error("{text:?} is no trust domain")]
    TrustDomain {
        /// What was said.
        text: String,
        /// The rule that it breaks.
        source: InvalidId,
    },
    /// Not PEM.
    #[error("unable to parse bundle data")]
    Pem(#[source] pem::Error),
    /// PEM without a certificate.
    #[error("unable to parse bundle data: no PEM blocks")]
    NoBlocks,
    /// Not a SPIFFE bundle document.
    #[error("unable to parse to spiffe bundle")]
    Document(#[from] InvalidDocument),
}

/// Reads the bundle of a trust domain.
pub(crate) fn parse(
    bytes: &[u8],
    format: BundleFormat,
    trust_domain: &str,
) -> Result<types::Bundle, InvalidBundleData> {
    match format {
        BundleFormat::Pem => certificates(bytes, trust_domain),
        BundleFormat::Spiffe => {
            let td = TrustDomain::from_name_or_id(trust_domain).map_err(|source| {
                InvalidBundleData::TrustDomain {
                    text: trust_domain.to_owned(),
                    source,
                }
            })?;
            let bundle = document::read(&td, bytes)?;
            Ok((&bundle).into())
        }
    }
}

fn certificates(bytes: &[u8], trust_domain: &str) -> Result<types::Bundle, InvalidBundleData> {
    let x509_authorities = CertificateDer::pem_slice_iter(bytes)
        .map(|certificate| {
            Ok(types::X509Certificate {
                asn1: certificate?.to_vec().into(),
                tainted: false,
            })
        })
        .collect::<Result<Vec<_>, pem::Error>>()
        .map_err(InvalidBundleData::Pem)?;
    if x509_authorities.is_empty() {
        return Err(InvalidBundleData::NoBlocks);
    }
    Ok(types::Bundle {
        trust_domain: trust_domain.to_owned(),
        x509_authorities,
        ..types::Bundle::default()
    })
}

/// The bundle as it is printed, with the line's end.
pub(crate) fn print(bundle: types::Bundle, format: BundleFormat) -> Result<String, AnswerError> {
    match format {
        BundleFormat::Pem => Ok(bundle
            .x509_authorities
            .iter()
            .map(|authority| block("CERTIFICATE", &authority.asn1).to_string())
            .collect()),
        BundleFormat::Spiffe => {
            let bundle = Bundle::try_from(bundle)?;
            Ok(document::write(&bundle)? + "\n")
        }
    }
}
