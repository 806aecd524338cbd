//! A hand-made client: an SVID from the Workload API, links signed under a policy of its own, and requests that carry
//! whatever it likes. It does what the library refuses to do; the other side has to hold.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use countersign_identity::bundle::X509Authority;
use countersign_identity::tls::{ALPN_H2, ExpectedPeer, TlsContext, TlsVersions};
use countersign_identity::verify::Leaf;
use countersign_identity::{Bundle, BundleSet, SpiffeId, X509Svid, svid};
use countersign_mesh::chain::FieldValue;
use countersign_mesh::decide::FieldValues;
use countersign_mesh::{
    CallOrigin, CallRequest, Carrier, Context, Engine, Grant, InboundRequest, Now, OutboundError,
    OutgoingCall, PeerView, Policy, SigningIdentity,
};
use countersign_proto::spiffe::workload::X509svidRequest;
use countersign_proto::spiffe::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use countersign_transport::clock::{Clock as _, RustlsTime, SystemClock};
use countersign_transport::dial::{ClientIo, TlsConnector, UnixConnector};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;
use tonic::transport::Endpoint;

/// A policy that allows the attacker itself everything that a policy can allow.
fn everything(id: &SpiffeId) -> String {
    let domain = id.trust_domain_name();
    format!(
        r#"originate "start anything" {{
  workloads  = ["spiffe://{domain}/**"]
  new_chains = "100000/s burst 100000"
  budget     = 65535
  max_hops   = 16
  deadline   = "24h"
}}
allow "anything" {{
  from     = ["spiffe://{domain}/**"]
  to       = ["spiffe://{domain}/**"]
  actions  = ["POST /**"]
  max_hops = 16
  reentry  = 15
  rate     = "100000/s burst 100000"
  calls_per_chain = 65535
}}
"#
    )
}

/// A workload that plays by no rules but those of TLS.
#[derive(Debug)]
pub struct Attacker {
    svid: X509Svid,
    signer: SigningIdentity,
    tls: TlsContext,
    engine: Engine,
    policy: Arc<Policy>,
    started: Instant,
}

impl Attacker {
    /// Fetches the SVID with this ID from the Workload API at `unix:///path`.
    ///
    /// # Errors
    /// There is none for this process, or the node agent is not there.
    pub async fn join(endpoint: &str, id: &str) -> anyhow::Result<Self> {
        let connector = UnixConnector::new(endpoint);
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await?;
        let mut request = tonic::Request::new(X509svidRequest {});
        request
            .metadata_mut()
            .insert("workload.spiffe.io", "true".parse()?);
        let mut stream = SpiffeWorkloadApiClient::new(channel)
            .fetch_x509svid(request)
            .await?
            .into_inner();
        let response = stream.message().await?.context("the stream ended")?;
        let given = response
            .svids
            .into_iter()
            .find(|given| given.spiffe_id == id)
            .with_context(|| format!("no SVID with the ID {id}"))?;
        let svid = X509Svid::from_der(&given.x509_svid, &given.x509_svid_key)?;
        let mut bundle = Bundle::empty(svid.id().trust_domain());
        for der in svid::split_der(&given.bundle)? {
            bundle.x509_authorities.push(X509Authority::new(der)?);
        }
        Self::with(svid, [bundle].into_iter().collect())
    }

    fn with(svid: X509Svid, bundles: BundleSet) -> anyhow::Result<Self> {
        let bundles = Arc::new(bundles);
        let policy = Policy::parse(&everything(svid.id()))
            .map_err(|e| anyhow::anyhow!("the attacker's own policy: {e}"))?;
        let time = RustlsTime::shared(SystemClock::shared());
        Ok(Self {
            signer: SigningIdentity::new(svid.id().clone(), Arc::new(svid.key().clone()))?,
            tls: TlsContext::new(Arc::<BundleSet>::clone(&bundles), time),
            engine: Engine::new(bundles),
            policy: Arc::new(policy),
            started: Instant::now(),
            svid,
        })
    }

    /// Its SVID.
    #[must_use]
    pub const fn svid(&self) -> &X509Svid {
        &self.svid
    }

    fn now(&self) -> Now {
        Now {
            wall: SystemClock.now(),
            mono: self.started.elapsed(),
        }
    }

    /// Starts a chain, whether or not anybody allowed that.
    ///
    /// # Errors
    /// The system gave no random numbers.
    pub fn start(&self) -> Result<Context, OutboundError> {
        countersign_mesh::outbound::start(&self.policy, &self.signer, self.now())
    }

