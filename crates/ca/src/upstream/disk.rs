//! `UpstreamAuthority "disk"`: a certificate and its key in files, reloaded before each signature.
//!
//! If the reloaded files can't be used, that is logged, and the last good ones go on signing until their certificate
//! expires.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_identity::bundle::{InvalidAuthority, JwtAuthority, X509Authority};
use countersign_identity::issue::{IssueError, ParentCa, Subject, authority_request};
use countersign_identity::issued_ca::{self, InvalidIssuedCa};
use countersign_identity::{KeyType, PrivateKey, TrustDomain};
use countersign_transport::SharedClock;
use countersign_transport::error::{BoxError, Chain};
use futures::future::{BoxFuture, FutureExt as _};
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use zeroize::Zeroizing;

use super::{BundleUpdates, Minted, Published, UpstreamAuthority, UpstreamError};
use crate::limits;

const NAME: &str = "disk";
/// Lifetime of the authority that [`Loaded::check`] signs and discards.
const TRIAL_TTL: Duration = Duration::from_secs(60);
/// Initial capacity of the read buffer, in bytes: larger than any usual key file.
const FIRST_READ: usize = 16 * 1024;

/// Where certificate, key and roots are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFiles {
    /// `cert_file_path`: the authority's certificate, followed by the intermediates up to a root in `bundle`.
    pub certificate: PathBuf,
    /// `key_file_path`: its key.
    pub key: PathBuf,
    /// `bundle_file_path`: the roots. `None` if the certificate is itself the root.
    pub bundle: Option<PathBuf>,
}

/// Why the files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file can't be read.
    #[error("cannot read {}: check the path, and that this user may read it", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is larger than [`limits::MAX_PEM_FILE_BYTES`].
    #[error("{} is larger than {} bytes", path.display(), limits::MAX_PEM_FILE_BYTES)]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// A file has no PEM item of the expected kind, or a malformed one.
    #[error("{} holds no {what} in PEM", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What should be there.
        what: &'static str,
        /// What the parser said.
        source: pem::Error,
    },
    /// A file has more than [`limits::MAX_UPSTREAM_AUTHORITIES`] certificates.
    #[error("{} holds more than {} certificates", path.display(), limits::MAX_UPSTREAM_AUTHORITIES)]
    TooMany {
        /// Which.
        path: PathBuf,
    },
    /// Without a bundle file the certificate must itself be the root, and the only one in its file.
    #[error(
        "{} must hold exactly one, self-signed certificate, or bundle_file_path must name a file with its roots",
        path.display()
    )]
    NotSelfSigned {
        /// Which.
        path: PathBuf,
    },
    /// A certificate of the bundle is not a root.
    #[error("{} holds a certificate that can't be a root", path.display())]
    Root {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: InvalidAuthority,
    },
    /// The key is not the certificate's, or the certificate may not sign others.
    #[error("the certificate in {} and the key in {} can't sign", certificate.display(), key.display())]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        source: IssueError,
    },
    /// The certificates don't lead to a root.
    #[error("the certificates in {} do not lead to a root that this server knows", certificate.display())]
    Chain {
        /// The certificates.
        certificate: PathBuf,
        /// Why.
        source: InvalidIssuedCa,
    },
}

/// The upstream authority whose certificate and key are in files.
#[derive(Debug)]
pub struct Disk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: DiskFiles,
    trust_domain: TrustDomain,
    clock: SharedClock,
    last_good: Mutex<Arc<Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    ca: ParentCa,
    /// Appended to each new certificate's chain: the authority's own certificate and its intermediates, without the root.
    issuers: Vec<CertificateDer<'static>>,
    roots: Vec<X509Authority>,
}

impl Disk {
    /// Loads the files, and checks that peers would accept what they sign. Blocks on the disk.
    ///
    /// # Errors
    /// A file can't be read or parsed, or the certificate and key can't sign for this trust domain.
    pub fn open(
        files: DiskFiles,
        trust_domain: TrustDomain,
        clock: SharedClock,
    ) -> Result<Self, DiskError> {
        let loaded = Loaded::read(&files, &trust_domain, &clock)?;
        Ok(Self(Arc::new(Inner {
            files,
            trust_domain,
            clock,
            last_good: Mutex::new(Arc::new(loaded)),
        })))
    }
}

impl Inner {
    /// Reloads the files. If they can't be used (an operator may be halfway through replacing them), returns the last good
    /// ones.
    fn current(&self) -> Arc<Loaded> {
        let read = Loaded::read(&self.files, &self.trust_domain, &self.clock);
        let mut last_good = self
            .last_good
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(loaded) => *last_good = Arc::new(loaded),
            Err(error) => warn!(
                error = %Chain(&error),
                "Upstream authority \"disk\" could not be reloaded: signing with the last good files"
            ),
        }
        Arc::clone(&last_good)
    }

    fn mint(&self, csr: &[u8], ttl: Duration) -> Result<Minted, IssueError> {
        let loaded = self.current();
        let now = self.clock.now();
        let issued = loaded.ca.sign(&self.trust_domain, csr, ttl, now)?;
        let mut chain = issued.chain;
        chain.extend(loaded.issuers.iter().cloned());
        Ok(Minted {
            chain,
            roots: loaded.roots.clone(),
        })
    }
}

