//! The request to stop, seen by every component of every shard.

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
pub struct StopHandle(std::sync::Arc<watch::Sender<Phase>>);

/// Sees the stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<Phase>);

/// A connected pair.
pub fn channel() -> (StopHandle, Stop) {
    let (sender, receiver) = watch::channel(Phase::Running);
    (StopHandle(std::sync::Arc::new(sender)), Stop(receiver))
}

impl StopHandle {
    /// Moves to a later phase; an earlier one is ignored.
    pub fn request(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let later = phase > *now;
            if later {
                *now = phase;
            }
            later
        });
    }
}

impl Stop {
    /// Where things stand.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }
    /// True from the first request on.
    pub fn is_requested(&self) -> bool {
        self.phase() != Phase::Running
    }
    /// Waits for the first request. Cancel-safe.
    pub async fn requested(&self) {
        self.reached(Phase::Stopping).await;
    }
    /// Waits until stopping has gone this far. Cancel-safe. A dropped handle counts as [`Phase::Now`].
    pub async fn reached(&self, phase: Phase) {
        let _ = self.0.clone().wait_for(|now| *now >= phase).await;
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
