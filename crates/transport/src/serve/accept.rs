//! The accept loop: bounded, and patient when the system has no more of something.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::unix::Socket;

/// Where callers come from.
pub(super) trait Listener: Send + Sync {
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

/// The places that one caller takes up.
pub(super) struct Places {
    /// Given back when the connection is made.
    pub(super) handshake: OwnedSemaphorePermit,
    /// Given back when the connection is over.
    pub(super) connection: OwnedSemaphorePermit,
}

/// How many callers at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) handshakes: usize,
    pub(super) connections: usize,
}

/// Hands callers to `take` until `stop`, never more at once than `bounds` says: those beyond wait in the kernel's queue.
pub(super) async fn run<L: Listener>(
    listener: L,
    bounds: Bounds,
    stop: &CancellationToken,
    take: impl Fn(L::Caller, Places) + Send,
) {
    let gate = Gate {
        handshakes: Arc::new(Semaphore::new(
            bounds.handshakes.min(Semaphore::MAX_PERMITS),
        )),
        connections: Arc::new(Semaphore::new(
            bounds.connections.min(Semaphore::MAX_PERMITS),
        )),
    };
    let accepting = async {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        while let Some(places) = gate.enter().await {
            match next(&listener, &mut backoff).await {
                Some(caller) => take(caller, places),
                None => drop(places),
            }
        }
    };
    stop.run_until_cancelled(accepting).await;
}

struct Gate {
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Gate {
    async fn enter(&self) -> Option<Places> {
        let connection = Arc::clone(&self.connections).acquire_owned().await.ok()?;
        let handshake = Arc::clone(&self.handshakes).acquire_owned().await.ok()?;
        Some(Places {
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
        Err(error) if is_the_callers(error.kind()) => {
            tracing::debug!(%error, "A caller went away before it was accepted");
            None
        }
        Err(error) => {
            // Out of file descriptors or memory: to try again at once would only spin.
            tracing::warn!(%error, "Cannot accept connections at the moment");
            backoff.wait().await;
            None
        }
    }
}

const fn is_the_callers(kind: io::ErrorKind) -> bool {
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

    /// Says what it was told to, then nothing more.
    struct Told(Mutex<Vec<io::Result<u32>>>, AtomicUsize);

    impl Told {
        fn new(mut what: Vec<io::Result<u32>>) -> Self {
            what.reverse();
            Self(Mutex::new(what), AtomicUsize::new(0))
        }
    }

    impl Listener for Arc<Told> {
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

    const BOUNDS: Bounds = Bounds {
        handshakes: 8,
        connections: 8,
    };

    #[tokio::test(start_paused = true)]
    async fn want_of_file_descriptors_is_waited_out_and_a_vanished_caller_is_not() {
        let emfile = || io::Error::from_raw_os_error(nix::errno::Errno::EMFILE as i32);
        let gone = || io::Error::from(io::ErrorKind::ConnectionAborted);
        let listener = Arc::new(Told::new(vec![
            Err(gone()),
            Ok(1),
            Err(emfile()),
            Err(emfile()),
            Ok(2),
        ]));
        let stop = CancellationToken::new();
        let (send, mut callers) = mpsc::unbounded_channel();
        let begin = Instant::now();
        let serving = run(listener, BOUNDS, &stop, |caller, _| {
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
    async fn beyond_the_bounds_nobody_is_accepted_until_a_place_is_free() {
        let listener = Arc::new(Told::new(vec![Ok(1), Ok(2), Ok(3)]));
        let stop = CancellationToken::new();
        let (send, mut callers) = mpsc::unbounded_channel();
        let bounds = Bounds {
            handshakes: 1,
            connections: 2,
        };
        let serving = run(Arc::clone(&listener), bounds, &stop, |caller, places| {
            drop(send.send((caller, places)));
        });
        let checks = async {
            let (
                _,
                Places {
                    handshake,
                    connection: first,
                },
            ) = callers.recv().await.unwrap();
            tokio::task::yield_now().await;
            assert_eq!(
                listener.1.load(Ordering::SeqCst),
                1,
                "the only handshake place is taken"
            );
            drop(handshake);
            let (
                _,
                Places {
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
