//! The bundle endpoint's Web PKI certificate, from files that are read again at an interval.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign_identity::tls::{ALPN_H2, ALPN_HTTP11, KeyExchange, TlsVersions};
use countersign_identity::{KeyId, SpiffeId, UnixTime};
use countersign_transport::clock::RustlsTime;
use countersign_transport::error::{BoxError, Chain};
use countersign_transport::{Presented, SharedClock};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::CertificateFiles;
use crate::limits;

/// Why the files can't be presented.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCertificate {
    /// A file can't be read.
    #[error("could not read {}: check that it is there, and that this user may read it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is larger than [`limits::MAX_CERTIFICATE_FILE_BYTES`].
    #[error("{} is larger than {} bytes", path.display(), limits::MAX_CERTIFICATE_FILE_BYTES)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file holds no certificate in PEM.
    #[error("{} holds no certificates in PEM", path.display())]
    Chain {
        /// The file.
        path: PathBuf,
    },
    /// The file holds no private key in PEM.
    #[error("{} holds no private key in PEM", path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key don't match, or are of a kind that TLS does not have.
    #[error("{} and {} can't be used for TLS", chain.display(), key.display())]
    Pair {
        /// The certificates' file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The thread that read them panicked.
    #[error("the files were not read")]
    Step(#[source] BoxError),
}

/// The certificate that the bundle endpoint presents, reloaded as its files change.
#[derive(Debug)]
pub(crate) struct CertificateFile {
    files: CertificateFiles,
    id: SpiffeId,
    key_exchange: KeyExchange,
    clock: SharedClock,
    /// The contents that `current` was made from.
    read: Files,
    current: watch::Sender<Option<Arc<Presented>>>,
}

/// The bytes of both files.
#[derive(PartialEq, Eq)]
struct Files {
    chain: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Files({} and {} bytes)",
            self.chain.len(),
            self.key.len()
        )
    }
}

impl CertificateFile {
    /// Reads the files for the first time. `id` is the server's own, for logs.
    ///
    /// # Errors
    /// They can't be used.
    pub(crate) async fn open(
        files: CertificateFiles,
        id: SpiffeId,
        key_exchange: KeyExchange,
        clock: SharedClock,
    ) -> Result<Self, InvalidCertificate> {
        let read = read(&files).await?;
        let presented = present(&files, &read, &id, key_exchange, &clock)?;
        Ok(Self {
            files,
            id,
            key_exchange,
            clock,
            read,
            current: watch::Sender::new(Some(Arc::new(presented))),
        })
    }

    /// The certificate for listeners, as it changes.
    #[must_use]
    pub(crate) fn identity(&self) -> watch::Receiver<Option<Arc<Presented>>> {
        self.current.subscribe()
    }

    /// Reads the files at each interval until `stop`.
    ///
    /// # Errors
    /// None: if the files can't be used, the previous certificate stays, with a warning.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), BoxError> {
        let pause: Duration = self.files.sync_interval;
        while stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_some()
        {
            match self.reload().await {
                Ok(true) => tracing::info!("The bundle endpoint presents a new certificate"),
                Ok(false) => {}
                Err(error) => tracing::warn!(
                    error = %Chain(&error),
                    "The bundle endpoint's certificate could not be reloaded; the previous one stays in use"
                ),
            }
        }
        Ok(())
    }

    /// Presents what is in the files; whether that is new.
    async fn reload(&mut self) -> Result<bool, InvalidCertificate> {
        let read = read(&self.files).await?;
        if read == self.read {
            return Ok(false);
        }
        let presented = present(&self.files, &read, &self.id, self.key_exchange, &self.clock)?;
        self.read = read;
        self.current.send_replace(Some(Arc::new(presented)));
        Ok(true)
    }
}

async fn read(files: &CertificateFiles) -> Result<Files, InvalidCertificate> {
    let (chain, key) = (files.chain.clone(), files.key.clone());
    tokio::task::spawn_blocking(move || {
        Ok(Files {
            chain: bounded(&chain)?,
            key: Zeroizing::new(bounded(&key)?),
        })
    })
    .await
    .map_err(|e| InvalidCertificate::Step(e.into()))?
}

fn bounded(path: &Path) -> Result<Vec<u8>, InvalidCertificate> {
    use std::io::Read as _;

    let limit = limits::MAX_CERTIFICATE_FILE_BYTES;
    let failed = |source| InvalidCertificate::Read {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= limit) {
        return Ok(bytes);
    }
    Err(InvalidCertificate::TooLarge {
        path: path.to_owned(),
    })
}

fn present(
    files: &CertificateFiles,
    read: &Files,
    id: &SpiffeId,
    key_exchange: KeyExchange,
    clock: &SharedClock,
) -> Result<Presented, InvalidCertificate> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read.chain)
        .collect::<Result<_, _>>()
        .ok()
        .filter(|chain: &Vec<_>| !chain.is_empty())
        .ok_or_else(|| InvalidCertificate::Chain {
            path: files.chain.clone(),
        })?;
    let kid = KeyId::of_spki(chain.first().map_or(&[], |leaf| leaf.as_ref()));
    let key = PrivateKeyDer::from_pem_slice(&read.key).map_err(|_| InvalidCertificate::Key {
        path: files.key.clone(),
    })?;
    let config =
        tls(chain, key, key_exchange, clock).map_err(|source| InvalidCertificate::Pair {
            chain: files.chain.clone(),
            key: files.key.clone(),
            source,
        })?;
    Ok(Presented {
        config: Arc::new(config),
        // A Web PKI certificate has no SPIFFE ID: these two only name the connection in logs.
        id: id.clone(),
        kid,
        // The client judges the certificate's expiry; no connection is cut for it.
        not_after: UnixTime::from_secs(u64::from(u32::MAX)),
    })
}

fn tls(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    key_exchange: KeyExchange,
    clock: &SharedClock,
) -> Result<rustls::ServerConfig, rustls::Error> {
    let provider = Arc::new(key_exchange.provider());
    let time = RustlsTime::shared(Arc::clone(clock));
    let mut config = rustls::ServerConfig::builder_with_details(provider, time)
        .with_protocol_versions(key_exchange.versions(TlsVersions::From12))?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = [ALPN_H2, ALPN_HTTP11].map(<[u8]>::to_vec).into();
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
