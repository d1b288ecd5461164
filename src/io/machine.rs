//! What the machine offers: cores and memory.

/// Cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Memory this process may use, in bytes: the limit of its control group, else the machine's memory.
pub fn memory_bytes() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let total = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    });
    // cgroup v2 (the process sees its own group at the root of a container's mount), then v1.
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = limits.iter().find_map(|path| read(path)?.trim().parse::<u64>().ok());
    let total = total.unwrap_or(1 << 30);
    limit.map_or(total, |limit| limit.min(total))
}

/// This machine's name (`uname -n`).
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name an address resolves back to, as `InetAddress.getCanonicalHostName` has it. May ask a name
/// server: call it off the core.
#[allow(unsafe_code, reason = "getnameinfo(3) has no safe wrapper among our dependencies")]
pub fn canonical_name(address: std::net::IpAddr) -> Option<String> {
    let address = socket2::SockAddr::from(std::net::SocketAddr::new(address, 0));
    // NI_MAXHOST of netdb.h.
    let mut name = [0u8; 1025];
    // SAFETY: the address is a valid sockaddr of the given length, `name` is writable for its length, and
    // the service is not asked for.
    let failure = unsafe {
        libc::getnameinfo(
            address.as_ptr().cast(),
            address.len(),
            name.as_mut_ptr().cast(),
            name.len() as libc::socklen_t,
            std::ptr::null_mut(),
            0,
            libc::NI_NAMEREQD,
        )
    };
    let name = std::ffi::CStr::from_bytes_until_nul(&name).ok()?;
    (failure == 0).then(|| name.to_string_lossy().into_owned())
}

/// Keeps freed memory with the process, up to 64 MiB a core, instead of giving every page back and having it
/// zeroed again: batches are large, short-lived and many. `mallopt(3)`; other C libraries keep their ways.
/// Figures in `GLIBC_TUNABLES` win. Call it before the shards start.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "mallopt(3) has no safe wrapper among our dependencies")]
pub fn keep_freed_memory() {
    const KEPT_BYTES: libc::c_int = 64 << 20;
    // Larger ones are mapped and given back on their own: a call of 64 MiB must not stay.
    const MAPPED_BYTES_MIN: libc::c_int = 4 << 20;
    if std::env::var("GLIBC_TUNABLES").is_ok_and(|tunables| tunables.contains("glibc.malloc.")) {
        return;
    }
    // SAFETY: only sets numbers of the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN);
    }
}
#[cfg(not(target_env = "gnu"))]
pub fn keep_freed_memory() {}

/// Raises the soft limit of open files to the hard one, as a JVM does: a connection is a file, and the usual
/// soft limit is 1024. The limit now.
pub fn allow_open_files() -> Option<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit.current = limit.maximum;
        }
    }
    limit.current
}

/// This machine's time zone (`TZ`, `/etc/localtime`), UTC if none can be found.
pub fn time_zone() -> jiff::tz::TimeZone {
    jiff::tz::TimeZone::system()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_a_name() {
        assert!(!host_name().is_empty());
    }

    #[test]
    fn as_many_files_as_the_administrator_allows() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        // Still enough for the tests beside this one.
        let lowered = limit.maximum.unwrap_or(1 << 20) - 1;
        setrlimit(Resource::Nofile, Rlimit { current: Some(lowered), ..limit }).unwrap();
        assert_eq!(allow_open_files(), limit.maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, limit.maximum);
    }

    #[test]
    fn the_loopback_address_has_a_name() {
        // /etc/hosts has it; where it does not, the answer is `None` and not a fault.
        let name = canonical_name([127, 0, 0, 1].into());
        assert!(name.is_none_or(|name| !name.is_empty()));
    }
}
