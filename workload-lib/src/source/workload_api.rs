//! The client of the SPIFFE Workload API: the stream of X.509-SVIDs and bundles.
//!
//! An own client over hyper and tonic's codec, because agents link it: the `spiffe` crate brings forty crates more, and
//! generated code the build dependencies of its generator. The messages are those of `workload.proto` (SPIFFE Workload
//! API, section 5.2), by field number.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use countersign_identity::bundle::{InvalidAuthority, X509Authority};
use countersign_transport::backoff::Backoff;
use countersign_transport::dial::UnixConnector;
use countersign_transport::error::Chain;
use futures_util::{Stream, StreamExt as _};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic_prost::ProstCodec;
use zeroize::Zeroizing;

use super::{Offer, OfferedSvid, Writer};
use crate::error::BoxError;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

const FETCH: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
/// Without it the API refuses a call, so that a browser cannot be made to ask (SPIFFE Workload Endpoint, section 5).
const SECURITY_HEADER: &str = "workload.spiffe.io";
/// What stands in `:authority`: a Unix socket has no name.
const ORIGIN: &str = "http://localhost";

/// Where a Workload API is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// Why a text is not an address of a Workload API (SPIFFE Workload Endpoint, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEndpoint {
    /// Neither `unix:` nor `tcp:`.
    #[error("it must begin with unix: or tcp:")]
    Scheme,
    /// The path of the socket is missing or relative, or follows a host.
    #[error("unix: takes an absolute path, as in unix:///run/countersign/agent.sock")]
    Path,
    /// Not an IP address with a port.
    #[error("tcp: takes an IP address and a port, as in tcp://127.0.0.1:8081")]
    Address,
    /// A query or a fragment.
    #[error("it must not contain '?' or '#'")]
    Query,
}

impl Endpoint {
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        if text.contains(['?', '#']) {
            return Err(InvalidEndpoint::Query);
        }
        if let Some(rest) = text.strip_prefix("unix:") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if !path.starts_with('/') || path == "/" {
                return Err(InvalidEndpoint::Path);
            }
            return Ok(Self::Unix(path.into()));
        }
        let rest = text.strip_prefix("tcp:").ok_or(InvalidEndpoint::Scheme)?;
        let address = rest.strip_prefix("//").unwrap_or(rest);
        let address = address.strip_suffix('/').unwrap_or(address);
        address
            .parse()
            .map(Self::Tcp)
            .map_err(|_| InvalidEndpoint::Address)
    }

    /// The path of a file that is there and is no socket: waiting does not mend that.
    pub(crate) fn not_a_socket(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => {
                let found = std::fs::metadata(path).ok()?;
                (!found.file_type().is_socket()).then_some(path)
            }
            Self::Tcp(_) => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// What the node agent says.
#[derive(Debug)]
pub(crate) enum Message {
    /// The whole state: what is missing in it is withdrawn.
    Offer(Offer),
    /// This process has no identity.
    NoIdentity(String),
    /// The message made no sense; the stream goes on.
    Malformed(Malformed),
    /// The stream is over: the node agent is away, starting, or refuses the call.
    Over(String),
}

/// What is wrong with a message of the Workload API.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the field {0} is missing in the node agent's message")]
    Missing(&'static str),
    #[error("the bundle of {domain:?} is unusable")]
    Bundle {
        domain: String,
        source: InvalidAuthority,
    },
}

/// Follows the Workload API until `stop`.
pub(crate) async fn follow(endpoint: Endpoint, mut writer: Writer, stop: CancellationToken) {
    stop.run_until_cancelled_owned(async move {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT).jitter(0.3);
        loop {
            match open(&endpoint).await {
                Ok(mut stream) => {
                    while let Some(message) = stream.next().await {
                        if writer.hear(message) {
                            backoff.reset();
                        }
                    }
                }
                Err(error) => {
                    let why = Chain(&*error);
                    tracing::debug!(error = %why, "Could not reach the node agent; trying again");
                    writer.note(&format!(
                        "could not reach the node agent at {endpoint}: {why}"
                    ));
                }
            }
            backoff.wait().await;
        }
    })
    .await;
}

impl Writer {
    /// Whether it was good news.
    fn hear(&mut self, message: Message) -> bool {
        match message {
            Message::Offer(offer) => match self.offer(offer) {
                Ok(()) => return true,
                Err(bad) => self.reject(&bad),
            },
            Message::Malformed(malformed) => self.reject(&malformed),
            Message::NoIdentity(why) => self.withdraw(&format!("the node agent says: {why}")),
            Message::Over(why) => {
                tracing::debug!(why, "The node agent ended the stream; trying again");
                self.wait(&format!("the node agent ended the stream: {why}"));
            }
        }
        false
    }
}

/// Opens the stream of SVIDs and bundles.
///
/// # Errors
/// The endpoint is unreachable.
pub(crate) async fn open(
    endpoint: &Endpoint,
) -> Result<impl Stream<Item = Message> + Send + Unpin + use<>, BoxError> {
    let sender = connect(endpoint).await?;
    let mut client = tonic::client::Grpc::with_origin(Sender(sender), Uri::from_static(ORIGIN));
    client.ready().await?;
    let mut request = tonic::Request::new(X509SvidRequest {});
    request
        .metadata_mut()
        .insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    let codec = ProstCodec::<X509SvidRequest, X509SvidResponse>::default();
    let answer = client
        .server_streaming(request, PathAndQuery::from_static(FETCH), codec)
        .await;
    Ok(match answer {
        Ok(stream) => stream
            .into_inner()
            .map(|item| item.map_or_else(|status| ended(&status), read))
            .left_stream(),
        Err(status) => futures_util::stream::iter([ended(&status)]).right_stream(),
    })
}

