//! The connections to one callee under one SVID generation.

use std::sync::Arc;
use std::time::Duration;

use countersign_identity::SpiffeId;
use countersign_identity::tls::{ALPN_H2, ALPN_HTTP11};
use countersign_mesh::Carrier;
use countersign_transport::SharedClock;
use countersign_transport::dial::TlsConnector;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::replay::Try;
use crate::source::Generation;

/// An HTTP/2 connection with calls on it is asked this often whether it still lives.
const ALIVE: Duration = Duration::from_secs(20);

type Pool = Client<TlsConnector, Try>;

/// Connections that all present the same certificate and lead to the same callee.
#[derive(Debug)]
pub(super) struct Connections {
    generation: Arc<Generation>,
    /// HTTP/2 alone, so that all gRPC calls share one connection from the first on.
    grpc: Pool,
    http: Pool,
}

impl Connections {
    pub(super) fn new(
        generation: Arc<Generation>,
        callee: &SpiffeId,
        target: &str,
        clock: &SharedClock,
    ) -> Result<Self, rustls::Error> {
        let pool = |alpn: &[&[u8]], http2_only: bool| {
            let config = Arc::new(generation.client(callee.clone(), alpn)?);
            let connector = TlsConnector::new(config, target, Arc::clone(clock));
            let mut builder = Client::builder(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new());
            builder
                .http2_keep_alive_interval(ALIVE)
                .http2_only(http2_only);
            Ok::<_, rustls::Error>(builder.build(connector))
        };
        let grpc = pool(&[ALPN_H2], true)?;
        let http = pool(&[ALPN_H2, ALPN_HTTP11], false)?;
        Ok(Self {
            generation,
            grpc,
            http,
        })
    }

    pub(super) const fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    pub(super) async fn send(
        &self,
        carrier: Carrier,
        request: Request<Try>,
    ) -> Result<Response<Incoming>, Error> {
        let pool = match carrier {
            Carrier::Grpc => &self.grpc,
            Carrier::Http => &self.http,
        };
        pool.request(request).await
    }
}

/// Whether the callee provably never saw the request, so that it may go out again as the same attempt (RFC 9113, 8.7).
pub(super) fn never_reached(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            let refused = h2.is_reset() && h2.reason() == Some(h2::Reason::REFUSED_STREAM);
            let beyond_the_last = h2.is_go_away() && h2.reason() == Some(h2::Reason::NO_ERROR);
            return h2.is_remote() && (refused || beyond_the_last);
        }
        if error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_canceled)
        {
            return true;
        }
        cause = error.source();
    }
    false
}
