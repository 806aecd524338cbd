//! Where the first trust in a server comes from.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_identity::bundle::{InvalidAuthority, X509Authority, document};
use countersign_identity::{Bundle, TrustDomain};

use countersign_transport::error::Chain;
use tonic::Status;

use super::download::{BundleUrl, DownloadError};
use crate::workload_client::WorkloadClient;
use crate::{limits, pem};

/// How long another node agent may take to give a bundle, as in SPIRE.
const WORKLOAD_API: Duration = Duration::from_secs(60);

/// How the server is verified on first contact, when there is no bundle on disk yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TrustSource {
    /// By the bundle in this file.
    File(PathBuf),
    /// By the bundle that is got from there.
    Url(BundleUrl),
    /// By the one that another node agent gives on this socket, of its Workload API: nodes that lie inside of others.
    WorkloadApi(PathBuf),
    /// Not at all, because an operator asked for it.
    Insecure,
}

/// What a trust bundle looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BundleFormat {
    /// Certificates in PEM, one after the other.
    #[default]
    Pem,
    /// SPIFFE's bundle document: JSON.
    Spiffe,
}

impl BundleFormat {
    /// The formats by their names.
    pub(crate) const NAMES: [(&'static str, Self); 2] =
        [("pem", Self::Pem), ("spiffe", Self::Spiffe)];
}

/// Whether trust is taken from its source again, once the server can't be verified by what was kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rebootstrap {
    /// Never: the node agent ends.
    #[default]
    Never,
    /// If this node may attest again, after the server has been unknown for so long.
    Auto(Duration),
    /// The same, and a node that may not attest again is a fault.
    Always(Duration),
}

impl Rebootstrap {
    /// How long the server has to be unknown.
    #[must_use]
    pub(crate) const fn delay(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::Auto(delay) | Self::Always(delay) => Some(delay),
        }
    }
}

/// How trust in the server is established, and re-established.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trust {
    /// The source.
    pub(crate) source: TrustSource,
    /// What comes from there.
    pub(crate) format: BundleFormat,
    /// Whether it is asked again.
    pub(crate) rebootstrap: Rebootstrap,
}

impl Trust {
    /// The bundle from the source; `None`: the server's word is taken.
    ///
    /// # Errors
    /// [`TrustError`].
    pub(crate) async fn bundle(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<Bundle>, TrustError> {
        let (text, place) = match &self.source {
            TrustSource::Insecure => return Ok(None),
            TrustSource::WorkloadApi(socket) => {
                return from_workload_api(socket, trust_domain).await.map(Some);
            }
            TrustSource::File(path) => (read(path)?, path.display().to_string()),
            TrustSource::Url(url) => {
                let place = url.place();
                match url.get().await {
                    Ok(text) => (text, place),
                    Err(reason) => return Err(TrustError::Download { place, reason }),
                }
            }
        };
        self.format.read(&text, &place, trust_domain).map(Some)
    }
}

/// Why a trust bundle is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file could not be read.
    #[error("cannot read the trust bundle {}: {reason}: `countersign-server bundle show` prints it, and trust_bundle_path says where it is", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// It could not be got from where it is.
    #[error(
        "cannot get the trust bundle from {place}: {}: check trust_bundle_url",
        Chain(reason)
    )]
    Download {
        /// Where it is.
        place: String,
        /// Why.
        reason: DownloadError,
    },
    /// Another node agent did not give it.
    #[error(
        "cannot get the trust bundle from the Workload API at {}: {reason}: check trust_bundle_spiffe_workload_api, and \
         that this process has an identity there", socket.display()
    )]
    WorkloadApi {
        /// The socket.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is not in the format that was said.
    #[error("the trust bundle {place} is not what trust_bundle_format says: {reason}")]
    Format {
        /// Where it is.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// There is nothing in it.
    #[error(
        "the trust bundle {place} has no certificates: `countersign-server bundle show` prints what belongs there"
    )]
    Empty {
        /// Where it is.
        place: String,
    },
    /// A certificate is no authority.
    #[error("certificate {number} of the trust bundle {place}")]
    Authority {
        /// Where it is.
        place: String,
        /// Which one, counted from 1.
        number: usize,
        /// What is wrong with it.
        source: InvalidAuthority,
    },
}

fn read(path: &Path) -> Result<Vec<u8>, TrustError> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| {
        file.take(limits::TRUST_BUNDLE_FILE_BYTES)
            .read_to_end(&mut text)
    });
    match read {
        Ok(_) => Ok(text),
        Err(reason) => Err(TrustError::Read {
            path: path.to_owned(),
            reason,
        }),
    }
}

