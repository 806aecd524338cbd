//! The accept loop: bounded, and with a backoff while the system is out of file descriptors or memory.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use countersign_limits::KeyedSemaphore;

use crate::backoff::Backoff;
use crate::connection::{Connection, network};
use crate::drain::Drain;
use crate::error::Chain;
use crate::tls::{AcceptError, TlsAcceptor, TlsIo};
use crate::unix::Socket;

/// A connection's share of [`AcceptLimits::connections`], returned when it is dropped.
#[derive(Debug)]
#[must_use = "the permit is returned when this is dropped"]
pub struct ConnectionPermit(
    #[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit,
);

/// A source of callers: a listener, or a script in tests.
pub(crate) trait Listener: Send + Sync {
    /// One caller, as accepted.
    type Caller: Send;

    /// The next caller.
    fn next(&self) -> impl Future<Output = io::Result<Self::Caller>> + Send;
}

impl Listener for TcpListener {
    type Caller = (TcpStream, SocketAddr);

    async fn next(&self) -> io::Result<Self::Caller> {
        self.accept().await
    }
}

impl Listener for &Socket {
    type Caller = UnixStream;

    async fn next(&self) -> io::Result<Self::Caller> {
        self.accept().await
    }
}

/// One caller's permits of its listener's [`AcceptLimits`].
pub(crate) struct AcceptPermits {
    /// Returned when the handshake is over.
    pub(crate) handshake: OwnedSemaphorePermit,
    /// Returned when the connection is over.
    pub(crate) connection: OwnedSemaphorePermit,
}

/// How many callers a listener has at once; further ones wait in the kernel's backlog.
#[derive(Clone, Copy, Debug)]
pub struct AcceptLimits {
    /// In their handshake.
    pub handshakes: usize,
    /// Accepted and not ended, those in their handshake among them.
    pub connections: usize,
}

/// Hands callers to `take` until `stop` is cancelled, within `limits`.
pub(crate) async fn run<L: Listener>(
    listener: L,
    limits: AcceptLimits,
    stop: &CancellationToken,
    take: impl Fn(L::Caller, AcceptPermits) + Send,
) {
    let gate = Gate {
        handshakes: Arc::new(Semaphore::new(
            limits.handshakes.min(Semaphore::MAX_PERMITS),
        )),
        connections: Arc::new(Semaphore::new(
            limits.connections.min(Semaphore::MAX_PERMITS),
        )),
    };
    let accepting = async {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        while let Some(permits) = gate.enter().await {
            match next(&listener, &mut backoff).await {
                Some(caller) => take(caller, permits),
                None => drop(permits),
            }
        }
    };
    stop.run_until_cancelled(accepting).await;
}

/// Accepts TLS connections until `stop` is cancelled, and gives each to `serve` in a task of its own once its handshake
/// is done. Handshakes that run when `drain` begins are dropped.
///
/// One network gets at most a quarter of the concurrent handshakes, so that silent callers there do not keep all others
/// out. Its further callers queue, no longer than a handshake may take.
pub async fn accept_tls<Serve, Served>(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    limits: AcceptLimits,
    drain: &Drain,
    stop: &CancellationToken,
    serve: Serve,
) where
    Serve: Fn(TlsIo<TcpStream>, Arc<Connection>, ConnectionPermit) -> Served
        + Clone
        + Send
        + Sync
        + 'static,
    Served: Future<Output = ()> + Send + 'static,
{
    let handshakes = KeyedSemaphore::new(limits.handshakes / 4);
    let take = |(stream, address): (TcpStream, SocketAddr), permits: AcceptPermits| {
        let (acceptor, handshakes, serve) = (acceptor.clone(), handshakes.clone(), serve.clone());
        let (guard, begun) = (drain.guard(), drain.begun().clone());
        tokio::spawn(async move {
            let _guard = guard;
            let AcceptPermits {
                handshake,
                connection,
            } = permits;
            let network = network(address.ip());
            let (own, shared) = match handshakes.try_acquire(network) {
                Some(own) => (own, Some(handshake)),
                None => {
                    // A caller that queues behind its own network must not hold a permit that other networks could use.
                    drop(handshake);
                    let own = handshakes.acquire(network);
                    let own = tokio::time::timeout(acceptor.limit(), own);
                    match begun.run_until_cancelled(own).await {
                        Some(Ok(own)) => (own, None),
                        _ => return,
                    }
                }
            };
            // No Nagle delay for small messages. A socket that refuses the option still works.
            drop(stream.set_nodelay(true));
            let accepted = begun
                .run_until_cancelled(acceptor.accept(stream, address))
                .await;
            drop((own, shared));
            match accepted {
                None => {}
                Some(Err(error)) => log_refused(address, &error),
                Some(Ok((io, peer))) => serve(io, peer, ConnectionPermit(connection)).await,
            }
        });
    };
    run(listener, limits, stop, take).await;
}

