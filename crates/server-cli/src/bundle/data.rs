//! Bundles as people hand them over: certificates in PEM, or a SPIFFE bundle document.

use clap::ValueEnum;
use countersign_identity::bundle::document;
use countersign_identity::{Bundle, TrustDomain};
use countersign_proto::spire::api::types;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::error::CommandError;
use crate::pem;

/// How a bundle is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// PEM, one block per X.509 authority
    Pem,
    /// A SPIFFE bundle document, for federation
    Spiffe,
}

/// Reads the bundle of a trust domain.
pub(crate) fn parse(
    bytes: &[u8],
    format: Format,
    trust_domain: &str,
) -> Result<types::Bundle, CommandError> {
    match format {
        Format::Pem => certificates(bytes, trust_domain),
        Format::Spiffe => {
            let td = TrustDomain::from_name_or_id(trust_domain).map_err(|e| {
                CommandError::usage(format!("{trust_domain:?} is no trust domain: {e}"))
            })?;
            let bundle = document::read(&td, bytes).map_err(|e| {
                CommandError::usage(format!("unable to parse to spiffe bundle: {e}"))
            })?;
            Ok((&bundle).into())
        }
    }
}

fn certificates(bytes: &[u8], trust_domain: &str) -> Result<types::Bundle, CommandError> {
    let unable = |why: String| CommandError::usage(format!("unable to parse bundle data: {why}"));
    let x509_authorities = CertificateDer::pem_slice_iter(bytes)
        .map(|certificate| {
            Ok(types::X509Certificate {
                asn1: certificate?.to_vec().into(),
                tainted: false,
            })
        })
        .collect::<Result<Vec<_>, rustls_pki_types::pem::Error>>()
        .map_err(|e| unable(e.to_string()))?;
    if x509_authorities.is_empty() {
        return Err(unable("no PEM blocks".into()));
    }
    Ok(types::Bundle {
        trust_domain: trust_domain.to_owned(),
        x509_authorities,
        ..types::Bundle::default()
    })
}

/// The bundle as it is printed, with the line's end.
pub(super) fn print(bundle: types::Bundle, format: Format) -> Result<String, CommandError> {
    let unshown = |e: &dyn std::fmt::Display| CommandError::Answer(e.to_string());
    match format {
        Format::Pem => Ok(bundle
            .x509_authorities
            .iter()
            .map(|authority| pem::encode("CERTIFICATE", &authority.asn1).to_string())
            .collect()),
        Format::Spiffe => {
            let bundle = Bundle::try_from(bundle).map_err(|e| unshown(&e))?;
            Ok(document::write(&bundle).map_err(|e| unshown(&e))? + "\n")
        }
    }
}
