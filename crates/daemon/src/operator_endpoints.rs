//! The operators' endpoints: health and metrics over HTTP at the configured addresses, and systemd's watchdog.

use std::io;

use axum::Router;
use tokio::net::TcpListener;

use crate::address_file::Listening;
use crate::health::{self, Health, HealthPaths};
use crate::metrics::Metric;
use crate::otlp::{Otlp, OtlpOptions};
use crate::recorder::{self, MetricsError, Prometheus};
use crate::systemd;
use countersign_transport::clock::SharedClock;
use countersign_transport::task::Tasks;

/// The endpoints that the configuration asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OperatorEndpoints {
    /// Health, at an address and a port, on these paths.
    pub health: Option<(String, u16, HealthPaths)>,
    /// Prometheus, at an address and a port, on `/metrics`.
    pub prometheus: Option<(String, u16)>,
    /// An OpenTelemetry collector.
    pub otlp: Option<OtlpOptions>,
}

/// Why the endpoints can't be served.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// A listener could not be opened.
    #[error(
        "cannot listen on {address} port {port} for {what}: check bind_address, host and port, and who else listens there"
    )]
    Listen {
        /// For what.
        what: &'static str,
        /// An IP address or a name.
        address: String,
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There are no metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// Open listeners that do not serve yet.
pub struct BoundEndpoints {
    health: Option<(TcpListener, HealthPaths)>,
    metrics: Option<(TcpListener, Prometheus)>,
    observed: bool,
}

impl OperatorEndpoints {
    /// Opens the listeners, and begins to record metrics if anything reads them. `catalogue` is the list of this
    /// daemon's metrics; `otlp` was started from [`Self::otlp`].
    ///
    /// # Errors
    /// [`EndpointError`].
    pub async fn bind(
        &self,
        catalogue: &[Metric],
        otlp: Option<&Otlp>,
    ) -> Result<BoundEndpoints, EndpointError> {
        let health = match &self.health {
            None => None,
            Some((address, port, paths)) => {
                Some((listen("health", address, *port).await?, paths.clone()))
            }
        };
        let listener = match &self.prometheus {
            None => None,
            Some((address, port)) => Some(listen("metrics", address, *port).await?),
        };
        let sent = otlp.is_some_and(Otlp::sends_metrics);
        let observed = listener.is_some() || sent;
        let prometheus = if observed {
            recorder::install(catalogue, listener.is_some(), otlp)?
        } else {
            None
        };
        Ok(BoundEndpoints {
            health,
            metrics: listener.zip(prometheus),
            observed,
        })
    }
}

impl BoundEndpoints {
    /// Their addresses.
    #[must_use]
    pub fn listening(&self) -> Vec<Listening> {
        let health = self.health.as_ref().map(|(listener, _)| listener);
        let metrics = self.metrics.as_ref().map(|(listener, _)| listener);
        let at = |listener: Option<&TcpListener>| listener.and_then(|l| l.local_addr().ok());
        at(health)
            .map(Listening::Health)
            .into_iter()
            .chain(at(metrics).map(Listening::Metrics))
            .collect()
    }

    /// Serves until the tasks are stopped. `look` updates the gauges that are polled, at once and every few seconds.
    pub fn serve(
        self,
        tasks: &Tasks,
        health: &Health,
        clock: &SharedClock,
        look: impl Fn() + Send + Sync + 'static,
    ) {
        if let Some((listener, paths)) = self.health {
            let router = health::router(health.clone(), &paths);
            answer(tasks, "health", listener, router, clock);
        }
        if let Some((listener, prometheus)) = self.metrics {
            answer(tasks, "metrics", listener, prometheus.router(), clock);
            tasks.spawn("metrics upkeep", prometheus.keep_up(tasks.token().clone()));
        }
        if self.observed {
            let observed = recorder::observe(look, tasks.token().clone());
            tasks.spawn("metrics observer", observed);
        }
        let (health, stop) = (health.clone(), tasks.token().clone());
        tasks.spawn("watchdog", async move {
            let watchdog = systemd::watchdog(|| health.is_live());
            stop.run_until_cancelled(watchdog).await;
        });
    }
}

async fn listen(
    what: &'static str,
    address: &str,
    port: u16,
) -> Result<TcpListener, EndpointError> {
    TcpListener::bind((address, port))
        .await
        .map_err(|source| EndpointError::Listen {
            what,
            address: address.to_owned(),
            port,
            source,
        })
}

fn answer(
    tasks: &Tasks,
    what: &'static str,
    listener: TcpListener,
    router: Router,
    clock: &SharedClock,
) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, what, "Answering operators");
    }
    let (clock, stop) = (clock.clone(), tasks.token().clone());
    tasks.spawn(what, async move {
        health::serve(listener, router, clock, stop).await;
    });
}
