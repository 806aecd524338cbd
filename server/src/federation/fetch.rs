//! One fetch of a foreign trust domain's bundle: connection, authentication of the endpoint, redirects, document.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_identity::bundle::Bundles;
use countersign_identity::bundle::document::{self, InvalidDocument};
use countersign_identity::federation::{EndpointProfile, EndpointUrl, InvalidUrl, Relationship};
use countersign_identity::tls::{ALPN_HTTP11, ExpectedPeer, KeyExchange, TlsContext, TlsVersions};
use countersign_identity::{Bundle, SpiffeId, TrustDomain};
use countersign_transport::SharedClock;
use countersign_transport::clock::RustlsTime;
use countersign_transport::dial::{Cause, DialError, TlsConnector};
use countersign_transport::error::Chain;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::limits;

/// The user agent, for the endpoint's log.
const AGENT: &str = concat!("countersign-server/", env!("CARGO_PKG_VERSION"));
/// How long name resolution, TCP and TLS may take together.
const DIAL: Duration = Duration::from_secs(10);

/// Why a bundle was not fetched. Each message says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FetchError {
    /// No bundle is stored to verify the endpoint with.
    #[error(
        "no bundle of trust domain {0:?} is stored, so the endpoint's SVID can't be verified: set it once, with \
         `bundle set -id spiffe://{0} -format spiffe`"
    )]
    NoBundle(TrustDomain),
    /// The connection to an `https_spiffe` endpoint failed.
    #[error("{}", dial_advice(.0))]
    Dial(#[source] DialError),
    /// The connection to an `https_web` endpoint failed.
    #[error("cannot connect to {url}")]
    Connect {
        /// Where to.
        url: EndpointUrl,
        /// Why.
        source: io::Error,
    },
    /// The host is no name that a certificate could have.
    #[error("the host of {0} is neither a name nor an address")]
    Host(EndpointUrl),
    /// The handshake with an `https_web` endpoint failed.
    #[error(
        "{url} could not prove by the Web PKI that it is its host: have it present a certificate for this host by an \
         authority that this machine trusts, or, if it presents an X.509-SVID, use the profile https_spiffe"
    )]
    Web {
        /// Where to.
        url: EndpointUrl,
        /// Why.
        source: io::Error,
    },
    /// This machine has no root certificates.
    #[error(
        "this machine has no root certificates: install them (package ca-certificates), or name a file with \
         SSL_CERT_FILE"
    )]
    NoRoots,
    /// rustls refused the settings.
    #[error("TLS could not be set up")]
    Tls(#[from] rustls::Error),
    /// The HTTP exchange failed.
    #[error("the exchange with {url} broke")]
    Http {
        /// With whom.
        url: EndpointUrl,
        /// How.
        source: hyper::Error,
    },
    /// The request could not be made.
    #[error("no request for {url} can be made")]
    Request {
        /// Where to.
        url: EndpointUrl,
        /// Why.
        source: http::Error,
    },
    /// The body broke off, or is too large.
    #[error("the answer of {url} could not be read, {}", body_advice(source.as_ref()))]
    Body {
        /// Whose.
        url: EndpointUrl,
        /// How.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The status is not 200.
    #[error("unexpected status {status} fetching the bundle from {url}: check the URL")]
    Status {
        /// From where.
        url: EndpointUrl,
        /// Which.
        status: StatusCode,
    },
    /// The location of a redirect can't be a bundle endpoint.
    #[error("{url} redirects to where no bundle endpoint can be")]
    Redirect {
        /// From where.
        url: EndpointUrl,
        /// Why not.
        source: InvalidUrl,
    },
    /// Too many redirects.
    #[error("{url} redirects more than {limit} times", limit = limits::MAX_REDIRECTS)]
    Redirects {
        /// From where.
        url: EndpointUrl,
    },
    /// The body is no bundle document.
    #[error("what {url} serves can't be used")]
    Document {
        /// Where.
        url: EndpointUrl,
        /// Why not.
        source: InvalidDocument,
    },
    /// The whole fetch took too long.
    #[error("{url} did not answer within {limit} s", limit = limits::BUNDLE_FETCH.as_secs())]
    Slow {
        /// Who.
        url: EndpointUrl,
    },
}

fn dial_advice(error: &DialError) -> String {
    match Cause::of(error) {
        Some(cause) => format!("the bundle endpoint can't be used: {}", cause.advice()),
        None => "the bundle endpoint can't be used".to_owned(),
    }
}

fn body_advice(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    if error.is::<LengthLimitError>() {
        return format!("it is larger than {} bytes", document::MAX_DOCUMENT_LEN);
    }
    "it broke off".to_owned()
}

/// Fetches bundles.
#[derive(Clone, Debug)]
pub(super) struct Fetcher {
    bundles: Arc<dyn Bundles>,
    tls: TlsContext,
    key_exchange: KeyExchange,
    clock: SharedClock,
}

/// The answer of an endpoint.
enum Answer {
    Document(Bytes),
    /// Redirected to this location.
    Redirect(String),
}

impl Fetcher {
    /// A fetcher that verifies endpoints with an SVID against these bundles, as they are at the time of the fetch.
    pub(super) fn new(
        bundles: Arc<dyn Bundles>,
        key_exchange: KeyExchange,
        clock: SharedClock,
    ) -> Self {
        Self {
            tls: TlsContext::new(Arc::clone(&bundles), RustlsTime::shared(Arc::clone(&clock)))
                .exchanging(key_exchange),
            key_exchange,
            bundles,
            clock,
        }
    }

    /// Fetches the bundle of a relationship.
    pub(super) async fn fetch(&self, from: &Relationship) -> Result<Bundle, FetchError> {
        tokio::time::timeout(limits::BUNDLE_FETCH, self.follow(from))
            .await
            .unwrap_or_else(|_| {
                Err(FetchError::Slow {
                    url: from.url.clone(),
                })
            })
    }

    async fn follow(&self, from: &Relationship) -> Result<Bundle, FetchError> {
        let mut url = from.url.clone();
        for _ in 0..=limits::MAX_REDIRECTS {
            let answer = match &from.profile {
                EndpointProfile::Spiffe(id) => exchange(self.dial(&url, id).await?, &url).await?,
                EndpointProfile::Web => exchange(self.dial_web(&url).await?, &url).await?,
            };
            match answer {
                Answer::Document(json) => {
                    return document::read(&from.trust_domain, &json)
                        .map_err(|source| FetchError::Document { url, source });
                }
                Answer::Redirect(location) => {
                    url = url
                        .redirected(&location)
                        .map_err(|source| FetchError::Redirect { url, source })?;
                }
            }
        }
        Err(FetchError::Redirects {
            url: from.url.clone(),
        })
    }

    /// Connects to an `https_spiffe` endpoint with exactly this ID, verified by the bundle of the ID's trust domain.
    async fn dial(
        &self,
        url: &EndpointUrl,
        id: &SpiffeId,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>, FetchError> {
        if self.bundles.bundle_of(id).is_none() {
            return Err(FetchError::NoBundle(id.trust_domain()));
        }
        let expect = ExpectedPeer::Exactly(id.clone());
        let config = self
            .tls
            .client(None, expect, TlsVersions::From12, &[ALPN_HTTP11])?;
        TlsConnector::new(Arc::new(config), &target(url), Arc::clone(&self.clock))
            .limit(DIAL)
            .dial()
            .await
            .map_err(FetchError::Dial)
    }

    /// Connects to an `https_web` endpoint, verified by the roots of this machine.
    async fn dial_web(
        &self,
        url: &EndpointUrl,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>, FetchError> {
        let host = url.host().trim_start_matches('[').trim_end_matches(']');
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| FetchError::Host(url.clone()))?;
        let config = Arc::new(self.web().await?);
        let connect = |source| FetchError::Connect {
            url: url.clone(),
            source,
        };
        let late = |_| connect(io::ErrorKind::TimedOut.into());
        let tcp = tokio::time::timeout(DIAL, TcpStream::connect(target(url)))
            .await
            .map_err(late)?
            .map_err(connect)?;
        let handshake = tokio_rustls::TlsConnector::from(config).connect(name, tcp);
        tokio::time::timeout(DIAL, handshake)
            .await
            .map_err(late)?
            .map_err(|source| FetchError::Web {
                url: url.clone(),
                source,
            })
    }

    /// Reads this machine's roots each time, since they are replaced while the server runs.
    async fn web(&self) -> Result<rustls::ClientConfig, FetchError> {
        let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
            .await
            .map_err(|_| FetchError::NoRoots)?;
        for error in &found.errors {
            tracing::debug!(error = %Chain(error), "Some root certificates of this machine can't be read");
        }
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(FetchError::NoRoots);
        }
        let provider = Arc::new(self.key_exchange.provider());
        let time = RustlsTime::shared(Arc::clone(&self.clock));
        let mut config = rustls::ClientConfig::builder_with_details(provider, time)
            .with_protocol_versions(self.key_exchange.versions(TlsVersions::From12))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN_HTTP11.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }
}

fn target(url: &EndpointUrl) -> String {
    format!("{}:{}", url.host(), url.port())
}

/// Makes one request over a connection of its own.
async fn exchange(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &EndpointUrl,
) -> Result<Answer, FetchError> {
    let broken = |source| FetchError::Http {
        url: url.clone(),
        source,
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(broken)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get(url.path_and_query())
        .header(header::HOST, url.authority())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, AGENT)
        .body(Empty::<Bytes>::new())
        .map_err(|source| FetchError::Request {
            url: url.clone(),
            source,
        })?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    if status != StatusCode::OK {
        let location = response.headers().get(header::LOCATION);
        return match location.and_then(|location| location.to_str().ok()) {
            Some(location) if is_redirect(status) => Ok(Answer::Redirect(location.to_owned())),
            _ => Err(FetchError::Status {
                url: url.clone(),
                status,
            }),
        };
    }
    let body = Limited::new(response.into_body(), document::MAX_DOCUMENT_LEN);
    match body.collect().await {
        Ok(body) => Ok(Answer::Document(body.to_bytes())),
        Err(source) => Err(FetchError::Body {
            url: url.clone(),
            source,
        }),
    }
}

/// The statuses that redirect a GET (RFC 9110, section 15.4).
fn is_redirect(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    )
}

#[cfg(test)]
mod tests;
