//! Which engine this machine allows, why not io_uring if so, and what to do about it.

use std::fmt;
use std::io;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use super::buffer::{AlignedBuf, BLOCK};
use super::{EngineKind, path, uring};

/// Time a ring gets to answer; it takes well under a millisecond where it works at all.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// What decides whether io_uring may be used; for `doctor` and for messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Kernel release, as in `uname -r`; empty if unknown.
    pub kernel: String,
    /// `kernel.io_uring_disabled`: 0 = for everybody, 1 = only for `kernel.io_uring_group` and
    /// `CAP_SYS_ADMIN`, 2 = for nobody; `None` before Linux 6.6.
    pub io_uring_disabled: Option<u32>,
    /// A seccomp filter decides which system calls this process may use (containers, hardened units).
    pub seccomp_filter: bool,
    /// `RLIMIT_MEMLOCK` in bytes; `None` = unlimited. Counts for rings before Linux 5.12.
    pub memlock_bytes: Option<u64>,
}

/// Reads the facts.
pub fn facts() -> Facts {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let seccomp = read("/proc/self/status");
    let seccomp = seccomp.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    Facts {
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        io_uring_disabled: read("/proc/sys/kernel/io_uring_disabled").trim().parse().ok(),
        seccomp_filter: seccomp.is_some_and(|mode| mode.trim() == "2"),
        memlock_bytes: rustix::process::getrlimit(rustix::process::Resource::Memlock).current,
    }
}

/// Why io_uring cannot be used, and what to do; prints as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is in the way.
    pub why: String,
    /// What the operator types or changes.
    pub fix: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "io_uring cannot be used: {}; files go through helper threads. To change that: {}",
            self.why, self.fix
        )
    }
}

/// The engine to use, and one line saying why it is not io_uring if the kernel is the reason.
///
/// Without a wish, or with the wish for io_uring, that is `uring` where the kernel lets us; so it is with
/// glommio, which needs io_uring as well.
pub fn choose(requested: Option<EngineKind>) -> (EngineKind, Option<String>) {
    match requested {
        None | Some(EngineKind::Uring) => match io_uring() {
            Ok(()) => (EngineKind::Uring, None),
            Err(refusal) => (EngineKind::Portable, Some(refusal.to_string())),
        },
        Some(EngineKind::Glommio) => match glommio() {
            Ok(()) => (EngineKind::Glommio, None),
            Err(refusal) => (EngineKind::Portable, Some(refusal.to_string())),
        },
        Some(other) => (other, None),
    }
}

/// True if this program was built with an engine.
pub fn has(kind: EngineKind) -> bool {
    kind != EngineKind::Glommio || cfg!(feature = "glommio")
}

/// Tries glommio, once per process.
#[cfg(feature = "glommio")]
fn glommio() -> Result<(), Refusal> {
    static RESULT: OnceLock<Result<(), Refusal>> = OnceLock::new();
    let attempt = || {
        let tried = std::thread::spawn(|| super::run_local(EngineKind::Glommio, |_| async {})).join();
        let failed = || io::Error::other("glommio failed");
        tried.unwrap_or_else(|_panic| Err(failed())).map_err(|error| {
            let facts = facts();
            match facts.memlock_bytes {
                // glommio's own minimum, whatever the kernel counts.
                Some(bytes) if bytes < 512 << 10 => {
                    explain(&io::Error::from_raw_os_error(libc::ENOMEM), &facts)
                }
                _ => explain(&error, &facts),
            }
        })
    };
    RESULT.get_or_init(attempt).clone()
}
#[cfg(not(feature = "glommio"))]
fn glommio() -> Result<(), Refusal> {
    Err(Refusal {
        why: "this program was built without glommio".to_owned(),
        fix: "cargo build --release --features glommio".to_owned(),
    })
}

/// Tries io_uring, once per process.
///
/// # Errors
/// The reason it cannot be used.
pub fn io_uring() -> Result<(), Refusal> {
    static RESULT: OnceLock<Result<(), Refusal>> = OnceLock::new();
    RESULT.get_or_init(try_io_uring).clone()
}

