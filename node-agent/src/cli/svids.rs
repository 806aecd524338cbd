//! Verifies a response of the Workload API as a workload would, and prints it.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_daemon::cli::{Printer, Style};
use countersign_identity::bundle::X509Authority;
use countersign_identity::svid::{SvidError, split_der};
use countersign_identity::verify::verify_svid;
use countersign_identity::{Bundle, TrustDomain, UnixTime, X509Svid};
use countersign_proto::spiffe::workload::{self, X509svidResponse};
use time::OffsetDateTime;
use time::macros::format_description;

use super::error::CommandError;

/// One SVID with what it is verified by.
pub(super) struct Fetched {
    pub(super) svid: X509Svid,
    pub(super) hint: String,
    pub(super) bundle: Vec<X509Authority>,
}

/// A whole answer.
pub(super) struct FetchedSvids {
    pub(super) svids: Vec<Fetched>,
    /// By `spiffe://<trust domain>`, in order.
    pub(super) federated: BTreeMap<String, Vec<X509Authority>>,
}

impl FetchedSvids {
    /// Parses a response, and verifies each SVID against its bundle.
    pub(super) fn new(response: &X509svidResponse, now: UnixTime) -> Result<Self, CommandError> {
        if response.svids.is_empty() {
            return Err(CommandError::Answer(
                "workload response contains no svids".to_owned(),
            ));
        }
        let svids = response
            .svids
            .iter()
            .map(|svid| fetched(svid, now))
            .collect::<Result<_, _>>()?;
        let federated = response
            .federated_bundles
            .iter()
            .map(|(td, der)| Ok((td.clone(), authorities(td, der)?)));
        Ok(Self {
            svids,
            federated: federated.collect::<Result<_, CommandError>>()?,
        })
    }

    /// The text that SPIRE prints.
    pub(super) fn print(&self, printer: &mut Printer, after: Duration) {
        let count = self.svids.len();
        let plural = if count == 1 { "" } else { "s" };
        printer.line(format!("Received {count} svid{plural} after {after:?}"));
        for fetched in &self.svids {
            printer.line("");
            self.print_one(fetched, printer);
        }
        printer.line("");
    }

    fn print_one(&self, fetched: &Fetched, printer: &mut Printer) {
        let Fetched { svid, hint, bundle } = fetched;
        let id = printer.paint(Style::Accent, svid.id());
        printer.line(format!("SPIFFE ID:\t\t{id}"));
        if !hint.is_empty() {
            printer.line(format!("Hint:\t\t\t{hint}"));
        }
        let mut validity = |what: &str, from: UnixTime, until: UnixTime| {
            printer.line(format!("{what} Valid After:\t{}", go_time(from)));
            printer.line(format!("{what} Valid Until:\t{}", go_time(until)));
        };
        validity("SVID", svid.not_before(), svid.not_after());
        let above = svid
            .chain()
            .iter()
            .skip(1)
            .filter_map(|der| X509Authority::new(der.clone()).ok());
        for (index, ca) in above.enumerate() {
            validity(
                &format!("Intermediate #{}", index + 1),
                ca.not_before(),
                ca.not_after(),
            );
        }
        for (index, ca) in bundle.iter().enumerate() {
            validity(
                &format!("CA #{}", index + 1),
                ca.not_before(),
                ca.not_after(),
            );
        }
        for (td, authorities) in &self.federated {
            for (index, ca) in authorities.iter().enumerate() {
                validity(
                    &format!("[{td}] CA #{}", index + 1),
                    ca.not_before(),
                    ca.not_after(),
                );
            }
        }
    }
}

