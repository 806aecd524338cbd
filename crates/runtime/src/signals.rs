//! SIGINT and SIGTERM: the first asks the daemon to end in order, the second ends it at once.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a shell says of a process that a second signal ended: 128 and the number of SIGINT or SIGTERM.
const ENDED_BY_SIGNAL: i32 = 128;

/// Cancels `stop` at the first signal. Returns once the signals are caught.
///
/// # Errors
/// The system refuses to have the signals caught.
pub fn cancel_on_signal(stop: CancellationToken) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
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
    async fn the_first_signal_asks_for_the_end() {
        let stop = CancellationToken::new();
        cancel_on_signal(stop.clone()).unwrap();
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
        stop.cancelled().await;
    }
}
