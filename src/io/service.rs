//! What the service manager is told: started, stopping, still alive.
//!
//! `sd_notify(3)` and `sd_watchdog_enabled(3)`. Without `NOTIFY_SOCKET` in the environment nothing is sent.
//! Runs on the control thread.

use std::time::Duration;

use sd_notify::NotifyState;

/// The agent runs; `status` is what `systemctl status` shows.
pub fn started(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The agent is on its way out.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// The agent is alive.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is to be called: half of the time after which the manager takes the agent for dead.
/// `None` if it does not watch.
pub fn watch_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told how the agent is");
    }
}
