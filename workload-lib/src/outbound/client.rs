//! Whom to call, and where: from a SPIFFE ID and an address to a client.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use countersign_identity::SpiffeId;
use countersign_mesh::Grant;
use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

use super::connections::Connections;
use crate::error::{CallError, InvalidCallee};
use crate::mesh::Mesh;

/// A workload that is to be called. [`Callee::at`] says where it is, [`Callee::layer`] gives the chain alone.
#[derive(Clone, Debug)]
#[must_use = "say where it is"]
pub struct Callee {
    pub(super) mesh: Mesh,
    pub(super) id: SpiffeId,
}

impl Mesh {
    /// The workload with this SPIFFE ID, to be called. Connections to it accept exactly this ID.
    ///
    /// # Errors
    /// [`InvalidCallee`] if the text is not the SPIFFE ID of a workload.
    ///
    /// # Examples
    /// ```
    /// # async fn example(mesh: countersign::Mesh) -> Result<(), Box<dyn std::error::Error>> {
    /// let reviewer = mesh
    ///     .client("spiffe://example.org/reviewer")?
    ///     .at("https://10.0.0.8:8443")?
    ///     .http();
    /// let review = reviewer.send(http::Request::post("/reviews").body("fn main() {}")?).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn client(&self, callee: impl AsRef<str>) -> Result<Callee, InvalidCallee> {
        let text = callee.as_ref();
        let id = SpiffeId::parse(text).map_err(|source| InvalidCallee::Id {
            id: text.to_owned(),
            source,
        })?;
        if id.path().is_empty() {
            return Err(InvalidCallee::NoPath(id));
        }
        Ok(Callee {
            mesh: self.clone(),
            id,
        })
    }
}

impl Callee {
    /// Where it is: `https://host:port`. The host plays no part in who is accepted there.
    ///
    /// Clients made from the result share their connections; make one per callee and keep it.
    ///
    /// # Errors
    /// [`InvalidCallee::Address`].
    pub fn at(self, address: impl AsRef<str>) -> Result<CalleeClient, InvalidCallee> {
        let address = address.as_ref();
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
        let destination = Destination {
            mesh: self.mesh,
            id: self.id,
            authority,
            target,
            connections: ArcSwapOption::empty(),
        };
        Ok(CalleeClient {
            destination: Arc::new(destination),
            grant: Grant::ByRule,
        })
    }

    /// The callee's SPIFFE ID.
    #[must_use]
    pub const fn id(&self) -> &SpiffeId {
        &self.id
    }
}

/// A callee at its address, with the connections to it.
pub(super) struct Destination {
    pub(super) mesh: Mesh,
    pub(super) id: SpiffeId,
    pub(super) authority: Authority,
    pub(super) target: String,
    connections: ArcSwapOption<Connections>,
}

impl Destination {
    /// The connections of the present generation; those of an earlier one are left to the calls that still use them.
    pub(super) fn connections(&self) -> Result<Arc<Connections>, CallError> {
        let generation = self.mesh.generation()?;
        if let Some(connections) = self.connections.load_full()
            && connections.generation().number() == generation.number()
        {
            return Ok(connections);
        }
        let fresh = Connections::new(generation, &self.id, &self.target, self.mesh.clock())
            .map_err(|error| CallError::Signing(error.into()))?;
        let fresh = Arc::new(fresh);
        self.connections.store(Some(Arc::clone(&fresh)));
        Ok(fresh)
    }

    /// Path and query as they will be sent.
    pub(super) fn path_of(&self, uri: &Uri) -> Result<PathAndQuery, CallError> {
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
}

/// Calls one callee at one address. Cheap to clone; clones share their connections.
///
/// [`CalleeClient::http`] and [`CalleeClient::grpc`] give what sends.
///
/// # Examples
/// ```
/// # async fn example(mesh: countersign::Mesh) -> Result<(), Box<dyn std::error::Error>> {
/// let reviewer = mesh.client("spiffe://example.org/reviewer")?.at("https://10.0.0.8:8443")?;
/// let one_call_of_its_own = reviewer.grant(1).http();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CalleeClient {
    pub(super) destination: Arc<Destination>,
    pub(super) grant: Grant,
}

impl fmt::Debug for CalleeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Destination { id, target, .. } = &*self.destination;
        f.debug_struct("CalleeClient")
            .field("id", id)
            .field("target", target)
            .field("grant", &self.grant)
            .finish()
    }
}

impl CalleeClient {
    /// A client whose calls grant the callee this many calls of its own, such as a
    /// [`Context::split`](crate::Context::split); never more than what is left. Without it, the policy's rule or the
    /// default split decides.
    #[must_use]
    pub fn grant(&self, calls: u16) -> Self {
        Self {
            destination: Arc::clone(&self.destination),
            grant: Grant::Exactly(calls),
        }
    }

    /// The callee.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.destination.id
    }
}
