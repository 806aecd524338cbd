//! The authorities from the files that the operator configured.

use std::path::{Path, PathBuf};

use countersign_identity::UnixTime;
use countersign_identity::bundle::{InvalidAuthority, X509Authority};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

/// Why a file of authorities can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRoots {
    /// The file can't be read, or is no PEM.
    #[error("unable to load trust bundle {path:?}: check that it is there and holds certificates in PEM", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rustls_pki_types::pem::Error,
    },
    /// There is no certificate in it.
    #[error("unable to load trust bundle {path:?}: there is no certificate in it", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A certificate in it can't be used.
    #[error("unable to load trust bundle {path:?}: its certificate {place} can't be used", path = path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Which of them, counted from 1.
        place: usize,
        /// Why not.
        source: InvalidAuthority,
    },
}

/// Authorities, and certificates of single nodes beside them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roots {
    authorities: Vec<X509Authority>,
    /// Certificates that are no CAs: each admits exactly itself.
    pinned: Vec<CertificateDer<'static>>,
}

impl Roots {
    /// Reads files of certificates in PEM.
    ///
    /// # Errors
    /// [`InvalidRoots`].
    pub(crate) fn load(paths: &[PathBuf]) -> Result<Self, InvalidRoots> {
        let mut roots = Self::default();
        for path in paths {
            roots.add(path)?;
        }
        Ok(roots)
    }

    fn add(&mut self, path: &Path) -> Result<(), InvalidRoots> {
        let unreadable = |source| InvalidRoots::Unreadable {
            path: path.to_owned(),
            source,
        };
        let mut place = 0;
        for der in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
            let der = der.map_err(unreadable)?;
            place += 1;
            match X509Authority::new(der.clone()) {
                Ok(authority) => self.authorities.push(authority),
                Err(InvalidAuthority::NotCa) => self.pinned.push(der),
                Err(source) => {
                    return Err(InvalidRoots::Certificate {
                        path: path.to_owned(),
                        place,
                        source,
                    });
                }
            }
        }
        if place == 0 {
            return Err(InvalidRoots::Empty {
                path: path.to_owned(),
            });
        }
        Ok(())
    }

    pub(super) fn authorities(&self) -> &[X509Authority] {
        &self.authorities
    }

    /// Whether exactly this certificate is pinned, and valid now.
    pub(super) fn pins(&self, der: &[u8], now: UnixTime) -> bool {
        let valid = || {
            let (_, cert) = X509Certificate::from_der(der).ok()?;
            let validity = cert.validity();
            let from = UnixTime::from_i64(validity.not_before.timestamp());
            let until = UnixTime::from_i64(validity.not_after.timestamp());
            Some(from <= now && now <= until)
        };
        self.pinned.iter().any(|pinned| pinned.as_ref() == der) && valid() == Some(true)
    }
}
