//! One attempt of a call: it pays, signs its link, and reads the answer. What carries it is the caller's business.

use axum::body::Body;
use countersign_identity::SpiffeId;
use countersign_mesh::chain::field::{CERTS_HEADER, CERTS_METADATA, CHAIN_HEADER, CHAIN_METADATA};
use countersign_mesh::outbound::{CallRequest, OutgoingCall, prepare};
use countersign_mesh::{CallOrigin, Carrier, Grant, Reason, Refusal};
use http::{HeaderMap, HeaderValue, Response, request};
use tokio::time::Instant;

use super::reply;
use crate::context::{Context, Current, outbound_error, refused_here};
use crate::error::{BoxError, CallError};
use crate::exchange::{Exchange, ExchangeBody};
use crate::mesh::Mesh;
use crate::source::Generation;

/// A call that is paid for and signed.
pub(super) struct Attempt {
    mesh: Mesh,
    callee: SpiffeId,
    call: OutgoingCall,
    deadline: Instant,
}

impl Attempt {
    /// Pays for the call that `head` asks for, signs its link with this generation's key, and puts the chain into the
    /// fields of `head`, in place of any that were there.
    pub(super) fn begin(
        mesh: &Mesh,
        generation: &Generation,
        (callee, grant): (&SpiffeId, Grant),
        carrier: Carrier,
        head: &mut request::Parts,
    ) -> Result<Self, CallError> {
        let current = Context::from_extensions(&head.extensions)
            .map(Current::In)
            .or_else(Current::get);
        let origin = match &current {
            Some(Current::In(context)) => CallOrigin::Context(context.chain()),
            Some(Current::NoOrigination) => CallOrigin::NoOrigination,
            None => CallOrigin::NewChain,
        };
        let action = CallRequest {
            callee,
            method: head.method.as_str(),
            path: match head.uri.path() {
                "" => "/",
                path => path,
            },
            grant,
        };
        let call = prepare(
            &mesh.policy(),
            generation.signer(),
            origin,
            &action,
            mesh.now(),
        )
        .map_err(|error| outbound_error(mesh, Some(callee), error))?;
        tracing::debug!(%callee, action = %format_args!("{} {}", action.method, action.path),
            chain = %call.chain_id(), hop = call.hop(), granted = call.granted(), "Calling");
        let fields = &mut head.headers;
        for name in [CHAIN_HEADER, CERTS_HEADER, CHAIN_METADATA, CERTS_METADATA] {
            fields.remove(name);
        }
        insert(fields, carrier.chain_field(), &call.chain_value(carrier))?;
        if let Some(certificates) = call.certs_value(carrier) {
            insert(fields, carrier.certs_field(), &certificates)?;
        }
        // The chain goes out in the fields; the context itself is for this process alone.
        head.extensions.remove::<Context>();
        let deadline = mesh.instant_of(call.deadline());
        Ok(Self {
            mesh: mesh.clone(),
            callee: callee.clone(),
            call,
            deadline,
        })
    }

    /// Waits for the answer, at most until the chain's deadline, and reads whether it is a refusal.
    pub(super) async fn answer<R>(
        self,
        sending: impl Future<Output = Result<Response<R>, CallError>>,
    ) -> Result<Response<Body>, CallError>
    where
        R: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let Self {
            mesh,
            callee,
            call,
            deadline,
        } = self;
        let response = tokio::time::timeout_at(deadline, sending)
            .await
            .map_err(|_| {
                let detail = "the deadline passed while the call was under way";
                let refusal = Refusal::new(Reason::ChainDeadlinePassed, detail);
                refused_here(&mesh, Some(&callee), &refusal)
            })??;
        let (head, body) = response.into_parts();
        let body = Body::new(ExchangeBody::new(body, Exchange::outbound(deadline), None));
        if let Some(refused) = reply::refusal(&head) {
            // What was granted comes back; the call itself stays paid (docs/call-chains.md, section 5).
            call.refused(refused.reason());
            reply::report(&mesh, &callee, &refused, &head, body).await;
            return Err(refused.into());
        }
        Ok(Response::from_parts(head, body))
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
