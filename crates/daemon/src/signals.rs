//! SIGINT and SIGTERM: the first begins a graceful shutdown, the second ends the process at once. SIGXFSZ, whose
//! default action kills a process that exceeds its file size limit, is caught: the write fails with EFBIG, as on a full
//! disk.

use std::io;

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal, as shells report it: 128 plus the number of the signal.
const ENDED_BY_SIGNAL: i32 = 128;

/// Cancels `stop` at the first SIGINT or SIGTERM. Returns once the handlers are installed.
///
/// # Errors
/// The handlers can't be installed.
pub fn cancel_on_signal(stop: CancellationToken) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // tokio's handler stays installed for the life of the process, even without a listener.
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
