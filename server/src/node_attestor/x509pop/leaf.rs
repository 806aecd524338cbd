//! A node's certificate: its key, its names, and its fields as templates name them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use aws_lc_rs::digest;
use countersign_identity::TrustDomain;
use countersign_identity::verify::MAX_CERTIFICATE_LEN;
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Name;

use super::super::path_template::{Value, ValueKind};
use super::X509Pop;

const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const P521: &str = "1.3.132.0.35";

/// The longest serial number, in bytes (RFC 5280, 4.1.2.2), and the zero byte that keeps it positive.
const MAX_SERIAL: usize = 21;

/// A public key, by the algorithm of its challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// The SubjectPublicKeyInfo, and the length of the modulus in bits.
    Rsa {
        spki: Vec<u8>,
        bits: usize,
    },
    /// The point.
    EcP256(Vec<u8>),
    EcP384(Vec<u8>),
    EcP521(Vec<u8>),
    Other,
}

/// One certificate, as far as attestation and templates need it.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) key: Key,
    pub(super) may_sign: bool,
    pub(super) serial_hex: String,
    pub(super) uris: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
    serial: String,
    fingerprint: String,
    dns_names: Vec<String>,
    subject: Name,
    issuer: Name,
}

/// A subject or issuer, by the names of Go's `pkix.Name`.
#[derive(Clone, Debug, Default)]
struct Name(BTreeMap<&'static str, Vec<String>>);

/// Attributes that Go keeps as lists, and the two of which it keeps the last.
const LISTS: [(&str, &str); 7] = [
    ("2.5.4.6", "Country"),
    ("2.5.4.10", "Organization"),
    ("2.5.4.11", "OrganizationalUnit"),
    ("2.5.4.7", "Locality"),
    ("2.5.4.8", "Province"),
    ("2.5.4.9", "StreetAddress"),
    ("2.5.4.17", "PostalCode"),
];
const TEXTS: [(&str, &str); 2] = [("2.5.4.3", "CommonName"), ("2.5.4.5", "SerialNumber")];

/// Why a certificate can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidLeaf {
    #[error("it is larger than {MAX_CERTIFICATE_LEN} bytes")]
    TooLarge,
    #[error(transparent)]
    Certificate(#[from] x509_parser::nom::Err<X509Error>),
    #[error(transparent)]
    Extension(#[from] X509Error),
    #[error("there are bytes after the certificate")]
    Trailing,
    #[error("its serial number is too long")]
    Serial,
}

impl Leaf {
    /// Reads exactly one certificate in DER.
    pub(super) fn parse(der: &[u8]) -> Result<Self, InvalidLeaf> {
        if der.len() > MAX_CERTIFICATE_LEN {
            return Err(InvalidLeaf::TooLarge);
        }
        let (rest, cert) = X509Certificate::from_der(der)?;
        if !rest.is_empty() {
            return Err(InvalidLeaf::Trailing);
        }
        if cert.raw_serial().len() > MAX_SERIAL {
            return Err(InvalidLeaf::Serial);
        }
        let usage = cert.key_usage()?;
        let mut this = Self {
            key: key(&cert),
            may_sign: usage.is_some_and(|usage| usage.value.digital_signature()),
            serial_hex: serial_hex(cert.raw_serial()),
            serial: cert.tbs_certificate.serial.to_string(),
            fingerprint: fingerprint(der),
            uris: Vec::new(),
            addresses: Vec::new(),
            dns_names: Vec::new(),
            subject: Name::read(cert.subject()),
            issuer: Name::read(cert.issuer()),
        };
        let names = cert.subject_alternative_name()?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => this.uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => this.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => this.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Ok(this)
    }

    pub(super) const fn rsa_bits(&self) -> Option<usize> {
        match &self.key {
            Key::Rsa { bits, .. } => Some(*bits),
            _ => None,
        }
    }

    pub(super) fn common_name(&self) -> Option<&str> {
        self.subject
            .text("CommonName")
            .filter(|name| !name.is_empty())
    }

    /// The keys and values of URIs such as `x509pop://<trust domain>/<key>/<value>`.
    pub(super) fn named_values(&self, trust_domain: &TrustDomain) -> BTreeMap<String, String> {
        let prefix = format!("x509pop://{trust_domain}/");
        let mut named = BTreeMap::new();
        for uri in &self.uris {
            let Some(path) = uri.strip_prefix(&prefix) else {
                continue;
            };
            let path = path.split(['?', '#']).next().unwrap_or_default();
            let path = unescaped(path).unwrap_or_default();
            match path.trim_matches('/').split_once('/') {
                Some((key, value)) => {
                    named.insert(key.to_owned(), value.to_owned());
                }
                None => tracing::warn!(?uri, "Cannot extract x509pop san selectors"),
            }
        }
        named
    }

    /// A field of templates.
    pub(super) fn field(
        &self,
        path: &[String],
        trust_domain: &TrustDomain,
        svid_path: &str,
        named: &BTreeMap<String, String>,
    ) -> Option<Value> {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        Some(match path.as_slice() {
            ["PluginName"] => Value::Text(X509Pop::NAME.into()),
            ["Fingerprint"] => Value::Text(self.fingerprint.clone()),
            ["TrustDomain"] => Value::Text(trust_domain.to_string()),
            ["SerialNumberHex"] => Value::Text(self.serial_hex.clone()),
            ["SerialNumber"] => Value::Text(self.serial.clone()),
            ["SVIDPathTrimmed"] => Value::Text(svid_path.to_owned()),
            ["DNSNames"] => Value::List(self.dns_names.clone()),
            ["URISanSelectors"] => Value::Map(named.clone()),
            ["URISanSelectors", key] => Value::Text(named.get(*key)?.clone()),
            ["Subject", part] => self.subject.field(part)?,
            ["Issuer", part] => self.issuer.field(part)?,
            _ => return None,
        })
    }
}

/// The kind of a field of templates; `None` if there is no such field.
#[must_use]
pub(crate) fn field_kind(path: &[String]) -> Option<ValueKind> {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let is = |rows: &[(&str, &str)], part: &str| rows.iter().any(|(_, name)| *name == part);
    match path.as_slice() {
        [
            "PluginName" | "Fingerprint" | "TrustDomain" | "SerialNumberHex" | "SerialNumber"
            | "SVIDPathTrimmed",
        ]
        | ["URISanSelectors", _] => Some(ValueKind::Text),
        ["DNSNames"] => Some(ValueKind::List),
        ["URISanSelectors"] => Some(ValueKind::Map),
        ["Subject" | "Issuer", part] if is(&TEXTS, part) => Some(ValueKind::Text),
        ["Subject" | "Issuer", part] if is(&LISTS, part) => Some(ValueKind::List),
        _ => None,
    }
}

impl Name {
    fn read(name: &X509Name<'_>) -> Self {
        let mut parts = BTreeMap::<_, Vec<String>>::new();
        for attribute in name.iter_attributes() {
            let oid = attribute.attr_type().to_id_string();
            let known = LISTS.iter().chain(&TEXTS).find(|(known, _)| *known == oid);
            if let (Some((_, part)), Ok(value)) = (known, attribute.as_str()) {
                parts.entry(*part).or_default().push(value.to_owned());
            }
        }
        Self(parts)
    }

    fn text(&self, part: &str) -> Option<&str> {
        self.0.get(part)?.last().map(String::as_str)
    }

    fn field(&self, part: &str) -> Option<Value> {
        match field_kind(&["Subject".into(), part.to_owned()])? {
            ValueKind::Text => Some(Value::Text(self.text(part).unwrap_or_default().to_owned())),
            _ => Some(Value::List(self.0.get(part).cloned().unwrap_or_default())),
        }
    }
}

fn key(cert: &X509Certificate<'_>) -> Key {
    let spki = cert.public_key();
    match spki.parsed() {
        Ok(PublicKey::RSA(rsa)) => Key::Rsa {
            spki: spki.raw.to_vec(),
            bits: bits(rsa.modulus),
        },
        Ok(PublicKey::EC(point)) => {
            let curve = spki.algorithm.parameters.as_ref();
            let curve = curve.and_then(|curve| curve.as_oid().ok());
            let point = point.data().to_vec();
            match curve.map(|curve| curve.to_id_string()).as_deref() {
                Some(P256) => Key::EcP256(point),
                Some(P384) => Key::EcP384(point),
                Some(P521) => Key::EcP521(point),
                _ => Key::Other,
            }
        }
        _ => Key::Other,
    }
}

/// The length of a big-endian number, in bits.
fn bits(number: &[u8]) -> usize {
    let mut digits = number.iter().skip_while(|byte| **byte == 0);
    digits.next().map_or(0, |first| {
        let first = 8 - usize::try_from(first.leading_zeros()).unwrap_or_default();
        first + 8 * digits.count()
    })
}

/// The SHA-1 of a certificate, in lower-case hex. A name only, as in SPIRE: nothing is trusted by it.
pub(super) fn fingerprint(der: &[u8]) -> String {
    hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der).as_ref())
}

/// A serial number in lower-case hex, of even length and without zeros before it.
fn serial_hex(serial: &[u8]) -> String {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    let digits = serial.get(zeros..).unwrap_or_default();
    if digits.is_empty() {
        return "00".into();
    }
    hex(digits)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical()),
        _ => None,
    }
}

/// A URI's path without percent-encoding; nothing if that is malformed.
fn unescaped(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}