fn try_io_uring() -> Result<(), Refusal> {
    // On a thread of its own, because the caller may be inside another runtime.
    let tried = std::thread::Builder::new().name("probe".into()).spawn(try_ring).map(|t| t.join());
    match tried {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => Err(explain(&error, &facts())),
        Ok(Err(_panic)) => Err(explain(&io::Error::other("the ring failed"), &facts())),
        Err(error) => Err(explain(&error, &facts())),
    }
}

/// Makes a ring and sees one operation through that is not older than what the engine needs (unlinkat,
/// Linux 5.11).
fn try_ring() -> io::Result<()> {
    let runtime = uring::runtime()?;
    runtime.block_on(async {
        let operation = tokio_uring::fs::remove_file("/proc/self/no-such-file");
        match tokio::time::timeout(ANSWER_TIME_MAX, operation).await {
            Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            // The file cannot be there, so that the kernel says it removed it cannot be either.
            Ok(Ok(())) => Err(io::Error::other("the ring gives wrong answers")),
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, "the ring does not answer")),
        }
    })
}

/// Turns the kernel's error into a reason and a remedy.
fn explain(error: &io::Error, facts: &Facts) -> Refusal {
    let refusal = |why: String, fix: &str| Refusal { why, fix: fix.to_owned() };
    let kernel = &facts.kernel;
    match (error.raw_os_error(), facts.io_uring_disabled) {
        (Some(libc::EPERM), Some(2)) => refusal(
            "kernel.io_uring_disabled = 2 forbids it to everybody".into(),
            "sysctl -w kernel.io_uring_disabled=0",
        ),
        (Some(libc::EPERM), Some(1)) => refusal(
            "kernel.io_uring_disabled = 1 forbids it to ordinary users".into(),
            "sysctl -w kernel.io_uring_disabled=0, or add this user's group: sysctl -w kernel.io_uring_group=<gid>",
        ),
        (Some(libc::EPERM | libc::EACCES), _) | (Some(libc::ENOSYS), _) if facts.seccomp_filter => refusal(
            "a seccomp filter forbids it, as in most containers".into(),
            "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile \
             (docker run --security-opt seccomp=<profile>, SystemCallFilter= of the unit)",
        ),
        (Some(libc::EPERM | libc::EACCES), _) => refusal(
            "a security module forbids it".into(),
            "allow io_uring to this process in the SELinux or AppArmor policy",
        ),
        (Some(libc::ENOSYS), _) => refusal(
            format!("kernel {kernel} has no io_uring"),
            "use Linux 5.11 or newer, built with CONFIG_IO_URING",
        ),
        (Some(libc::EINVAL), _) => {
            refusal(format!("kernel {kernel} has too old an io_uring"), "use Linux 5.11 or newer")
        }
        (Some(libc::ENOMEM), _) => {
            let limit = facts.memlock_bytes.map_or("unlimited".to_owned(), |b| format!("{} KiB", b / 1024));
            refusal(
                format!("no memory for the ring (RLIMIT_MEMLOCK is {limit})"),
                "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit",
            )
        }
        (Some(libc::ENOENT), _) => refusal("/proc is not mounted".into(), "mount -t proc proc /proc"),
        (Some(libc::EMFILE | libc::ENFILE), _) => {
            refusal("no file descriptor is left".into(), "ulimit -n 65536, or LimitNOFILE=65536 in the unit")
        }
        _ => refusal(format!("kernel {kernel} says: {error}"), "nothing is known to help"),
    }
}

/// True if the file system of a directory takes direct writes; tried with a file that is removed again.
///
/// # Errors
/// If the directory cannot be written to.
pub fn direct_io(directory: &Path) -> io::Result<bool> {
    let name = directory.join(format!(".millrace-probe-{}", std::process::id()));
    let tried = (|| {
        let plain = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&name)?;
        let Some(direct) = path::open_direct(&name, &plain)? else { return Ok(false) };
        match direct.write_all_at(&AlignedBuf::new(BLOCK), 0) {
            Ok(()) => Ok(true),
            Err(error) if path::refuses_direct(&error) => Ok(false),
            Err(error) => Err(error),
        }
    })();
    match std::fs::remove_file(&name) {
        Err(error) if tried.is_ok() => Err(error),
        _ => tried,
    }
}

