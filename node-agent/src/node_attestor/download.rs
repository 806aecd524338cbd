//! Gets a trust bundle over HTTP: by https, or plain over a Unix socket of this machine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_transport::dial::UnixConnector;
use countersign_transport::error::BoxError;
use http::Uri;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::limits;

/// How long it may take in all.
const TIMEOUT: Duration = Duration::from_secs(30);
const HTTPS: u16 = 443;

/// Where a bundle is got from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BundleUrl {
    url: Uri,
    socket: Option<std::path::PathBuf>,
}

/// Why a URL can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidUrl {
    /// It is no URL.
    #[error("not a URL: {0}")]
    Malformed(String),
    /// An attacker on the network could replace the bundle.
    #[error(
        "only https can be believed: `https://…`, or `http://…` together with trust_bundle_unix_socket"
    )]
    NotHttps,
    /// It names no host.
    #[error("the URL has no host")]
    NoHost,
}

/// Why a document could not be got.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// No answer, or not all of it, in time.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
    /// The connection, TLS or HTTP failed.
    #[error(transparent)]
    Failed(BoxError),
}

impl BundleUrl {
    /// `https://…`; with a Unix socket `http://…`, whose host is only sent as the `Host` header.
    ///
    /// # Errors
    /// [`InvalidUrl`].
    pub(crate) fn new(url: &str, socket: Option<&Path>) -> Result<Self, InvalidUrl> {
        let url: Uri = url
            .parse()
            .map_err(|e: http::uri::InvalidUri| InvalidUrl::Malformed(e.to_string()))?;
        match (url.scheme_str(), socket) {
            (Some("https"), None) | (Some("http"), Some(_)) => {}
            _ => return Err(InvalidUrl::NotHttps),
        }
        if url.host().is_none_or(str::is_empty) {
            return Err(InvalidUrl::NoHost);
        }
        let socket = socket.map(Path::to_owned);
        Ok(Self { url, socket })
    }

    /// Where it is, in words.
    pub(super) fn place(&self) -> String {
        match &self.socket {
            Some(socket) => format!("{} at {}", self.url, socket.display()),
            None => self.url.to_string(),
        }
    }

    /// The document there. Redirections are not followed: they could lead away from what was configured.
    pub(super) async fn get(&self) -> Result<Vec<u8>, DownloadError> {
        tokio::time::timeout(TIMEOUT, self.get_unbounded())
            .await
            .map_err(|_| DownloadError::TimedOut)?
            .map_err(DownloadError::Failed)
    }

    async fn get_unbounded(&self) -> Result<Vec<u8>, BoxError> {
        if let Some(socket) = &self.socket {
            return self.ask(UnixConnector::new(socket).dial().await?).await;
        }
        let host = self.url.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.url.port_u16().unwrap_or(HTTPS);
        let tcp = TcpStream::connect((bare, port)).await?;
        let name = ServerName::try_from(bare.to_owned())?;
        let config = tokio::task::spawn_blocking(client_config).await??;
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config));
        self.ask(tls.connect(name, tcp).await?).await
    }

    async fn ask(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Vec<u8>, BoxError> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
        let connection = tokio::spawn(connection);
        let authority = self.url.authority().map_or("", |a| a.as_str());
        let path = self.url.path_and_query().map_or("/", |p| p.as_str());
        let request = http::Request::get(path)
            .header(http::header::HOST, authority)
            .body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        if answer.status() != http::StatusCode::OK {
            return Err(format!("the answer is {}", answer.status()).into());
        }
        let limit = usize::try_from(limits::TRUST_BUNDLE_FILE_BYTES).unwrap_or(usize::MAX);
        let body = Limited::new(answer.into_body(), limit).collect().await?;
        connection.abort();
        Ok(body.to_bytes().to_vec())
    }
}

/// This machine's own roots: the web's public authorities and what its administrator added.
fn client_config() -> Result<rustls::ClientConfig, BoxError> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("this machine has no root certificates: install ca-certificates".into());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use countersign_transport::clock::SystemClock;
    use countersign_transport::serve::Http;
    use countersign_transport::unix::{Access, Socket};
    use countersign_transport::{ServeOptions, serve_unix};
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[test]
    fn only_https_or_a_socket_of_this_machine_is_believed() {
        let socket = Some(Path::new("/run/helper.sock"));
        assert!(BundleUrl::new("https://example.org/bundle", None).is_ok());
        assert!(BundleUrl::new("http://localhost/bundle", socket).is_ok());
        for (url, socket) in [
            ("http://example.org/bundle", None),
            ("https://example.org/bundle", socket),
            ("ftp://example.org/bundle", None),
            ("/bundle", None),
            ("https://", None),
        ] {
            assert!(BundleUrl::new(url, socket).is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn a_bundle_comes_over_a_unix_socket_with_status_200_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let socket = Socket::bind(&path, Access::PUBLIC).await.unwrap();
        let stop = CancellationToken::new();
        let router = Router::new().route("/bundle", get(|| async { "the bundle" }));
        let options = ServeOptions::new(Http::Auto, SystemClock::shared());
        let served = tokio::spawn(serve_unix(socket, router, options, stop.clone()));
        let url = |path: &str| format!("http://helper{path}");
        let there = BundleUrl::new(&url("/bundle"), Some(&path)).unwrap();
        assert_eq!(there.get().await.unwrap(), b"the bundle");
        let missing = BundleUrl::new(&url("/other"), Some(&path)).unwrap();
        assert!(missing.get().await.unwrap_err().to_string().contains("404"));
        stop.cancel();
        served.await.unwrap();
        assert!(there.get().await.is_err());
    }
}
