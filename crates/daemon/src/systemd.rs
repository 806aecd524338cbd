//! Notifications to systemd, if it started the daemon with `NOTIFY_SOCKET` (sd_notify(3)).

use sd_notify::NotifyState;

/// Sent once all listeners serve.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Sent when shutdown begins.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// One line for people, as `systemctl status` shows it.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// Feeds systemd's watchdog while `lives` returns true, if the unit has one (`WatchdogSec`). Runs until it is dropped;
/// without a watchdog it does nothing.
pub async fn watchdog(lives: impl Fn() -> bool) {
    let Some(span) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    // Twice per interval, as sd_watchdog_enabled(3) recommends, so that one late wake-up does not count as a hang.
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
