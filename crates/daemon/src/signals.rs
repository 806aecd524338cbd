//! SIGINT and SIGTERM: the first asks the daemon to end in order, the second ends it at once. And SIGXFSZ, which would end
//! it for writing more than it may, is caught: the write fails then, as on a disk that is full.

use std::io;

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a shell says of a process that a second signal ended: 128 and the number of SIGINT or SIGTERM.
const ENDED_BY_SIGNAL: i32 = 128;

/// Cancels `stop` at the first signal that asks for the end. Returns once the signals are caught.
///
/// # Errors
/// The system refuses to have the signals caught.
pub fn cancel_on_signal(stop: CancellationToken) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Caught for as long as the process lives, whether somebody listens or not.
    drop(signal(SignalKind::from_raw(Signal::SIGXFSZ as i32))?);
    tokio::spawn(async move {
        loop {
            let kind = tokio::select! {
                Some(()) = interrupt.recv() => SignalKind::interrupt(),
                Some(()) = terminate.recv() => SignalKind::terminate(),
                else => return,
            };
            if stop.is_cancelled() {
                tracing::warn!("Second signal: ending at once");
                std::process::exit(ENDED_BY_SIGNAL.saturating_add(kind.as_raw_value()));
            }
            tracing::info!("Signal received: stopping");
            stop.cancel();
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_may_not_grow_ends_nothing() {
        cancel_on_signal(CancellationToken::new()).unwrap();
        nix::sys::signal::raise(Signal::SIGXFSZ).unwrap();
    }

    #[tokio::test]
    async fn the_first_signal_asks_for_the_end() {
        let stop = CancellationToken::new();
        cancel_on_signal(stop.clone()).unwrap();
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
        stop.cancelled().await;
    }
}
