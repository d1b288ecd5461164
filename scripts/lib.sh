# What the scripts share: finding and installing what is missing. Sourced, not run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export PATH=$HOME/.cargo/bin:$PATH

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# as_root COMMAND...: runs it as root, or fails when that is not possible without asking
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# need_package COMMAND PACKAGES: installs Debian packages unless the command is there
need_package() {
    command -v "$1" >/dev/null 2>&1 && return 0
    say "installing $2 (for $1)"
    if ! command -v apt-get >/dev/null 2>&1; then
        say "error: $1 is missing; install it with this system's package manager"
        return 1
    fi
    # shellcheck disable=SC2086  # a list of packages
    { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $2; } >/dev/null 2>&1 || {
        say "error: $1 is missing; type: sudo apt-get install $2"
        return 1
    }
}

# Rust new enough for Cargo.toml
need_rust() {
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    have=$(cargo --version 2>/dev/null | sed 's/cargo \([0-9.]*\).*/\1/')
    if [ -n "$have" ] && [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ]; then
        return 0
    fi
    if command -v rustup >/dev/null 2>&1; then
        say "updating Rust ${have:-} to at least $wanted"
        rustup toolchain install stable --profile minimal --component rustfmt --component clippy >&2 && rustup default stable >&2 && return 0
    elif need_package curl "curl ca-certificates"; then
        say "installing Rust with rustup"
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --component rustfmt --component clippy >&2 && return 0
    fi
    die "Rust $wanted or newer is needed and could not be installed; see https://rustup.rs, then run this again"
}

# What every build needs: a C compiler for zstd, and Rust
need_build_tools() {
    need_package cc "gcc libc6-dev" || exit 1
    need_rust
}

# free_port: a TCP port nobody listens on, below the range of outgoing connections
free_port() {
    local port used
    used=$(awk '$4 == "0A" { split($2, a, ":"); print a[2] }' /proc/net/tcp /proc/net/tcp6 2>/dev/null)
    while :; do
        port=$((10000 + RANDOM % 20000))
        printf '%s\n' "$used" | grep -qi "^$(printf '%04X' $port)$" || { echo $port; return; }
    done
}
