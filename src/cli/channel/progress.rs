//! A progress bar on a terminal; nothing anywhere else.

use std::io::{IsTerminal, Write};

use super::bytes;

/// Width of the bar in characters.
const WIDTH: usize = 30;
/// Redrawn after this part of the whole.
const STEPS: u64 = 200;

/// A bar over a number of bytes.
pub struct Progress {
    total: u64,
    drawn: u64,
    shown: bool,
}

impl Progress {
    /// A bar on standard error, if that is a terminal.
    pub fn new(total: u64) -> Self {
        Self { total, drawn: 0, shown: std::io::stderr().is_terminal() }
    }
    /// So much is done.
    pub fn at(&mut self, done: u64) {
        if self.shown && done.saturating_sub(self.drawn) > self.total / STEPS {
            self.drawn = done;
            let _ = write!(std::io::stderr(), "\r{}", bar(done, self.total));
        }
    }
}

/// The bar goes before anything else is printed.
impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown && self.drawn > 0 {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn bar(done: u64, total: u64) -> String {
    let done = done.min(total);
    let part = done as f64 / total.max(1) as f64;
    let filled = (part * WIDTH as f64) as usize;
    let (full, empty) = ("#".repeat(filled), ".".repeat(WIDTH - filled));
    format!("[{full}{empty}] {:3.0} %  {} of {}\x1b[K", part * 100.0, bytes(done), bytes(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills() {
        assert!(bar(0, 100).starts_with("[....."));
        assert!(bar(50, 100).contains("###..............."));
        assert!(bar(200, 100).contains("100 %"));
        assert!(bar(0, 0).contains("  0 %"));
    }
}
