//! Certificate signing requests (RFC 2986).
//!
//! Parsed by x509-parser, which takes the public key exactly as encoded in the request: rcgen's own parser derives the
//! key's algorithm from the signature, and so can end up with another key (rustls/rcgen#448).

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

pub use crate::public_key::{PublicKey, UnsupportedKey};

use crate::key::{KeyError, SigningKey};
use crate::public_key::RcgenSigner;
use crate::subject::Subject;
use crate::{KeyType, SpiffeId};

/// The largest request that is parsed, in bytes of DER.
pub const MAX_CSR_LEN: usize = 16 * 1024;

/// Why bytes are not a usable signing request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCsr {
    /// Larger than [`MAX_CSR_LEN`].
    #[error("signing request is larger than {MAX_CSR_LEN} bytes")]
    TooLarge,
    /// Not exactly one PKCS#10 request in DER.
    #[error("malformed signing request: {0}")]
    Malformed(String),
    /// The public key is of an unsupported type.
    #[error(transparent)]
    UnsupportedKey(#[from] UnsupportedKey),
    /// The requester did not prove that it holds the private key.
    #[error("signature of the signing request does not verify")]
    Signature,
}

/// The subject alternative names of a request, in order. Nothing is checked of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestedNames<'a> {
    /// URIs.
    pub uris: Vec<&'a str>,
    /// DNS names.
    pub dns: Vec<&'a str>,
}

/// A well-formed signing request. Its signature is checked only by [`Csr::verify_signature`].
#[derive(Debug)]
pub struct Csr<'a> {
    request: X509CertificationRequest<'a>,
    key: PublicKey,
}

impl<'a> Csr<'a> {
    /// Reads one PKCS #10 request in DER. Subject and extensions are parsed on demand.
    ///
    /// # Errors
    /// The rule that the bytes break.
    pub fn parse(der: &'a [u8]) -> Result<Self, InvalidCsr> {
        if der.len() > MAX_CSR_LEN {
            return Err(InvalidCsr::TooLarge);
        }
        let (rest, request) = X509CertificationRequest::from_der(der)
            .map_err(|e| InvalidCsr::Malformed(e.to_string()))?;
        if !rest.is_empty() {
            return Err(InvalidCsr::Malformed("bytes after the request".into()));
        }
        let key = PublicKey::from_spki(request.certification_request_info.subject_pki.raw)?;
        Ok(Self { request, key })
    }

    /// The public key to certify.
    #[must_use]
    pub const fn public_key(&self) -> &PublicKey {
        &self.key
    }

    /// The requested subject.
    pub(crate) fn subject(&self) -> &X509Name<'a> {
        &self.request.certification_request_info.subject
    }

    /// The requested subject, reduced to the attributes that SVIDs can have; `None` if that is empty.
    #[must_use]
    pub fn requested_subject(&self) -> Option<Subject> {
        Some(Subject::of_name(self.subject())).filter(|s| *s != Subject::default())
    }

    /// The requested subject alternative names.
    ///
    /// # Errors
    /// [`InvalidCsr::Malformed`] for an extension that can't be read.
    pub fn names(&self) -> Result<RequestedNames<'_>, InvalidCsr> {
        let mut names = RequestedNames::default();
        for extension in self.request.requested_extensions().into_iter().flatten() {
            match extension {
                ParsedExtension::SubjectAlternativeName(san) => {
                    for name in &san.general_names {
                        match name {
                            GeneralName::URI(uri) => names.uris.push(uri),
                            GeneralName::DNSName(dns) => names.dns.push(dns),
                            _ => {}
                        }
                    }
                }
                ParsedExtension::ParseError { .. } => {
                    return Err(InvalidCsr::Malformed("an extension can't be read".into()));
                }
                _ => {}
            }
        }
        Ok(names)
    }

    /// Checks that the requester holds the private key.
    ///
    /// # Errors
    /// [`InvalidCsr::Signature`] if that is not so.
    pub fn verify_signature(&self) -> Result<(), InvalidCsr> {
        self.request
            .verify_signature()
            .map_err(|_| InvalidCsr::Signature)
    }

    /// Makes a request for this key: subject C=US, O=SPIRE, and the ID as URI SAN if there is one.
    ///
    /// # Errors
    /// [`KeyError::Sign`] if the key does not sign.
    pub fn make(key: &dyn SigningKey, id: Option<&SpiffeId>) -> Result<Vec<u8>, KeyError> {
        let ids = id.into_iter().map(|id| uri(id).map(rcgen::SanType::URI));
        request(key, &Subject::svid(), ids.collect::<Result<_, _>>()?)
    }

    /// Makes a request for this key without a subject: the ID as URI SAN, and these DNS names.
    ///
    /// # Errors
    /// [`KeyError::Sign`] if the key does not sign, or a DNS name is not ASCII.
    pub fn make_without_subject(
        key: &dyn SigningKey,
        id: &SpiffeId,
        dns_names: &[String],
    ) -> Result<Vec<u8>, KeyError> {
        let mut names = vec![rcgen::SanType::URI(uri(id)?)];
        for name in dns_names {
            let name = name.as_str().try_into().map_err(failed)?;
            names.push(rcgen::SanType::DnsName(name));
        }
        request(key, &Subject::default(), names)
    }
}

fn request(
    key: &dyn SigningKey,
    subject: &Subject,
    names: Vec<rcgen::SanType>,
) -> Result<Vec<u8>, KeyError> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = subject.to_rcgen();
    params.subject_alt_names = names;
    let request = params
        .serialize_request(&RcgenSigner::new(key)?)
        .map_err(failed)?;
    Ok(request.der().to_vec())
}

fn uri(id: &SpiffeId) -> Result<rcgen::string::Ia5String, KeyError> {
    id.as_str().try_into().map_err(failed)
}

#[expect(clippy::needless_pass_by_value, reason = "handed to map_err")]
fn failed(error: rcgen::Error) -> KeyError {
    KeyError::Sign(error.to_string())
}

/// The key types that node agents use for workloads.
pub const WORKLOAD_KEY_TYPES: [KeyType; 3] = [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PrivateKey;

    #[test]
    fn a_request_carries_its_key_and_proves_it() {
        for key_type in WORKLOAD_KEY_TYPES {
            let key = PrivateKey::generate(key_type).unwrap();
            let id = SpiffeId::parse("spiffe://td/workload").unwrap();
            let der = Csr::make(&key, Some(&id)).unwrap();
            let csr = Csr::parse(&der).unwrap();
            assert_eq!(csr.public_key().spki(), key.spki());
            csr.verify_signature().unwrap();
        }
    }

    #[test]
    fn a_changed_request_no_longer_proves_anything() {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let mut der = Csr::make(&key, None).unwrap();
        *der.last_mut().unwrap() ^= 1;
        match Csr::parse(&der) {
            Ok(csr) => assert_eq!(csr.verify_signature(), Err(InvalidCsr::Signature)),
            Err(e) => assert!(matches!(e, InvalidCsr::Malformed(_))),
        }
    }

    #[test]
    fn size_and_trailing_bytes_are_refused() {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let mut der = Csr::make(&key, None).unwrap();
        der.push(0);
        assert!(matches!(Csr::parse(&der), Err(InvalidCsr::Malformed(_))));
        assert!(matches!(
            Csr::parse(&vec![0; MAX_CSR_LEN + 1]),
            Err(InvalidCsr::TooLarge)
        ));
        assert!(matches!(Csr::parse(b""), Err(InvalidCsr::Malformed(_))));
    }
}
