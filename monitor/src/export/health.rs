//! Whether the daemon is alive and whether it sees anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

/// The pipeline's loop has to come round within this time; it does at least once a second, however little there is.
const BEAT_WITHIN: Duration = Duration::from_secs(10);

/// What `/livez` and `/readyz` say.
#[derive(Debug)]
pub struct Health {
    started: Instant,
    /// Milliseconds after `started` of the last beat.
    beat: AtomicU64,
    /// Why nothing is seen; `None` while something is.
    not_ready: RwLock<Option<String>>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Alive, and not ready since nothing is attached yet.
    pub fn new() -> Self {
        let not_ready = RwLock::new(Some("not attached to any interface yet".into()));
        Self { started: Instant::now(), beat: AtomicU64::new(0), not_ready }
    }

    /// The pipeline's loop came round.
    pub fn beat(&self) {
        let milliseconds = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(milliseconds, Ordering::Relaxed);
    }

    /// Something is attached.
    pub fn set_ready(&self) {
        *self.not_ready.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Nothing is attached, for this reason.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        *self.not_ready.write().unwrap_or_else(PoisonError::into_inner) = Some(reason.into());
    }

    /// The error says since when nothing moves.
    pub fn live(&self) -> Result<(), String> {
        self.live_after(self.started.elapsed())
    }

    fn live_after(&self, elapsed: Duration) -> Result<(), String> {
        let silent = elapsed.saturating_sub(Duration::from_millis(self.beat.load(Ordering::Relaxed)));
        if silent <= BEAT_WITHIN {
            return Ok(());
        }
        Err(format!("nothing was read from the kernel side's buffer for {} s", silent.as_secs()))
    }

    /// The error is the reason.
    pub fn ready(&self) -> Result<(), String> {
        match &*self.not_ready.read().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(reason) => Err(reason.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stands_still_is_not_alive() {
        let health = Health::new();
        assert_eq!(health.live_after(BEAT_WITHIN), Ok(()));
        let error = health.live_after(BEAT_WITHIN + Duration::from_secs(2)).unwrap_err();
        assert!(error.contains("12 s"), "{error}");
        health.beat.store(60_000, Ordering::Relaxed);
        assert_eq!(health.live_after(Duration::from_secs(69)), Ok(()));
        health.beat();
        assert_eq!(health.live(), Ok(()));
    }

    #[test]
    fn ready_only_while_attached() {
        let health = Health::new();
        assert!(health.ready().unwrap_err().contains("not attached"));
        health.set_ready();
        assert_eq!(health.ready(), Ok(()));
        health.set_not_ready("eth0 is gone");
        assert_eq!(health.ready(), Err("eth0 is gone".into()));
    }
}
