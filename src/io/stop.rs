//! The request to stop, seen by every component of every shard.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// How far stopping has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Work.
    Running,
    /// Finish what is under way, accept nothing new.
    Stopping,
    /// Drop everything; what is acknowledged is safe already.
    Now,
}

/// Asks for the stop.
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<watch::Sender<(Phase, Duration)>>);

/// Sees the stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<(Phase, Duration)>);

/// A connected pair.
pub fn channel() -> (StopHandle, Stop) {
    let (sender, receiver) = watch::channel((Phase::Running, Duration::ZERO));
    (StopHandle(Arc::new(sender)), Stop(receiver))
}

impl StopHandle {
    /// Moves to a later phase; an earlier one is ignored.
    pub fn request(&self, phase: Phase) {
        self.advance(phase, None);
    }
    /// Asks to stop and to be done within this time.
    pub fn request_within(&self, limit: Duration) {
        self.advance(Phase::Stopping, Some(limit));
    }
    fn advance(&self, phase: Phase, limit: Option<Duration>) {
        self.0.send_if_modified(|state| {
            let later = phase > state.0;
            if later {
                *state = (phase, limit.unwrap_or(state.1));
            }
            later
        });
    }
    /// Another view of it.
    pub fn subscribe(&self) -> Stop {
        Stop(self.0.subscribe())
    }
}

impl Stop {
    /// Where things stand.
    pub fn phase(&self) -> Phase {
        self.0.borrow().0
    }
    /// True from the first request on.
    pub fn is_requested(&self) -> bool {
        self.phase() != Phase::Running
    }
    /// Time to be done in, counted from the request.
    pub fn limit(&self) -> Duration {
        self.0.borrow().1
    }
    /// Waits for the first request. Cancel-safe.
    pub async fn requested(&self) {
        self.reached(Phase::Stopping).await;
    }
    /// Waits until stopping has gone this far. Cancel-safe. A dropped handle counts as [`Phase::Now`].
    pub async fn reached(&self, phase: Phase) {
        let _ = self.0.clone().wait_for(|state| state.0 >= phase).await;
    }
    /// Runs `future` unless the stop is requested first; then `None`.
    pub async fn or<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.requested() => None,
            value = future => Some(value),
        }
    }
}