async fn connect(endpoint: &Endpoint) -> Result<SendRequest<Body>, BoxError> {
    let executor = TokioExecutor::new();
    match endpoint {
        Endpoint::Unix(path) => {
            let io = TokioIo::new(UnixConnector::new(path).dial().await?);
            let (sender, connection) = http2::handshake(executor, io).await?;
            // It ends when the stream and the sender are dropped.
            tokio::spawn(connection);
            Ok(sender)
        }
        Endpoint::Tcp(address) => {
            let io = TokioIo::new(TcpStream::connect(address).await?);
            let (sender, connection) = http2::handshake(executor, io).await?;
            tokio::spawn(connection);
            Ok(sender)
        }
    }
}

/// One HTTP/2 connection as a tower service.
struct Sender(SendRequest<Body>);

impl tower::Service<Request<Body>> for Sender {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

fn ended(status: &tonic::Status) -> Message {
    match status.code() {
        // SPIFFE Workload API, section 6.1: the workload has no identity.
        tonic::Code::PermissionDenied => Message::NoIdentity(status.message().to_owned()),
        _ => Message::Over(Chain(status).to_string()),
    }
}

fn read(response: X509SvidResponse) -> Message {
    match offer(response) {
        Ok(offer) => Message::Offer(offer),
        Err(malformed) => Message::Malformed(malformed),
    }
}

fn offer(response: X509SvidResponse) -> Result<Offer, Malformed> {
    let mut offer = Offer {
        svids: Vec::new(),
        bundles: Vec::new(),
    };
    if response.svids.is_empty() {
        return Err(Malformed::Missing("svids"));
    }
    for svid in response.svids {
        let X509Svid {
            spiffe_id,
            x509_svid,
            x509_svid_key,
            bundle,
            hint,
        } = svid;
        let key = Zeroizing::new(x509_svid_key);
        for (is_missing, field) in [
            (spiffe_id.is_empty(), "spiffe_id"),
            (x509_svid.is_empty(), "x509_svid"),
            (key.is_empty(), "x509_svid_key"),
            (bundle.is_empty(), "bundle"),
        ] {
            if is_missing {
                return Err(Malformed::Missing(field));
            }
        }
        offer.bundles.push(authorities(&spiffe_id, &bundle)?);
        offer.svids.push(OfferedSvid {
            chain: x509_svid,
            id: spiffe_id,
            hint: (!hint.is_empty()).then_some(hint),
            key,
        });
    }
    // A federated bundle of the own trust domain replaces the one that came with the SVID.
    for (domain, bundle) in response.federated_bundles {
        offer.bundles.push(authorities(&domain, &bundle)?);
    }
    Ok(offer)
}

/// The bundle of the trust domain that an ID names or belongs to. Whoever takes the offer over parses the name.
fn authorities(id: &str, der: &[u8]) -> Result<(String, Vec<X509Authority>), Malformed> {
    let rest = id.strip_prefix("spiffe://").unwrap_or(id);
    let domain = rest.split_once('/').map_or(rest, |(domain, _)| domain);
    let authorities = X509Authority::split_der(der).map_err(|source| Malformed::Bundle {
        domain: domain.to_owned(),
        source,
    })?;
    Ok((domain.to_owned(), authorities))
}

#[derive(Clone, PartialEq, prost::Message)]
struct X509SvidRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<X509Svid>,
    /// By `spiffe://<trust domain>`: concatenated DER.
    #[prost(btree_map = "string, bytes", tag = "3")]
    federated_bundles: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
struct X509Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    /// Concatenated DER, the leaf first.
    #[prost(bytes = "vec", tag = "2")]
    x509_svid: Vec<u8>,
    /// PKCS#8, DER, not encrypted.
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    /// The roots of the own trust domain: concatenated DER.
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    hint: String,
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_those_of_the_workload_endpoint() {
        for text in ["unix:///run/agent.sock", "unix:/run/agent.sock"] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(endpoint, Endpoint::Unix("/run/agent.sock".into()));
            assert_eq!(endpoint.to_string(), "unix:///run/agent.sock");
        }
        for text in [
            "tcp://127.0.0.1:8081",
            "tcp:127.0.0.1:8081",
            "tcp://127.0.0.1:8081/",
        ] {
            let address = ([127, 0, 0, 1], 8081).into();
            assert_eq!(Endpoint::parse(text), Ok(Endpoint::Tcp(address)));
        }
        for (text, why) in [
            ("https://example.org", InvalidEndpoint::Scheme),
            ("/run/agent.sock", InvalidEndpoint::Scheme),
            ("unix:run/agent.sock", InvalidEndpoint::Path),
            ("unix://host/agent.sock", InvalidEndpoint::Path),
            ("unix:///", InvalidEndpoint::Path),
            ("unix:///run/agent.sock?a=b", InvalidEndpoint::Query),
            ("tcp://localhost:8081", InvalidEndpoint::Address),
            ("tcp://127.0.0.1", InvalidEndpoint::Address),
            ("tcp://127.0.0.1:8081/path", InvalidEndpoint::Address),
        ] {
            assert_eq!(Endpoint::parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn a_message_without_a_required_field_is_malformed() {
        let svid = |bundle: &[u8]| X509Svid {
            spiffe_id: "spiffe://example.org/planner".to_owned(),
            x509_svid: vec![1],
            x509_svid_key: vec![1],
            bundle: bundle.to_vec(),
            hint: String::new(),
        };
        let missing = |svids| {
            let response = X509SvidResponse {
                svids,
                federated_bundles: BTreeMap::new(),
            };
            match offer(response) {
                Err(Malformed::Missing(field)) => field,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(missing(Vec::new()), "svids");
        assert_eq!(missing(vec![svid(&[])]), "bundle");
    }
}
