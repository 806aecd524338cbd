//! Clients of one callee.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use arc_swap::ArcSwapOption;
use axum::body::Body;
use bytes::Bytes;
use countersign_identity::SpiffeId;
use countersign_identity::spiffe_id::InvalidId;
use countersign_identity::tls::peer_error;
use countersign_identity::verify::PeerError;
use countersign_mesh::chain::field::{CERTS_HEADER, CERTS_METADATA, CHAIN_HEADER, CHAIN_METADATA};
use countersign_mesh::outbound::{CallRequest, OutgoingCall, prepare};
use countersign_mesh::refusal::loggable;
use countersign_mesh::{Carrier, Grant, Origin};
use countersign_transport::dial::{Cause, DialError};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, request};
use hyper::body::Incoming;

use super::connections::{Connections, never_reached};
use super::error::CallError;
use super::replay::Replay;
use super::reply;
use crate::BoxError;
use crate::causes;
use crate::context::Context;
use crate::current::Current;
use crate::exchange::{Exchange, ExchangeBody};
use crate::mesh::Mesh;

/// How often a request goes out that provably never reached the callee.
const TRIES: usize = 3;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCallee {
    /// The callee's name is not the SPIFFE ID of a workload.
    #[error("{id:?} is not the SPIFFE ID of a workload: {source}")]
    Id {
        /// What was given.
        id: String,
        /// The rule that it breaks.
        source: InvalidId,
    },
    /// The SPIFFE ID has no path: it names a trust domain.
    #[error("{0} names a trust domain, not a workload: a path is missing")]
    NoPath(SpiffeId),
    /// The address is not one.
    #[error("{0:?} is not an address of a callee: write https://host:port, without a path")]
    Address(String),
}

/// A workload that is to be called; [`Callee::at`] says where.
#[derive(Debug)]
#[must_use = "say where it is"]
pub struct Callee {
    mesh: Mesh,
    id: String,
}

impl Mesh {
    /// The workload with this SPIFFE ID, to be called. Connections to it accept exactly this ID.
    pub fn callee(&self, id: impl Into<String>) -> Callee {
        Callee {
            mesh: self.clone(),
            id: id.into(),
        }
    }
}

impl Callee {
    /// Where it is: `https://host:port`. The host plays no part in who is accepted there.
    ///
    /// Clients made from the result share their connections; make one per callee and keep it.
    ///
    /// # Errors
    /// [`InvalidCallee`].
    pub fn at(self, address: &str) -> Result<CalleeClient, InvalidCallee> {
        let id = SpiffeId::parse(&self.id).map_err(|source| InvalidCallee::Id {
            id: self.id,
            source,
        })?;
        if id.path().is_empty() {
            return Err(InvalidCallee::NoPath(id));
        }
        let invalid = || InvalidCallee::Address(address.to_owned());
        let uri: Uri = address.parse().map_err(|_| invalid())?;
        let authority = uri
            .authority()
            .filter(|a| !a.as_str().contains('@'))
            .ok_or_else(invalid)?
            .clone();
        if uri.scheme() != Some(&Scheme::HTTPS)
            || uri.path_and_query().is_some_and(|path| path != "/")
        {
            return Err(invalid());
        }
        let target = match authority.port_u16() {
            Some(_) => authority.to_string(),
            None => format!("{}:443", authority.host()),
        };
        let place = Place {
            mesh: self.mesh,
            id,
            authority,
            target,
            connections: ArcSwapOption::empty(),
        };
        Ok(CalleeClient {
            place: Arc::new(place),
            grant: Grant::ByRule,
        })
    }
}

/// A callee at a place.
struct Place {
    mesh: Mesh,
    id: SpiffeId,
    authority: Authority,
    target: String,
    connections: ArcSwapOption<Connections>,
}

/// Calls one callee. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct CalleeClient {
    place: Arc<Place>,
    grant: Grant,
}

impl fmt::Debug for CalleeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { id, target, .. } = &*self.place;
        f.debug_struct("CalleeClient")
            .field("id", id)
            .field("target", target)
            .field("grant", &self.grant)
            .finish()
    }
}

impl CalleeClient {
    /// A client whose calls grant the callee this many calls of its own, such as a [`Context::split`]; never more than
    /// what is left. Without it, the policy's rule or the default split decides.
    #[must_use]
    pub fn grant(&self, calls: u16) -> Self {
        Self {
            place: Arc::clone(&self.place),
            grant: Grant::Exactly(calls),
        }
    }