/// The bundle of this trust domain from another node agent.
async fn from_workload_api(
    socket: &Path,
    trust_domain: &TrustDomain,
) -> Result<Bundle, TrustError> {
    let fail = |reason: String| TrustError::WorkloadApi {
        socket: socket.to_owned(),
        reason,
    };
    let describe = |status: Status| format!("{:?}: {}", status.code(), status.message());
    let ask = async {
        let mut client = WorkloadClient::connect(socket)
            .await
            .map_err(|error| Chain(&error).to_string())?;
        let mut answers = client.x509_bundles().await.map_err(&describe)?;
        answers
            .message()
            .await
            .map_err(&describe)?
            .ok_or_else(|| "it ended without an answer".to_owned())
    };
    let answer = tokio::time::timeout(WORKLOAD_API, ask)
        .await
        .map_err(|_| fail(format!("no answer within {} s", WORKLOAD_API.as_secs())))?
        .map_err(fail)?;
    let bundles = &answer.bundles;
    let der = bundles
        .get(trust_domain.id().as_str())
        .or_else(|| bundles.get(trust_domain.as_str()))
        .ok_or_else(|| {
            fail(format!(
                "there is none of {trust_domain} among those that it gave"
            ))
        })?;
    let mut bundle = Bundle::empty(trust_domain.clone());
    bundle.x509_authorities =
        X509Authority::split_der(der).map_err(|error| fail(format!("the bundle: {error}")))?;
    if bundle.x509_authorities.is_empty() {
        return Err(TrustError::Empty {
            place: format!("of the Workload API at {}", socket.display()),
        });
    }
    Ok(bundle)
}

impl BundleFormat {
    /// The bundle of this trust domain in a text from `place`, which is only for messages.
    ///
    /// # Errors
    /// The text is of another format, has no certificates, or one that is no authority's.
    pub fn read(
        self,
        text: &[u8],
        place: &str,
        trust_domain: &TrustDomain,
    ) -> Result<Bundle, TrustError> {
        let place = || place.to_owned();
        let fail = |reason: String| TrustError::Format {
            place: place(),
            reason,
        };
        let bundle = match self {
            Self::Pem => {
                let mut bundle = Bundle::empty(trust_domain.clone());
                let certificates = pem::read_certificates(text).map_err(|e| fail(e.to_string()))?;
                for (index, der) in certificates.into_iter().enumerate() {
                    let authority =
                        X509Authority::new(der).map_err(|source| TrustError::Authority {
                            place: place(),
                            number: index + 1,
                            source,
                        })?;
                    bundle.x509_authorities.push(authority);
                }
                bundle
            }
            Self::Spiffe => document::read(trust_domain, text).map_err(|e| fail(e.to_string()))?,
        };
        if bundle.x509_authorities.is_empty() {
            return Err(TrustError::Empty { place: place() });
        }
        Ok(bundle)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use countersign_identity::UnixTime;

    use super::*;
    use crate::test_ca::{TestCa, trust_domain};

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    async fn read(text: &str) -> Result<Bundle, TrustError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.pem");
        std::fs::write(&path, text).unwrap();
        from(&path).await
    }

    async fn from(path: &Path) -> Result<Bundle, TrustError> {
        let trust = Trust {
            source: TrustSource::File(path.to_owned()),
            format: BundleFormat::Pem,
            rebootstrap: Rebootstrap::Never,
        };
        trust.bundle(&trust_domain()).await.map(Option::unwrap)
    }

    #[tokio::test]
    async fn all_authorities_of_the_file_count() {
        let (one, two) = (TestCa::new(NOW), TestCa::new(NOW));
        let bundle = read(&pem::certificates([
            one.authority().der(),
            two.authority().der(),
        ]))
        .await
        .unwrap();
        assert_eq!(
            bundle.x509_authorities,
            [one.authority().clone(), two.authority().clone()]
        );
    }

    #[tokio::test]
    async fn a_bundle_document_is_read_where_the_format_says_so() {
        let ca = TestCa::new(NOW);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.json");
        std::fs::write(&path, document::write(&ca.bundle()).unwrap()).unwrap();
        let trust = Trust {
            source: TrustSource::File(path.clone()),
            format: BundleFormat::Spiffe,
            rebootstrap: Rebootstrap::Never,
        };
        let bundle = trust.bundle(&trust_domain()).await.unwrap().unwrap();
        assert_eq!(bundle.x509_authorities, [ca.authority().clone()]);
        assert!(matches!(
            from(&path).await,
            Err(TrustError::Empty { .. } | TrustError::Format { .. })
        ));
    }

    #[tokio::test]
    async fn each_fault_is_told_with_the_file() {
        assert!(matches!(read("").await, Err(TrustError::Empty { .. })));
        assert!(matches!(
            read("-----BEGIN CERTIFICATE-----\nx\n").await,
            Err(TrustError::Format { .. })
        ));
        let ca = TestCa::new(NOW);
        let leaf = ca.issue(
            &trust_domain().id_with_path("/w").unwrap(),
            Duration::from_secs(60),
            NOW,
        );
        let error = read(&pem::certificates([ca.authority().der(), &leaf.chain()[0]]))
            .await
            .unwrap_err();
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
        let missing = from(Path::new("/nowhere/bundle.pem")).await.unwrap_err();
        assert!(
            missing.to_string().contains("/nowhere/bundle.pem"),
            "{missing}"
        );
    }
}