/// Writes the facts and the verdict as lines of text, the way `doctor` prints them.
///
/// # Errors
/// Those of `out`.
pub fn report(out: &mut dyn Write) -> io::Result<()> {
    let facts = facts();
    writeln!(out, "kernel                    {}", facts.kernel)?;
    let disabled = facts.io_uring_disabled.map_or("not there".to_owned(), |v| v.to_string());
    writeln!(out, "kernel.io_uring_disabled  {disabled}")?;
    writeln!(out, "seccomp filter            {}", if facts.seccomp_filter { "yes" } else { "no" })?;
    let limit = facts.memlock_bytes.map_or("unlimited".to_owned(), |b| format!("{} KiB", b / 1024));
    writeln!(out, "RLIMIT_MEMLOCK            {limit}")?;
    for (name, verdict) in [("io_uring", io_uring()), ("glommio", glommio())] {
        match verdict {
            Ok(()) => writeln!(out, "{name:<26}works")?,
            Err(refusal) => {
                writeln!(out, "{name:<26}no: {}", refusal.why)?;
                writeln!(out, "{:<26}to change that: {}", "", refusal.fix)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_what_to_do() {
        let facts = |disabled, seccomp_filter| Facts {
            kernel: "6.1.0".into(),
            io_uring_disabled: disabled,
            seccomp_filter,
            memlock_bytes: Some(65536),
        };
        let table = [
            (libc::EPERM, facts(Some(2), false), "= 2", "io_uring_disabled=0"),
            (libc::EPERM, facts(Some(1), true), "= 1", "io_uring_group"),
            (libc::EPERM, facts(Some(0), true), "seccomp", "io_uring_setup"),
            (libc::EPERM, facts(None, false), "security module", "SELinux"),
            (libc::ENOSYS, facts(None, true), "seccomp", "io_uring_enter"),
            (libc::ENOSYS, facts(None, false), "6.1.0 has no io_uring", "5.11"),
            (libc::EINVAL, facts(None, false), "too old", "5.11"),
            (libc::ENOMEM, facts(None, false), "64 KiB", "LimitMEMLOCK"),
            (libc::ENOENT, facts(None, false), "/proc", "mount"),
            (libc::EMFILE, facts(None, false), "descriptor", "LimitNOFILE"),
            (libc::EIO, facts(None, false), "6.1.0 says", "nothing"),
        ];
        for (errno, facts, why, fix) in table {
            let refusal = explain(&io::Error::from_raw_os_error(errno), &facts);
            assert!(refusal.why.contains(why), "{refusal}");
            assert!(refusal.fix.contains(fix), "{refusal}");
            assert_eq!(refusal.to_string().lines().count(), 1);
        }
    }

    /// A filter on this thread and what it starts: `io_uring_setup` fails with EPERM, all else passes.
    #[allow(unsafe_code, reason = "prctl(2)")]
    fn forbid_io_uring() {
        let filter = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
        let mut program = [
            filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            filter(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
            filter(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
            filter(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: the arguments are as prctl(2) wants them and outlive the calls.
        let results = unsafe {
            [
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program),
            ]
        };
        assert_eq!(results, [0, 0], "{}", io::Error::last_os_error());
    }

    #[test]
    fn a_real_seccomp_filter_is_seen() {
        let refused = std::thread::spawn(|| {
            forbid_io_uring();
            try_io_uring()
        });
        let refusal = refused.join().unwrap().unwrap_err();
        // The status of the process shows its main thread, which has no filter here.
        assert!(
            ["a security module", "a seccomp filter"].iter().any(|w| refusal.why.starts_with(w)),
            "{refusal}"
        );
    }

    #[test]
    fn an_explicit_wish_is_granted() {
        assert_eq!(choose(Some(EngineKind::Portable)), (EngineKind::Portable, None));
        let (kind, why) = choose(None);
        assert_eq!(kind == EngineKind::Portable, why.is_some());
    }

    #[test]
    fn direct_io_is_tried_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        direct_io(directory.path()).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(direct_io(&directory.path().join("missing")).is_err());
    }

    #[test]
    fn the_report_has_a_verdict() {
        let mut out = Vec::new();
        report(&mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("\nio_uring                  "), "{out}");
        assert!(out.contains(&facts().kernel));
    }
}
