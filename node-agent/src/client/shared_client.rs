//! A second connection to the server, for calls on behalf of waiting callers, so that they do not queue behind a sync.
//!
//! It always presents the same SVID as the first connection: once the server has seen a renewed SVID, it refuses the
//! previous one.

use std::sync::Arc;

use countersign_identity::X509Svid;
use countersign_proto::spire::api::types::permission_denied_details::Reason;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::{CallError, ServerChannel, ServerClient};
use crate::limits;

/// Shared by all who call.
#[derive(Debug)]
pub(crate) struct SharedClient {
    state: Mutex<Connection>,
    identity: watch::Receiver<Option<X509Svid>>,
}

#[derive(Debug)]
struct Connection {
    client: ServerClient,
    /// `identity`, as far as `client` has it.
    shown: watch::Receiver<Option<X509Svid>>,
    /// The connection's number, so that concurrent failures drop the same connection only once.
    number: u64,
    /// The last attempt to connect that failed, and when.
    failed: Option<(Instant, Arc<CallError>)>,
}

/// Why a call failed. Callers that waited for the same connection share the error.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum SharedClientError {
    /// This node has no identity at the moment.
    #[error("this node has no identity to show to the server")]
    NoIdentity,
    /// There is no connection.
    #[error(transparent)]
    Connect(Arc<CallError>),
    /// The call.
    #[error(transparent)]
    Call(Arc<CallError>),
}

impl SharedClient {
    /// Calls through `client`, presenting the current value of `identity`.
    #[must_use]
    pub(crate) fn new(client: ServerClient, identity: watch::Receiver<Option<X509Svid>>) -> Self {
        let mut shown = identity.clone();
        shown.mark_changed();
        let state = Connection {
            client,
            shown,
            number: 0,
            failed: None,
        };
        Self {
            state: Mutex::new(state),
            identity,
        }
    }

    /// The identity that is current now.
    #[must_use]
    pub(crate) fn identity(&self) -> Option<X509Svid> {
        self.identity.borrow().clone()
    }

    /// Makes a call, and retries it on a new connection if that broke, or if this node's SVID was renewed meanwhile.
    ///
    /// # Errors
    /// [`SharedClientError`].
    pub(crate) async fn call<T, Fut: Future<Output = Result<T, CallError>>>(
        &self,
        method: &'static str,
        call: impl Fn(ServerChannel) -> Fut,
    ) -> Result<T, SharedClientError> {
        match self.call_once(method, &call).await {
            Err(SharedClientError::Call(error)) if is_outdated(&error) => {
                self.call_once(method, &call).await
            }
            result => result,
        }
    }

    async fn call_once<T, Fut: Future<Output = Result<T, CallError>>>(
        &self,
        method: &'static str,
        call: &impl Fn(ServerChannel) -> Fut,
    ) -> Result<T, SharedClientError> {
        let (channel, number, address) = self.connected().await?;
        let answer = tokio::time::timeout(limits::SERVER_CALL, call(channel)).await;
        let result = answer
            .unwrap_or_else(|_| Err(CallError::timed_out(method, address, limits::SERVER_CALL)));
        match result {
            Ok(answer) => Ok(answer),
            Err(error) => {
                // A refusal of one caller's request is no reason to drop the connection for the others.
                if error.code().is_none() || error.denied().is_some() {
                    let mut state = self.state.lock().await;
                    if state.number == number {
                        state.client.disconnect();
                        state.number += 1;
                    }
                }
                Err(SharedClientError::Call(Arc::new(error)))
            }
        }
    }

    async fn connected(&self) -> Result<(ServerChannel, u64, String), SharedClientError> {
        let arrived = Instant::now();
        let mut state = self.state.lock().await;
        let Connection {
            client,
            shown,
            number,
            failed,
        } = &mut *state;
        if shown.has_changed().unwrap_or(false) {
            let identity = shown.borrow_and_update().clone();
            client.identify(identity.ok_or(SharedClientError::NoIdentity)?);
            *number += 1;
        } else if let Some((at, error)) = failed
            && *at >= arrived
        {
            return Err(SharedClientError::Connect(Arc::clone(error)));
        }
        if shown.borrow().is_none() {
            return Err(SharedClientError::NoIdentity);
        }
        match client.connected().await {
            Ok(channel) => Ok((channel, *number, client.address().to_owned())),
            Err(error) => {
                let error = Arc::new(error);
                *failed = Some((Instant::now(), Arc::clone(&error)));
                Err(SharedClientError::Connect(error))
            }
        }
    }
}

fn is_outdated(error: &CallError) -> bool {
    error.is_broken_connection() || error.denied() == Some(Reason::AgentNotActive)
}
