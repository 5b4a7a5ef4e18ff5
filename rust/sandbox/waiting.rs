//! How long processes have waited for a core while others ran: time on the clock that was not theirs to use.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Runnable processes for each core (over the last minute) from which the machine counts as busy.
const BUSY_LOAD_PER_CORE: f64 = 0.8;
const MAX_SCHEDSTAT_BYTES: usize = 128;

/// The judge's own thread, on which a program waits that fills its pipe.
#[derive(Debug)]
pub(super) struct OwnThread(Option<File>);

impl OwnThread {
    /// The calling one.
    pub(super) fn current() -> Self {
        OwnThread(File::open("/proc/thread-self/schedstat").ok())
    }

    /// How long it has waited since it began; nothing where the kernel does not say.
    pub(super) fn waited(&self) -> Duration {
        let mut buffer = [0u8; MAX_SCHEDSTAT_BYTES];
        let read = self.0.as_ref().and_then(|file| file.read_at(&mut buffer, 0).ok());
        read.and_then(|count| parse(&String::from_utf8_lossy(&buffer[..count]))).unwrap_or_default()
    }
}

/// What a process has waited for a core since it began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waited {
    /// Of its threads, the one that waited longest. A wait counts once it is over.
    pub longest: Duration,
    /// One of them runs, or waits right now.
    pub is_runnable: bool,
}

/// `None` where the kernel does not say.
pub(super) fn waited_for_a_core(handle: impl AsFd) -> Option<Waited> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", handle.as_fd().as_raw_fd())).ok()?;
    let pid: i64 = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
    let mut all = Waited::default();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let read = |name| std::fs::read_to_string(thread.path().join(name));
        // One that has just ended has no files any more.
        let (Ok(schedstat), Ok(stat)) = (read("schedstat"), read("stat")) else { continue };
        all.longest = all.longest.max(parse(&schedstat)?);
        all.is_runnable |= is_runnable(&stat);
    }
    Some(all)
}

/// By the state in a stat file, which follows the name, which may have anything in it.
fn is_runnable(stat: &str) -> bool {
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R'))
}

/// The second number of a schedstat file: nanoseconds on a run queue.
fn parse(schedstat: &str) -> Option<Duration> {
    schedstat.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// Whether processes have to wait for a core here; yes where the system does not say.
pub(super) fn machine_is_busy() -> bool {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::fs::read_to_string("/proc/loadavg").ok().and_then(|text| is_busy(&text, cores)).unwrap_or(true)
}

/// By the load of the last minute, or as soon as more processes are runnable than there are cores. `None` for a text that
/// is no /proc/loadavg.
fn is_busy(loadavg: &str, cores: usize) -> Option<bool> {
    let mut fields = loadavg.split(' ');
    let load: f64 = fields.next()?.parse().ok()?;
    let runnable: usize = fields.nth(2)?.split('/').next()?.parse().ok()?;
    Some(load > BUSY_LOAD_PER_CORE * cores as f64 || runnable > cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_busy_by_its_load_or_at_once_by_what_is_runnable() {
        assert_eq!(is_busy("0.20 0.10 0.05 1/500 4711\n", 2), Some(false));
        assert_eq!(is_busy("1.70 0.10 0.05 1/500 4711\n", 2), Some(true));
        assert_eq!(is_busy("0.20 0.10 0.05 3/500 4711\n", 2), Some(true));
        assert_eq!(is_busy("0.20 0.10 0.05 3/500 4711\n", 4), Some(false));
        assert_eq!(is_busy("no load", 2), None);
    }

    #[test]
    fn the_state_is_what_follows_the_name() {
        assert!(is_runnable("7 (a) S) R 1 7 7 0\n"));
        assert!(!is_runnable("7 (a) R) S 1 7 7 0\n"));
        assert!(!is_runnable(""));
    }

    #[test]
    fn the_wait_is_the_second_number() {
        assert_eq!(parse("262278136 51128809 1059\n"), Some(Duration::from_nanos(51_128_809)));
        assert_eq!(parse(""), None);
        assert_eq!(parse("1 x 2"), None);
    }
}