    /// The callee.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.place.id
    }

    /// For the clients that tonic generates: `TasksClient::new(callee.grpc())`.
    #[must_use]
    pub fn grpc(&self) -> GrpcClient {
        GrpcClient(self.clone())
    }

    /// For plain HTTP.
    #[must_use]
    pub fn http(&self) -> HttpClient {
        HttpClient(self.clone())
    }
}

/// A gRPC client of one callee: a tower service that the clients generated by tonic accept.
///
/// A call that fails before the callee's handler answers ends with a [`tonic::Status`] in our own words;
/// [`Refused::of`](crate::Refused::of) tells whether it was refused, and why.
#[derive(Clone, Debug)]
pub struct GrpcClient(CalleeClient);

/// An HTTP client of one callee: a tower service, with [`HttpClient::send`] for direct use.
#[derive(Clone, Debug)]
pub struct HttpClient(CalleeClient);

type Boxed<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl HttpClient {
    /// Makes one call. The request's URI needs a path only; scheme and host, if there, must be the callee's.
    ///
    /// # Errors
    /// [`CallError`]: refused by this process or by the callee, or failed before there was an answer. An answer with
    /// any other status, an error status included, is a response.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<Body>, CallError>
    where
        B: Into<Body>,
    {
        self.0
            .clone()
            .call(Carrier::Http, request.map(Into::into))
            .await
    }
}

impl<B> tower::Service<Request<B>> for HttpClient
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = CallError;
    type Future = Boxed<CallError>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(self.0.clone().call(Carrier::Http, request.map(Body::new)))
    }
}

impl<B> tower::Service<Request<B>> for GrpcClient
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Boxed<Infallible>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let client = self.0.clone();
        Box::pin(async move {
            let answered = client.call(Carrier::Grpc, request.map(Body::new)).await;
            Ok(answered.unwrap_or_else(|error| error.status().into_http()))
        })
    }
}

impl CalleeClient {
    /// One attempt: pays for it, signs its link, and sends it on a connection of the same generation.
    async fn call(
        self,
        carrier: Carrier,
        request: Request<Body>,
    ) -> Result<Response<Body>, CallError> {
        let place = &self.place;
        let (head, body) = request.into_parts();
        let path = place.path_of(&head.uri)?;
        let connections = place.connections()?;
        let action = CallRequest {
            callee: &place.id,
            method: head.method.as_str(),
            path: path.path(),
            grant: self.grant,
        };
        let call = place.prepare(&connections, &head, &action)?;
        tracing::debug!(callee = %place.id, action = %format_args!("{} {}", action.method, action.path),
            chain = %call.chain_id(), hop = call.hop(), granted = call.granted(), "calling");
        let head = place.head(head, carrier, path, &call)?;
        let deadline = place.mesh.instant_of(call.deadline());
        let response =
            tokio::time::timeout_at(deadline, place.send(&connections, carrier, head, body))
                .await
                .map_err(|_| CallError::deadline_passed())??;
        let (head, body) = response.into_parts();
        let body = Body::new(ExchangeBody::new(body, Exchange::outbound(deadline), None));
        if let Some(refused) = reply::refusal(&head) {
            call.refused(refused.reason());
            reply::log(&place.id, &refused, &head, body).await;
            return Err(refused.into());
        }
        Ok(Response::from_parts(head, body))
    }
}

impl Place {
    /// The connections of the present generation; those of an earlier one are left to the calls that still use them.
    fn connections(&self) -> Result<Arc<Connections>, CallError> {
        let generation = self.mesh.generation()?;
        if let Some(connections) = self.connections.load_full()
            && connections.generation().number() == generation.number()
        {
            return Ok(connections);
        }
        let fresh = Connections::new(generation, &self.id, &self.target, self.mesh.clock())
            .map_err(|error| {
                CallError::Signing(format!("no TLS configuration could be made: {error}"))
            })?;
        let fresh = Arc::new(fresh);
        self.connections.store(Some(Arc::clone(&fresh)));
        Ok(fresh)
    }

    fn prepare(
        &self,
        connections: &Connections,
        head: &request::Parts,
        action: &CallRequest<'_>,
    ) -> Result<OutgoingCall, CallError> {
        let current = Context::of(&head.extensions)
            .map(Current::In)
            .or_else(Current::get);
        let origin = match &current {
            Some(Current::In(context)) => Origin::Context(context.chain()),
            Some(Current::Barred) => Origin::Chainless,
            None => Origin::Nothing,
        };
        let signer = connections.generation().signer();
        prepare(
            &self.mesh.policy(),
            signer,
            origin,
            action,
            self.mesh.moment(),
        )
        .map_err(|error| CallError::not_sent(&error))
    }