    /// What a chain that came in allows, by this attacker's own rules: from the raw fields of a request to it
    /// and the caller's certificates.
    ///
    /// # Errors
    /// The chain is not one.
    pub fn received(
        &self,
        method: &str,
        path: &str,
        headers: &HeaderMap,
        caller: &[CertificateDer<'static>],
    ) -> anyhow::Result<Context> {
        let leaf = Leaf::parse(caller.first().context("a caller without a certificate")?)?;
        let field =
            |name| FieldValue::from_lines(headers.get_all(name).iter().map(|v| v.as_bytes()));
        let request = InboundRequest {
            peer: Some(PeerView {
                id: &leaf.id,
                kid: leaf.kid,
                chain: caller,
                not_after: leaf.not_after,
            }),
            presented: self.svid.id(),
            method,
            path,
            carrier: Carrier::Http,
            fields: FieldValues {
                chain: field(Carrier::Http.chain_field()),
                certs: field(Carrier::Http.certs_field()),
                ..FieldValues::default()
            },
        };
        let permit = self.engine.decide(&self.policy, &request, self.now())?;
        permit
            .context()
            .cloned()
            .context("the request had no chain")
    }

    /// Signs the next link for `POST path` at the callee.
    ///
    /// # Errors
    /// Even this policy has limits: 16 hops, 65,535 calls.
    pub fn sign(
        &self,
        context: &Context,
        callee: &SpiffeId,
        path: &str,
    ) -> Result<OutgoingCall, OutboundError> {
        let call = CallRequest {
            callee,
            method: "POST",
            path,
            grant: Grant::ByRule,
        };
        let origin = CallOrigin::Context(context);
        countersign_mesh::outbound::prepare(&self.policy, &self.signer, origin, &call, self.now())
    }

    /// Opens an mTLS connection to whoever is at this address and says they are `callee`.
    ///
    /// # Errors
    /// Nobody is there, or somebody else.
    pub async fn dial(&self, callee: &SpiffeId, address: &str) -> anyhow::Result<ClientIo> {
        let expect = ExpectedPeer::Exactly(callee.clone());
        let config = self
            .tls
            .client(Some(&self.svid), expect, TlsVersions::Only13, &[ALPN_H2])?;
        let connector = TlsConnector::new(Arc::new(config), address, SystemClock::shared());
        Ok(connector.limit(Duration::from_secs(10)).dial().await?)
    }

    /// The certificate that a new connection is shown.
    ///
    /// # Errors
    /// As [`Attacker::dial`].
    pub async fn shown(&self, callee: &SpiffeId, address: &str) -> anyhow::Result<Leaf> {
        Ok(Leaf::clone(self.dial(callee, address).await?.peer()))
    }

    /// Opens a connection without a client certificate and sends a request over it.
    ///
    /// # Errors
    /// The handshake fails, as it should.
    pub async fn send_nameless(
        &self,
        callee: &SpiffeId,
        address: &str,
        request: Request<Bytes>,
    ) -> anyhow::Result<Response<Bytes>> {
        let expect = ExpectedPeer::Exactly(callee.clone());
        let config = self
            .tls
            .client(None, expect, TlsVersions::Only13, &[ALPN_H2])?;
        let connector = TlsConnector::new(Arc::new(config), address, SystemClock::shared());
        exchange(connector.dial().await?, request).await
    }

    /// Sends a request over a connection of its own, exactly as it is.
    ///
    /// # Errors
    /// There is no connection, or no answer.
    pub async fn send(
        &self,
        callee: &SpiffeId,
        address: &str,
        request: Request<Bytes>,
    ) -> anyhow::Result<Response<Bytes>> {
        exchange(self.dial(callee, address).await?, request).await
    }

    /// A request with the fields of a signed call.
    ///
    /// # Errors
    /// The values are no header values.
    pub fn request(path: &str, call: &OutgoingCall, body: Bytes) -> anyhow::Result<Request<Bytes>> {
        let carrier = Carrier::Http;
        let mut request = Request::post(format!("https://callee{path}"))
            .header("content-type", "application/json")
            .header(carrier.chain_field(), call.chain_value(carrier));
        if let Some(certificates) = call.certs_value(carrier) {
            request = request.header(carrier.certs_field(), &*certificates);
        }
        Ok(request.body(body)?)
    }

    /// Signs the next link and sends the call.
    ///
    /// # Errors
    /// It cannot be signed, or there is no answer.
    pub async fn call(
        &self,
        context: &Context,
        callee: &SpiffeId,
        address: &str,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Response<Bytes>> {
        let call = self.sign(context, callee, path)?;
        self.send(callee, address, Self::request(path, &call, body)?)
            .await
    }
}

async fn exchange(io: ClientIo, request: Request<Bytes>) -> anyhow::Result<Response<Bytes>> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request.map(Full::new)).await?;
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    driver.abort();
    ensure!(body.len() <= 1 << 20, "an answer of {} bytes", body.len());
    Ok(Response::from_parts(head, body))
}

/// The reason of a refusal, from its header.
#[must_use]
pub fn reason(response: &Response<Bytes>) -> Option<&str> {
    response
        .headers()
        .get("agent-refusal")
        .and_then(|value| value.to_str().ok())
}