/// A failed handshake is the caller's fault, unless this process has no identity.
fn log_refused(address: SocketAddr, error: &AcceptError) {
    let cause = Chain(error);
    match error {
        AcceptError::NoIdentity => tracing::warn!(%address, %cause, "Connection refused"),
        _ => tracing::debug!(%address, %cause, "Connection refused"),
    }
}

struct Gate {
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Gate {
    async fn enter(&self) -> Option<AcceptPermits> {
        let connection = Arc::clone(&self.connections).acquire_owned().await.ok()?;
        let handshake = Arc::clone(&self.handshakes).acquire_owned().await.ok()?;
        Some(AcceptPermits {
            handshake,
            connection,
        })
    }
}

/// One caller, or none after an error and its wait.
async fn next<L: Listener>(listener: &L, backoff: &mut Backoff) -> Option<L::Caller> {
    match listener.next().await {
        Ok(caller) => {
            backoff.reset();
            Some(caller)
        }
        Err(error) if is_lost_caller(error.kind()) => {
            tracing::debug!(%error, "A caller disconnected before it was accepted");
            None
        }
        Err(error) => {
            // Out of file descriptors or memory: retrying at once would only spin.
            tracing::warn!(%error, "Cannot accept connections at the moment");
            backoff.wait().await;
            None
        }
    }
}

const fn is_lost_caller(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;

    /// Gives its results in order, then nothing more.
    struct Scripted(Mutex<Vec<io::Result<u32>>>, AtomicUsize);

    impl Scripted {
        fn new(mut what: Vec<io::Result<u32>>) -> Self {
            what.reverse();
            Self(Mutex::new(what), AtomicUsize::new(0))
        }
    }

    impl Listener for Arc<Scripted> {
        type Caller = u32;

        async fn next(&self) -> io::Result<u32> {
            self.1.fetch_add(1, Ordering::SeqCst);
            let next = self.0.lock().unwrap().pop();
            match next {
                Some(result) => result,
                None => std::future::pending().await,
            }
        }
    }

    const LIMITS: AcceptLimits = AcceptLimits {
        handshakes: 8,
        connections: 8,
    };

    #[tokio::test(start_paused = true)]
    async fn it_backs_off_without_file_descriptors_not_for_lost_callers() {
        let emfile = || io::Error::from_raw_os_error(nix::errno::Errno::EMFILE as i32);
        let gone = || io::Error::from(io::ErrorKind::ConnectionAborted);
        let listener = Arc::new(Scripted::new(vec![
            Err(gone()),
            Ok(1),
            Err(emfile()),
            Err(emfile()),
            Ok(2),
        ]));
        let stop = CancellationToken::new();
        let (send, mut callers) = mpsc::unbounded_channel();
        let begin = Instant::now();
        let serving = run(listener, LIMITS, &stop, |caller, _| {
            send.send((caller, begin.elapsed())).unwrap();
        });
        let checks = async {
            assert_eq!(callers.recv().await.unwrap(), (1, Duration::ZERO));
            let (second, after) = callers.recv().await.unwrap();
            assert_eq!(second, 2);
            assert!(
                after >= Duration::from_millis(27),
                "two waits of about 10 and 20 ms, not {after:?}"
            );
            stop.cancel();
        };
        tokio::join!(serving, checks);
    }

    #[tokio::test]
    async fn no_caller_is_accepted_beyond_the_limits() {
        let listener = Arc::new(Scripted::new(vec![Ok(1), Ok(2), Ok(3)]));
        let stop = CancellationToken::new();
        let (send, mut callers) = mpsc::unbounded_channel();
        let limits = AcceptLimits {
            handshakes: 1,
            connections: 2,
        };
        let serving = run(Arc::clone(&listener), limits, &stop, |caller, permits| {
            drop(send.send((caller, permits)));
        });
        let checks = async {
            let (
                _,
                AcceptPermits {
                    handshake,
                    connection: first,
                },
            ) = callers.recv().await.unwrap();
            tokio::task::yield_now().await;
            assert_eq!(
                listener.1.load(Ordering::SeqCst),
                1,
                "the only handshake permit is taken"
            );
            drop(handshake);
            let (
                _,
                AcceptPermits {
                    handshake,
                    connection: _second,
                },
            ) = callers.recv().await.unwrap();
            drop(handshake);
            tokio::task::yield_now().await;
            assert_eq!(
                listener.1.load(Ordering::SeqCst),
                2,
                "both connection places are taken"
            );
            drop(first);
            assert_eq!(callers.recv().await.unwrap().0, 3);
            stop.cancel();
        };
        tokio::join!(serving, checks);
    }
}
