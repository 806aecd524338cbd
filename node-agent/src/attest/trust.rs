//! Where the first trust in a server comes from.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use countersign_identity::bundle::{InvalidAuthority, X509Authority};
use countersign_identity::{Bundle, TrustDomain};

use crate::{limits, pem};

/// How the server is verified on first contact, when there is no bundle on disk yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustSource {
    /// By the certificates in this PEM file.
    File(PathBuf),
    /// Not at all, because an operator asked for it.
    Insecure,
}

/// Why a trust bundle file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It could not be read.
    #[error("cannot read the trust bundle {}: {source}: `countersign-server bundle show` prints it, and trust_bundle_path says where it is", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no PEM.
    #[error("the trust bundle {} is not PEM: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is nothing in it.
    #[error("the trust bundle {} has no certificates: `countersign-server bundle show` prints what belongs there", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A certificate is no authority.
    #[error("certificate {number} of the trust bundle {}: {source}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Which one, counted from 1.
        number: usize,
        /// What is wrong with it.
        source: InvalidAuthority,
    },
}

/// Reads a trust bundle.
///
/// # Errors
/// [`TrustError`].
pub fn read_bundle(path: &Path, trust_domain: &TrustDomain) -> Result<Bundle, TrustError> {
    let own = || path.to_owned();
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| {
            file.take(limits::TRUST_BUNDLE_FILE_BYTES)
                .read_to_end(&mut text)
        })
        .map_err(|source| TrustError::Read {
            path: own(),
            source,
        })?;
    let certificates = pem::read_certificates(&text).map_err(|reason| TrustError::Pem {
        path: own(),
        reason,
    })?;
    if certificates.is_empty() {
        return Err(TrustError::Empty { path: own() });
    }
    let mut bundle = Bundle::empty(trust_domain.clone());
    for (index, der) in certificates.into_iter().enumerate() {
        let authority = X509Authority::new(der).map_err(|source| TrustError::Authority {
            path: own(),
            number: index + 1,
            source,
        })?;
        bundle.x509_authorities.push(authority);
    }
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use countersign_identity::UnixTime;

    use super::*;
    use crate::test_ca::{TestCa, trust_domain};

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn read(text: &str) -> Result<Bundle, TrustError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.pem");
        std::fs::write(&path, text).unwrap();
        read_bundle(&path, &trust_domain())
    }

    #[test]
    fn all_authorities_of_the_file_count() {
        let (one, two) = (TestCa::new(NOW), TestCa::new(NOW));
        let bundle = read(&pem::certificates([
            one.authority().der(),
            two.authority().der(),
        ]))
        .unwrap();
        assert_eq!(
            bundle.x509_authorities,
            [one.authority().clone(), two.authority().clone()]
        );
    }

    #[test]
    fn each_fault_is_told_with_the_file() {
        assert!(matches!(read(""), Err(TrustError::Empty { .. })));
        assert!(matches!(
            read("-----BEGIN CERTIFICATE-----\nx\n"),
            Err(TrustError::Pem { .. })
        ));
        let ca = TestCa::new(NOW);
        let leaf = ca.issue(
            &trust_domain().id_with_path("/w").unwrap(),
            Duration::from_secs(60),
            NOW,
        );
        let error = read(&pem::certificates([ca.authority().der(), &leaf.chain()[0]])).unwrap_err();
        assert!(
            matches!(
                error,
                TrustError::Authority {
                    number: 2,
                    source: InvalidAuthority::NotCa,
                    ..
                }
            ),
            "{error}"
        );
        let missing = read_bundle(Path::new("/nowhere/bundle.pem"), &trust_domain()).unwrap_err();
        assert!(
            missing.to_string().contains("/nowhere/bundle.pem"),
            "{missing}"
        );
    }
}
