//! Serves HTTP on one connection, from its first byte to its end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::future::OptionFuture;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{Http, ServeOptions};
use crate::backoff::jittered;
use crate::clock::SharedClock;
use crate::connection::{self, Connection};
use crate::limits;
use crate::presented::{Identities, Presented};

/// Jitter of the maximum age of a connection, as a share of that age.
const AGE_SPREAD: f64 = 0.1;

/// Why a connection is closed gracefully: whichever of these comes first.
pub(super) struct CloseReasons {
    /// The listener drains.
    pub(super) drain: CancellationToken,
    /// The connection's age.
    pub(super) max_age: Option<Duration>,
    /// The identity was rotated since.
    pub(super) identity: Option<Identities>,
}

impl CloseReasons {
    /// Waits until the connection should be closed, and returns the reason.
    async fn wait(self, connection: &Connection, called: &CancellationToken) -> &'static str {
        let presented = connection.presented.clone();
        let aged = async {
            match self.max_age {
                Some(age) => tokio::time::sleep(jittered(age, AGE_SPREAD)).await,
                None => std::future::pending().await,
            }
        };
        let replaceable = async {
            let why = tokio::select! {
                () = aged => "the connection is old",
                () = outdated(self.identity, presented) => "another identity is presented now",
            };
            // hyper closes a connection without requests at once, which would lose a request in flight.
            drop(tokio::time::timeout(limits::FIRST_REQUEST, called.cancelled()).await);
            why
        };
        tokio::select! {
            () = self.drain.cancelled() => "the listener ends",
            why = replaceable => why,
            () = silence(called), if connection.peer.is_none() => "no request came",
        }
    }
}

/// Waits until the caller has sent no request for so long that its connection only occupies a permit.
async fn silence(called: &CancellationToken) {
    if tokio::time::timeout(limits::SILENCE, called.cancelled())
        .await
        .is_ok()
    {
        std::future::pending::<()>().await;
    }
}

async fn outdated(identity: Option<Identities>, presented: Option<Arc<Presented>>) {
    if let (Some(mut identity), Some(presented)) = (identity, presented) {
        let is_another = |now: &Option<Arc<Presented>>| {
            !now.as_ref().is_some_and(|now| Arc::ptr_eq(now, &presented))
        };
        if identity.wait_for(is_another).await.is_ok() {
            return;
        }
    }
    // The identity never changes, or its owner is gone.
    std::future::pending::<()>().await;
}

/// Serves `router` on a connection until it ends, is cut, or a leaf on it expires.
pub(super) async fn serve<S>(
    io: S,
    connection: Arc<Connection>,
    router: Router,
    builder: &auto::Builder<TokioExecutor>,
    reasons: CloseReasons,
    clock: SharedClock,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    // Cancelled by the first request.
    let called = CancellationToken::new();
    let service = service_fn(|mut request: http::Request<Incoming>| {
        called.cancel();
        request.extensions_mut().insert(Arc::clone(&connection));
        router.clone().oneshot(request)
    });
    let http = builder.serve_connection(TokioIo::new(io), service);
    tokio::pin!(http);
    // The IO ends by itself too, but HTTP/1.1 does not look at it while a handler runs and more requests have arrived.
    let end = connection::ended(connection.cut.clone(), connection.not_after(), clock);
    tokio::pin!(end);
    let close = reasons.wait(&connection, &called);
    tokio::pin!(close);
    let mut closing_since = None;
    loop {
        // In a graceful shutdown hyper still waits for the HTTP/2 preface, and some callers never send one.
        let silent = closing_since
            .filter(|_| !called.is_cancelled())
            .map(|at: Instant| tokio::time::sleep_until(at + limits::FIRST_REQUEST));
        tokio::select! {
            biased;
            why = &mut end => {
                tracing::debug!(address = %connection.address, %why, "Connection ended");
                return;
            }
            why = &mut close, if closing_since.is_none() => {
                tracing::trace!(address = %connection.address, why, "Connection is closed gracefully");
                closing_since = Some(Instant::now());
                http.as_mut().graceful_shutdown();
            }
            result = &mut http => {
                if let Err(error) = result {
                    tracing::debug!(address = %connection.address, %error, "Connection failed");
                }
                return;
            }
            Some(()) = OptionFuture::from(silent) => {
                if !called.is_cancelled() {
                    tracing::debug!(address = %connection.address, "Connection ended without a request");
                    return;
                }
            }
        }
    }
}

/// HTTP with the bounds of [`limits`].
pub(super) fn builder(options: &ServeOptions) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_READ)
        .max_buf_size(usize::try_from(options.header_bytes).unwrap_or(usize::MAX));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(options.header_bytes)
        .max_concurrent_streams(options.streams)
        .max_local_error_reset_streams(limits::REFUSED_STREAMS)
        .max_send_buf_size(limits::SEND_BUFFER);
    match options.http {
        Http::Http2Only => builder.http2_only(),
        Http::Auto => builder,
    }
}
