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

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be notified");
    }
}
