//! Ways from a certificate to an authority: what webpki does not check of them, and all of them where all count.

use std::cell::RefCell;

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::UnixTime;
use crate::bundle::X509Authority;

/// No way leads from a certificate to an authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoPath(String);

/// Every way from a certificate, of whatever subject and purpose, to one of these authorities: the intermediates in
/// order, then the authority's own certificate. webpki's bounds on the search hold; what was found within them counts.
///
/// # Errors
/// There is none.
pub fn paths(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    authorities: &[X509Authority],
    now: UnixTime,
) -> Result<Vec<Vec<CertificateDer<'static>>>, NoPath> {
    let authorities: Vec<&X509Authority> =
        authorities.iter().filter(|a| a.can_sign_at(now)).collect();
    let found = RefCell::new(Vec::new());
    let collect = |path: &webpki::VerifiedPath<'_>| {
        let between: Vec<_> = path
            .intermediate_certificates()
            .map(|cert| cert.der().into_owned())
            .collect();
        let ends = fitting(path, &authorities)?;
        found.borrow_mut().extend(ends.iter().map(|authority| {
            let mut whole = between.clone();
            whole.push(authority.der().clone());
            whole
        }));
        // Not the last word: the search goes on for others.
        Err(webpki::Error::UnknownIssuer)
    };
    let ended = search_paths(leaf, intermediates, &authorities, now, &collect);
    let reason = ended.err().map(|e| e.to_string()).unwrap_or_default();
    let found = found.into_inner();
    if found.is_empty() {
        return Err(NoPath(reason));
    }
    Ok(found)
}

/// Has webpki search for paths from a leaf to an authority until `accept` takes one.
pub(super) fn search_paths(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    authorities: &[&X509Authority],
    now: UnixTime,
    accept: &dyn Fn(&webpki::VerifiedPath<'_>) -> Result<(), webpki::Error>,
) -> Result<(), webpki::Error> {
    let anchors: Vec<_> = authorities.iter().map(|a| a.anchor().clone()).collect();
    webpki::EndEntityCert::try_from(leaf)?
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            intermediates,
            now.to_pki(),
            AnyPurpose,
            None,
            Some(accept),
        )
        .map(drop)
}

/// SPIFFE peers accept any extended key usage (go-spiffe does the same).
struct AnyPurpose;

impl webpki::ExtendedKeyUsageValidator for AnyPurpose {
    fn validate(&self, _: webpki::KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// What webpki does not check of a path that it found.
pub(super) fn check_path(
    path: &webpki::VerifiedPath<'_>,
    authorities: &[&X509Authority],
) -> Result<(), webpki::Error> {
    fitting(path, authorities).map(drop)
}

/// The authorities that a path ends at: more than one if they share key and name.
fn fitting<'a>(
    path: &webpki::VerifiedPath<'_>,
    authorities: &[&'a X509Authority],
) -> Result<Vec<&'a X509Authority>, webpki::Error> {
    let mut intermediates = 0_u32;
    for cert in path.intermediate_certificates() {
        let der = cert.der();
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| webpki::Error::BadDer)?;
        let usage = parsed.key_usage().map_err(|_| webpki::Error::BadDer)?;
        if usage.is_some_and(|u| !u.value.key_cert_sign()) {
            return Err(webpki::Error::EndEntityUsedAsCa);
        }
        intermediates = intermediates.saturating_add(1);
    }
    let fits = |a: &&&X509Authority| {
        a.anchor().subject_public_key_info == path.anchor().subject_public_key_info
            && a.anchor().subject == path.anchor().subject
            && a.path_len().is_none_or(|limit| intermediates <= limit)
    };
    let fitting: Vec<_> = authorities.iter().filter(fits).copied().collect();
    if fitting.is_empty() {
        return Err(webpki::Error::PathLenConstraintViolated);
    }
    Ok(fitting)
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn ca(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    }

    fn authority(cert: &rcgen::Certificate) -> X509Authority {
        X509Authority::new(cert.der().clone()).unwrap()
    }

    fn keys<const N: usize>() -> [KeyPair; N] {
        std::array::from_fn(|_| KeyPair::generate().unwrap())
    }

    #[test]
    fn a_cross_signed_intermediate_leads_to_both_roots() {
        let [one_key, two_key, middle_key, leaf_key] = keys();
        let one = ca("one").self_signed(&one_key).unwrap();
        let two = ca("two").self_signed(&two_key).unwrap();
        let middle = |root: &str, key: &KeyPair| {
            ca("middle")
                .signed_by(&middle_key, &Issuer::new(ca(root), key))
                .unwrap()
        };
        let (by_one, by_two) = (middle("one", &one_key), middle("two", &two_key));
        let leaf = CertificateParams::default()
            .signed_by(&leaf_key, &Issuer::new(ca("middle"), &middle_key))
            .unwrap();
        let between = [by_one.der().clone(), by_two.der().clone()];
        let both = [authority(&one), authority(&two)];
        let want = [
            vec![by_one.der().clone(), one.der().clone()],
            vec![by_two.der().clone(), two.der().clone()],
        ];
        let found = |authorities: &[X509Authority]| paths(leaf.der(), &between, authorities, NOW);
        assert_eq!(found(&both).unwrap(), want);
        assert_eq!(found(&both[1..]).unwrap(), want[1..]);
        let stranger = ca("one").self_signed(&leaf_key).unwrap();
        found(&[authority(&stranger)]).unwrap_err();
        paths(leaf.der(), &[], &both, NOW).unwrap_err();
    }

    #[test]
    fn an_authority_that_may_not_sign_leads_nowhere() {
        let [key, leaf_key] = keys();
        let mut mute = ca("ca");
        mute.key_usages = vec![KeyUsagePurpose::CrlSign];
        let root = mute.self_signed(&key).unwrap();
        let leaf = CertificateParams::default()
            .signed_by(&leaf_key, &Issuer::new(ca("ca"), &key))
            .unwrap();
        paths(leaf.der(), &[], &[authority(&root)], NOW).unwrap_err();
    }
}