impl UpstreamAuthority for Disk {
    fn name(&self) -> &'static str {
        NAME
    }

    fn mint_x509_ca(
        &self,
        csr: Vec<u8>,
        preferred_ttl: Duration,
    ) -> BoxFuture<'_, Result<Minted, UpstreamError>> {
        let failed = |source: BoxError| UpstreamError {
            name: NAME,
            action: "sign this server's authority",
            source,
        };
        let inner = Arc::clone(&self.0);
        async move {
            tokio::task::spawn_blocking(move || inner.mint(&csr, preferred_ttl))
                .await
                .map_err(|e| failed(e.into()))?
                .map_err(|e| failed(e.into()))
        }
        .boxed()
    }

    /// Always [`Published::Unsupported`]: files have no server to publish JWT keys to.
    fn publish_jwt_key<'a>(
        &'a self,
        _key: &'a JwtAuthority,
    ) -> BoxFuture<'a, Result<Published, UpstreamError>> {
        async { Ok(Published::Unsupported) }.boxed()
    }

    fn bundle(&self) -> Option<BundleUpdates> {
        None
    }

    fn follow(&self, stop: CancellationToken) -> BoxFuture<'_, ()> {
        async move { stop.cancelled().await }.boxed()
    }
}

impl Loaded {
    fn read(
        files: &DiskFiles,
        trust_domain: &TrustDomain,
        clock: &SharedClock,
    ) -> Result<Self, DiskError> {
        let certificates = read_certificates(&files.certificate)?;
        let (roots_file, roots) = match &files.bundle {
            Some(path) => (path, read_certificates(path)?),
            // As in SPIRE, one certificate without a bundle file counts as the root.
            None if certificates.len() == 1 => (&files.certificate, certificates.clone()),
            None => {
                let path = files.certificate.clone();
                return Err(DiskError::NotSelfSigned { path });
            }
        };
        let pair = |source| DiskError::Pair {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            source,
        };
        let own = certificates
            .first()
            .ok_or_else(|| no_certificate(&files.certificate, pem::Error::NoItemsFound))?;
        let ca = ParentCa::new(own.clone(), &read_key(&files.key)?).map_err(pair)?;
        let issuers = certificates
            .into_iter()
            .filter(|certificate| !roots.contains(certificate))
            .collect();
        let roots = roots
            .into_iter()
            .map(X509Authority::new)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| DiskError::Root {
                path: roots_file.clone(),
                source,
            })?;
        let loaded = Self { ca, issuers, roots };
        loaded.check(files, trust_domain, clock)?;
        Ok(loaded)
    }

    /// Signs an authority and discards it, to verify it as a peer would.
    fn check(
        &self,
        files: &DiskFiles,
        trust_domain: &TrustDomain,
        clock: &SharedClock,
    ) -> Result<(), DiskError> {
        let try_it = || {
            let now = clock.now();
            let key = PrivateKey::generate(KeyType::EcP256).map_err(IssueError::from)?;
            let request = authority_request(trust_domain, &Subject::authority(), &key)?;
            let signed = self.ca.sign(trust_domain, &request, TRIAL_TTL, now)?;
            let chain: Vec<_> = signed.chain.iter().chain(&self.issuers).cloned().collect();
            issued_ca::authority(trust_domain, &chain, &self.roots, Arc::new(key), now).map(drop)
        };
        try_it().map_err(|source| DiskError::Chain {
            certificate: files.certificate.clone(),
            source,
        })
    }
}

/// All certificates in a file: at least one, at most [`limits::MAX_UPSTREAM_AUTHORITIES`].
fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, DiskError> {
    let text = read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .take(limits::MAX_UPSTREAM_AUTHORITIES + 1)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| no_certificate(path, source))?;
    match certificates.len() {
        0 => Err(no_certificate(path, pem::Error::NoItemsFound)),
        n if n > limits::MAX_UPSTREAM_AUTHORITIES => Err(DiskError::TooMany { path: path.into() }),
        _ => Ok(certificates),
    }
}

fn no_certificate(path: &Path, source: pem::Error) -> DiskError {
    DiskError::Pem {
        path: path.into(),
        what: "certificate",
        source,
    }
}

/// The first private key in a file: PKCS #8, PKCS #1 or SEC1.
fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, DiskError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|source| DiskError::Pem {
        path: path.into(),
        what: "private key",
        source,
    })
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, DiskError> {
    let failed = |source| DiskError::Read {
        path: path.into(),
        source,
    };
    // Sized up front: `Zeroizing` clears only the last buffer, so growing would leave copies of a key in freed memory.
    let mut text = Zeroizing::new(Vec::with_capacity(FIRST_READ));
    File::open(path)
        .and_then(|file| {
            file.take(limits::MAX_PEM_FILE_BYTES + 1)
                .read_to_end(&mut text)
        })
        .map_err(failed)?;
    if u64::try_from(text.len()).is_ok_and(|len| len > limits::MAX_PEM_FILE_BYTES) {
        return Err(DiskError::TooLarge { path: path.into() });
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
