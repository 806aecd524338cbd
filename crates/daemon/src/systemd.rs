//! What systemd is told of a daemon, where it wants to know (`NOTIFY_SOCKET`).

use sd_notify::NotifyState;

/// All listeners serve.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The daemon comes to its end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// One line for people, as `systemctl status` shows it.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// Tells systemd's watchdog that the daemon lives, for as long as `lives` says so, if the unit has one (`WatchdogSec`).
/// Runs until it is dropped; without a watchdog it has nothing to do.
pub async fn watchdog(lives: impl Fn() -> bool) {
    let Some(span) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    // Told twice in the span, so that one late turn of this task does not count as death.
    let mut ticks = tokio::time::interval(span / 2);
    loop {
        ticks.tick().await;
        if lives() {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be notified");
    }
}