fn fetched(svid: &workload::X509svid, now: UnixTime) -> Result<Fetched, CommandError> {
    let wrong = |what: String| {
        CommandError::Answer(format!("SVID {:?} is not usable: {what}", svid.spiffe_id))
    };
    let parsed = X509Svid::from_der(&svid.x509_svid, &svid.x509_svid_key)
        .map_err(|e| wrong(e.to_string()))?;
    if parsed.id().as_str() != svid.spiffe_id {
        return Err(wrong(format!("the certificate is for {}", parsed.id())));
    }
    let mut bundle = Bundle::empty(parsed.id().trust_domain());
    bundle.x509_authorities = authorities(bundle.trust_domain.id().as_str(), &svid.bundle)?;
    let (leaf, above) = parsed
        .chain()
        .split_first()
        .ok_or_else(|| wrong("no certificate".to_owned()))?;
    verify_svid(leaf, above, &bundle, now)
        .map_err(|e| wrong(format!("it does not verify against its bundle: {e}")))?;
    Ok(Fetched {
        svid: parsed,
        hint: svid.hint.clone(),
        bundle: bundle.x509_authorities,
    })
}

fn authorities(trust_domain: &str, der: &[u8]) -> Result<Vec<X509Authority>, CommandError> {
    let wrong = |what: String| {
        CommandError::Answer(format!("bundle of {trust_domain:?} is not usable: {what}"))
    };
    TrustDomain::from_name_or_id(trust_domain).map_err(|e| wrong(e.to_string()))?;
    let certificates = split_bundle(der).map_err(|e| wrong(e.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("it has no certificates".to_owned()));
    }
    let parse = |der| X509Authority::new(der).map_err(|e| wrong(e.to_string()));
    certificates.into_iter().map(parse).collect()
}

/// Why a bundle cannot be split into certificates.
#[derive(Debug, thiserror::Error)]
enum BundleError {
    #[error("malformed certificate")]
    Malformed,
    #[error(transparent)]
    Certificate(#[from] SvidError),
}

/// A bundle may have more certificates than a chain.
fn split_bundle(
    mut der: &[u8],
) -> Result<Vec<rustls_pki_types::CertificateDer<'static>>, BundleError> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let length = der_length(der).ok_or(BundleError::Malformed)?;
        let (one, rest) = der.split_at_checked(length).ok_or(BundleError::Malformed)?;
        all.extend(split_der(one)?);
        der = rest;
    }
    Ok(all)
}

/// How long the DER element at the start is, its header included (X.690, 8.1.3).
fn der_length(der: &[u8]) -> Option<usize> {
    let first = usize::from(*der.get(1)?);
    if first < 0x80 {
        return Some(2 + first);
    }
    let octets = first - 0x80;
    let length = der
        .get(2..2 + octets)?
        .iter()
        .try_fold(0_usize, |n, b| n.checked_mul(256)?.checked_add((*b).into()))?;
    length.checked_add(2 + octets)
}

/// As Go prints a time: `2026-01-31 10:00:00 +0000 UTC`.
fn go_time(at: UnixTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] +0000 UTC");
    OffsetDateTime::from_unix_timestamp(at.as_i64())
        .ok()
        .and_then(|t| t.format(format).ok())
        .unwrap_or_else(|| at.to_string())
}

/// The answer as protobuf's JSON with SPIRE's field names. It has the private keys in it, as SPIRE's does.
pub(super) fn json(response: &X509svidResponse) -> serde_json::Value {
    let bundles: BTreeMap<_, _> = response
        .federated_bundles
        .iter()
        .map(|(td, der)| (td.clone(), STANDARD.encode(der)))
        .collect();
    let svids: Vec<_> = response
        .svids
        .iter()
        .map(|svid| {
            serde_json::json!({
                "spiffe_id": svid.spiffe_id,
                "x509_svid": STANDARD.encode(&svid.x509_svid),
                "x509_svid_key": STANDARD.encode(&svid.x509_svid_key),
                "bundle": STANDARD.encode(&svid.bundle),
                "hint": svid.hint,
            })
        })
        .collect();
    let crl: Vec<_> = response
        .crl
        .iter()
        .map(|der| STANDARD.encode(der))
        .collect();
    serde_json::json!({ "svids": svids, "crl": crl, "federated_bundles": bundles })
}