    /// Path and query as they will be sent.
    fn path_of(&self, uri: &Uri) -> Result<PathAndQuery, CallError> {
        if let Some(found) = uri.authority()
            && *found != self.authority
        {
            let (expected, found) = (self.authority.to_string(), found.to_string());
            return Err(CallError::WrongAddress {
                callee: self.id.clone(),
                expected,
                found,
            });
        }
        Ok(uri
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/")))
    }

    fn head(
        &self,
        mut head: request::Parts,
        carrier: Carrier,
        path: PathAndQuery,
        call: &OutgoingCall,
    ) -> Result<request::Parts, CallError> {
        let uri = Uri::builder()
            .scheme(Scheme::HTTPS)
            .authority(self.authority.clone())
            .path_and_query(path);
        head.uri = uri.build().map_err(CallError::Request)?;
        if carrier == Carrier::Http {
            // The connection decides between HTTP/1.1 and HTTP/2.
            head.version = http::Version::HTTP_11;
        }
        head.extensions = http::Extensions::new();
        let fields = &mut head.headers;
        for name in [CHAIN_HEADER, CERTS_HEADER, CHAIN_METADATA, CERTS_METADATA] {
            fields.remove(name);
        }
        insert(fields, carrier.chain_field(), &call.chain_value(carrier))?;
        if let Some(certificates) = call.certs_value(carrier) {
            insert(fields, carrier.certs_field(), &certificates)?;
        }
        Ok(head)
    }

    async fn send(
        &self,
        connections: &Connections,
        carrier: Carrier,
        head: request::Parts,
        body: Body,
    ) -> Result<Response<Incoming>, CallError> {
        let replay = Replay::new(body);
        let mut body = replay.first();
        let mut left = TRIES;
        loop {
            left -= 1;
            let error = match connections
                .send(carrier, Request::from_parts(head.clone(), body))
                .await
            {
                Ok(response) => {
                    replay.settle();
                    return Ok(response);
                }
                Err(error) => error,
            };
            match replay.again().filter(|_| left > 0 && never_reached(&error)) {
                Some(again) => body = again,
                None => return Err(self.failed(error)),
            }
            tracing::debug!(callee = %self.id, %error, "the request never reached the callee; sending it again");
        }
    }

    fn failed(&self, error: hyper_util::client::legacy::Error) -> CallError {
        let callee = self.id.clone();
        if !error.is_connect() {
            let said = format!("{error:?}");
            tracing::info!(%callee, error = loggable(&said), "a call failed");
            return CallError::Failed {
                callee,
                source: error.into(),
            };
        }
        let address = self.target.clone();
        // Under hyper's own words stand those of the connector.
        let mut source = match std::error::Error::source(&error) {
            Some(cause) => causes::on_one_line(cause),
            None => error.to_string(),
        };
        if is_about_a_stranger(&error) {
            // The ID in a certificate that nobody vouches for is a text of a stranger's choice.
            tracing::info!(%callee, error = loggable(&source), "nobody vouches for who answers there");
            Cause::of(&error)
                .map_or("who answers there is not known", Cause::advice)
                .clone_into(&mut source);
        }
        CallError::Unreachable {
            callee,
            address,
            source: source.into(),
        }
    }
}

/// Whether the certificate at the other end was refused before anyone vouched for what stands in it.
fn is_about_a_stranger(error: &hyper_util::client::legacy::Error) -> bool {
    match DialError::of(error) {
        Some(DialError::Tls { source, .. }) => {
            peer_error(source).is_some_and(|refused| !matches!(refused, PeerError::WrongId { .. }))
        }
        _ => false,
    }
}

fn insert(fields: &mut HeaderMap, name: &'static str, value: &str) -> Result<(), CallError> {
    let mut value =
        HeaderValue::from_str(value).map_err(|error| CallError::Request(error.into()))?;
    // Never indexed by HPACK, never shown by Debug.
    value.set_sensitive(true);
    fields.insert(name, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_never_indexed_and_never_shown() {
        let mut fields = HeaderMap::new();
        insert(&mut fields, CHAIN_HEADER, ":abc:").unwrap();
        assert!(fields[CHAIN_HEADER].is_sensitive());
        assert_eq!(format!("{fields:?}"), "{\"agent-chain\": Sensitive}");
    }
}
