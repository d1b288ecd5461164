//! The runtime of one shard's thread, and the thread's place on a core.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::sync::OnceLock;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::task::LocalSet;

use super::kernel::Kernel;
use super::portable::Threads;
use super::uring::{self, Ring};
use super::{EngineKind, Io};
use std::rc::Rc;

/// Helper threads of one shard's portable or glommio engine: more than the 4 log writes in flight and the reads
/// beside them, few enough that all shards of a large host stay in the hundreds.
const HELPER_THREADS_MAX: usize = 16;

/// Builds an engine and its runtime on this thread and runs `main` to its end; whatever it spawned is
/// dropped then.
///
/// # Errors
/// What the kernel says if the engine cannot be had.
/// `Unsupported` for [`EngineKind::Sim`], which belongs to a harness, and for an engine that is not built in.
pub fn run_local<T, F>(kind: EngineKind, main: impl FnOnce(Io) -> F) -> io::Result<T>
where
    F: Future<Output = T>,
{
    match kind {
        EngineKind::Uring => {
            let runtime = uring::runtime()?;
            Ok(runtime.block_on(async { main(Io::new(Rc::new(Kernel::<Ring>::new()))).await }))
        }
        EngineKind::Portable => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(HELPER_THREADS_MAX)
                .build()?;
            let tasks = LocalSet::new();
            Ok(tasks.block_on(&runtime, async { main(Io::new(Rc::new(Kernel::<Threads>::new()))).await }))
        }
        #[cfg(feature = "glommio")]
        EngineKind::Glommio => {
            let runtime = super::dma::runtime(HELPER_THREADS_MAX)?;
            Ok(runtime.block_on(async { main(Io::new(Rc::new(Kernel::<super::dma::Dma>::new()))).await }))
        }
        #[cfg(not(feature = "glommio"))]
        EngineKind::Glommio => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "this program was built without glommio"))
        }
        EngineKind::Sim => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "the simulated engine is started by its harness"))
        }
    }
}

/// The cores this process was allowed to use before any of its threads was pinned.
fn allowed() -> &'static CpuSet {
    static ALLOWED: OnceLock<CpuSet> = OnceLock::new();
    ALLOWED.get_or_init(|| sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new()))
}

/// Pins this thread to the `index`-th core the process may use (cpusets and `taskset` are respected),
/// counting round if there are fewer. Threads started from here on inherit it, except helper threads,
/// which go back to all cores.
///
/// # Errors
/// What the kernel says; running unpinned is slower but right.
pub fn pin_to_core(index: usize) -> io::Result<()> {
    let allowed = allowed();
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
    let Some(core) = index.checked_rem(cores.len()).and_then(|i| cores.get(i)) else {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel does not say which cores may be used",
        ));
    };
    let mut only = CpuSet::new();
    only.set(*core);
    Ok(sched_setaffinity(None, &only)?)
}

/// Takes a helper thread off the core of the shard that started it, once.
pub(crate) fn leave_core() {
    thread_local!(static LEFT: Cell<bool> = const { Cell::new(false) });
    LEFT.with(|left| {
        let allowed = allowed();
        // An empty set means that nothing was pinned either.
        if !left.replace(true) && allowed.count() > 0 {
            let _ = sched_setaffinity(None, allowed);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::off_core;

    #[test]
    fn a_pinned_thread_has_one_core_and_its_helpers_have_all() {
        // On a thread of its own: the pin outlives the test.
        let check = || {
            let before = allowed().count();
            pin_to_core(usize::MAX).unwrap();
            assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
            let helper =
                run_local(EngineKind::Portable, |_| off_core(|| sched_getaffinity(None).unwrap().count()));
            assert_eq!(helper.unwrap(), before);
        };
        std::thread::spawn(check).join().unwrap();
    }

    #[test]
    fn spawned_tasks_run_beside_main() {
        let answer = run_local(EngineKind::Portable, |io| async move {
            assert_eq!(io.kind(), EngineKind::Portable);
            let local = Rc::new(42);
            crate::io::spawn(async move { *local }).await.unwrap()
        });
        assert_eq!(answer.unwrap(), 42);
    }

    #[test]
    fn the_simulator_is_not_started_here() {
        let refused = run_local(EngineKind::Sim, |_| async {}).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
    }
}
