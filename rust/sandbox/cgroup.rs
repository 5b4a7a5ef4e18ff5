//! The memory cgroup of one worker: the kernel counts what its programs use, and ends what uses more than the limit.
//!
//! The zygote enters it once, when it is warm, so that its forks are born inside of it. Moving the process of each test
//! instead costs 0.03 ms of CPU time by version 1's `tasks`; by `cgroup.procs`, the only way in version 2, the process
//! waits some 10 ms for the kernel. What the helper's own processes come to use inside is small, and is not counted as
//! the program's; but where a program fills the kernel's memory rather than its own, they may be what the kernel ends,
//! which [`Leaf::has_killed`] tells.
//!
//! CPU time needs no cgroup: no program has descendants, and the kernel counts a process with all its threads.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::cgroup_place::{Places, Version};
use crate::{Error, Result};

const PREFIX: &str = "spo-judge-";
/// Processes and threads of a worker, as in `helper/jail.py`, with room for the helper's own.
const MAX_PIDS: &str = "528";
/// How long the processes of a worker that has ended may still be leaving its groups.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(1);
const ATTEMPTS: u32 = 3;
/// The kernel kills for a limit when the next pages do not fit below it.
const LIMIT_SLACK_BYTES: u64 = 4 << 20;
/// More than any of the files that are read here has.
const MAX_FILE_BYTES: usize = 1 << 10;
static NEXT_NUMBER: AtomicU32 = AtomicU32::new(0);

/// A memory cgroup for the programs of one worker, removed when dropped.
#[derive(Debug)]
pub(super) struct Leaf {
    version: Version,
    /// The group for memory first.
    groups: Vec<Group>,
    usage: File,
    /// Can be set back. Kernels with version 2 before 6.12 lack that.
    peak: Option<File>,
    kills: File,
    num_kills: AtomicU64,
    limit: AtomicU64,
}

/// A folder of a cgroup file system, locked for as long as it is in use.
#[derive(Debug)]
struct Group {
    folder: PathBuf,
    entrance: File,
    _lock: Option<File>,
}

impl Leaf {
    /// Makes one, and removes what dead judges have left beside it. `Error::Judge` says what was refused.
    pub(super) fn make() -> Result<Self> {
        let places = Places::of_this_process()?;
        let mut refused = Error::Judge("no place for a cgroup".into());
        for place in &places.memory {
            match Group::make(place, entrance_of(places.version)) {
                Ok(memory) => {
                    // A host may give one hierarchy and not the other; the uid's limit is then the only one on processes.
                    let pids = places.pids.as_ref().and_then(|place| Group::make(place, "tasks").ok());
                    return Self::open(places.version, [Some(memory), pids].into_iter().flatten().collect());
                }
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn open(version: Version, groups: Vec<Group>) -> Result<Self> {
        let folder = groups.first().map(|group| group.folder.clone()).unwrap_or_default();
        let (usage, peak, kills) = match version {
            Version::V1 => ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"),
            Version::V2 => ("memory.current", "memory.peak", "memory.events"),
        };
        let read = |name: &str| File::open(folder.join(name)).map_err(|error| failed(&folder.join(name), error));
        let peak = OpenOptions::new().read(true).write(true).open(folder.join(peak)).ok();
        let (usage, kills) = (read(usage)?, read(kills)?);
        let leaf = Leaf { version, groups, usage, peak, kills, num_kills: 0.into(), limit: u64::MAX.into() };
        leaf.num_kills.store(leaf.count_kills()?, Ordering::Relaxed);
        if let Some(pids) = leaf.groups.last() {
            // Not in every version 2 group; see above.
            let _ = write(&pids.folder.join("pids.max"), MAX_PIDS);
        }
        Ok(leaf)
    }

    /// The name in results.
    pub(super) fn name(&self) -> &'static str {
        match self.version {
            Version::V1 => "cgroup_v1",
            Version::V2 => "cgroup_v2",
        }
    }

    /// A process that writes `0` to each of these is inside.
    pub(super) fn entrances(&self) -> Vec<BorrowedFd<'_>> {
        self.groups.iter().map(|group| group.entrance.as_fd()).collect()
    }

    /// Lets the processes inside use so much memory, and nothing of it be swapped out.
    pub(super) fn set_limit(&self, bytes: u64) -> Result<()> {
        let before = self.limit.swap(bytes, Ordering::Relaxed);
        if before == bytes {
            return Ok(());
        }
        let set = |name: &str, text: &str| {
            let path = self.groups.first().map(|group| group.folder.join(name)).unwrap_or_default();
            write(&path, text).map_err(|error| failed(&path, error))
        };
        let number = bytes.to_string();
        match self.version {
            Version::V1 => {
                // The one for memory and swap together is never below the other. It is not there in every kernel.
                let files = ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"];
                let [first, second] = if bytes > before { files } else { [files[1], files[0]] };
                for name in [first, second] {
                    match set(name, &number) {
                        Err(Error::Io { source, .. }) if name == files[0] && source.kind() == ErrorKind::NotFound => {
                            set("memory.swappiness", "0")?;
                        }
                        result => result?,
                    }
                }
            }
            Version::V2 => {
                set("memory.max", &number)?;
                match set("memory.swap.max", "0") {
                    Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {} // There is no swap.
                    result => result?,
                }
            }
        }
        Ok(())
    }

    /// Begins to count anew. The number is what is in use already.
    pub(super) fn start_counting(&self) -> Result<u64> {
        if let Some(peak) = &self.peak {
            peak.write_at(b"0", 0).map_err(|error| Error::io("setting back a cgroup's peak", error))?;
        }
        number(&self.usage)
    }

    /// The most that has been in use since then; 0 where the kernel does not say.
    pub(super) fn peak(&self) -> Result<u64> {
        self.peak.as_ref().map_or(Ok(0), number)
    }

    /// Whether the kernel has killed a process for the limit since this was last asked.
    ///
    /// `Error::Judge` when it has, but for want of memory around the cgroup: it counts those in the same number.
    pub(super) fn has_killed(&self) -> Result<bool> {
        let kills = self.count_kills()?;
        let has = self.num_kills.swap(kills, Ordering::Relaxed) != kills;
        let limit = self.limit.load(Ordering::Relaxed);
        if has && self.peak.is_some() && self.peak()?.saturating_add(LIMIT_SLACK_BYTES) < limit {
            return Err(Error::Judge(
                "a program was killed because this machine, or a group around it, is out of memory".into(),
            ));
        }
        Ok(has)
    }

    fn count_kills(&self) -> Result<u64> {
        let text = content(&self.kills)?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count
            .and_then(|count| count.parse().ok())
            .ok_or_else(|| Error::Judge("a cgroup does not count its kills".into()))
    }
}

impl Group {
    /// A new folder below `place`, for the process that has it open.
    fn make(place: &Path, entrance: &str) -> Result<Self> {
        remove_abandoned(place);
        let mut refused = Error::Judge("no cgroup could be made".into());
        for _ in 0..ATTEMPTS {
            let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
            let folder = place.join(format!("{PREFIX}{}-{number}", std::process::id()));
            // Another pid namespace may have had the name, and before it is locked it may be taken for abandoned.
            match std::fs::create_dir(&folder).and_then(|()| Self::enter(&folder, entrance)) {
                Ok(group) => return Ok(group),
                Err(error) => refused = failed(&folder, error),
            }
        }
        Err(refused)
    }

    fn enter(folder: &Path, entrance: &str) -> std::io::Result<Self> {
        let lock = lock(folder)?;
        let entrance = OpenOptions::new().write(true).open(folder.join(entrance))?;
        Ok(Group { folder: folder.to_path_buf(), entrance, _lock: Some(lock) })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let deadline = Instant::now() + REMOVAL_TIMEOUT;
        while let Err(error) = std::fs::remove_dir(&self.folder) {
            if error.kind() != ErrorKind::ResourceBusy || Instant::now() > deadline {
                return; // The next judge removes it.
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn entrance_of(version: Version) -> &'static str {
    match version {
        Version::V1 => "tasks",
        Version::V2 => "cgroup.procs",
    }
}

fn lock(folder: &Path) -> std::io::Result<File> {
    let file = File::open(folder)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Those that nobody holds a lock on; one that still has processes is not removed by the kernel.
fn remove_abandoned(place: &Path) {
    let is_ours = |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with(PREFIX));
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        if is_ours(&entry.file_name())
            && let Ok(_held) = lock(&entry.path())
        {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

fn content(file: &File) -> Result<String> {
    let mut buffer = [0u8; MAX_FILE_BYTES];
    let count = file.read_at(&mut buffer, 0).map_err(|error| Error::io("reading a cgroup", error))?;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

fn number(file: &File) -> Result<u64> {
    let text = content(file)?;
    text.trim_end().parse().map_err(|_| Error::Judge(format!("a cgroup says {text:?} where a number belongs")))
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::io(path.display().to_string(), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with the files of a cgroup of version 2, as a kernel shows them; it does not act as one.
    fn version_2(peak: bool) -> (tempfile::TempDir, PathBuf) {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("spo-judge-0-0");
        std::fs::create_dir(&folder).unwrap();
        for name in ["memory.max", "memory.swap.max", "pids.max", "cgroup.procs"] {
            std::fs::write(folder.join(name), "max\n").unwrap();
        }
        std::fs::write(folder.join("memory.current"), "4096\n").unwrap();
        std::fs::write(folder.join("memory.events"), "low 0\nmax 7\noom 1\noom_kill 3\noom_group_kill 0\n").unwrap();
        if peak {
            std::fs::write(folder.join("memory.peak"), "8192\n").unwrap();
        }
        (top, folder)
    }

    fn open(folder: &Path) -> Leaf {
        Leaf::open(Version::V2, vec![Group::enter(folder, "cgroup.procs").unwrap()]).unwrap()
    }

    fn text(folder: &Path, name: &str) -> String {
        std::fs::read_to_string(folder.join(name)).unwrap().trim_end().to_string()
    }

    #[test]
    fn version_2_is_told_the_limits_and_nothing_is_swapped() {
        let (_top, folder) = version_2(true);
        let leaf = open(&folder);
        leaf.set_limit(1 << 27).unwrap();
        for (name, value) in [("memory.max", "134217728"), ("memory.swap.max", "0"), ("pids.max", MAX_PIDS)] {
            assert!(text(&folder, name).starts_with(value), "{name}");
        }
        assert_eq!((leaf.name(), leaf.entrances().len()), ("cgroup_v2", 1));
        std::fs::write(folder.join("memory.max"), "").unwrap();
        leaf.set_limit(1 << 27).unwrap();
        assert_eq!(text(&folder, "memory.max"), "", "a limit that is in force is not set again");
        std::fs::remove_file(folder.join("memory.swap.max")).unwrap();
        leaf.set_limit(1 << 28).unwrap();
    }

    #[test]
    fn version_2_tells_what_is_used_and_whether_it_has_killed() {
        let (_top, folder) = version_2(true);
        let leaf = open(&folder);
        leaf.set_limit(1 << 20).unwrap();
        assert_eq!(leaf.start_counting().unwrap(), 4096);
        std::fs::write(folder.join("memory.peak"), "1048576\n").unwrap();
        assert_eq!(leaf.peak().unwrap(), 1 << 20);
        assert!(!leaf.has_killed().unwrap(), "those of before do not count");
        std::fs::write(folder.join("memory.events"), "oom 2\noom_kill 4\n").unwrap();
        assert!(leaf.has_killed().unwrap());
        assert!(!leaf.has_killed().unwrap());
        std::fs::write(folder.join("memory.events"), "oom 2\n").unwrap();
        assert!(leaf.has_killed().is_err());
    }

    #[test]
    fn a_kill_far_from_the_limit_is_the_machines_fault() {
        let (_top, folder) = version_2(true);
        let leaf = open(&folder);
        leaf.set_limit(1 << 27).unwrap();
        std::fs::write(folder.join("memory.events"), "oom 1\noom_kill 4\n").unwrap();
        assert!(leaf.has_killed().unwrap_err().to_string().contains("out of memory"));
        std::fs::write(folder.join("memory.peak"), "134213632\n").unwrap();
        std::fs::write(folder.join("memory.events"), "oom 2\noom_kill 5\n").unwrap();
        assert!(leaf.has_killed().unwrap());
    }

    #[test]
    fn a_kernel_that_cannot_set_the_peak_back_tells_none() {
        let (_top, folder) = version_2(false);
        let leaf = open(&folder);
        assert_eq!((leaf.start_counting().unwrap(), leaf.peak().unwrap()), (4096, 0));
    }

    #[test]
    fn what_nobody_holds_is_removed_and_the_rest_is_left() {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        for name in ["spo-judge-1-0", "spo-judge-2-0", "other"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        let held = lock(&path("spo-judge-2-0")).unwrap();
        remove_abandoned(top.path());
        assert_eq!(
            [path("spo-judge-1-0").exists(), path("spo-judge-2-0").exists(), path("other").exists()],
            [false, true, true]
        );
        drop(held);
        remove_abandoned(top.path());
        assert!(!path("spo-judge-2-0").exists());
    }

    #[test]
    fn where_no_cgroup_can_be_made_the_place_and_the_reason_are_said() {
        let error = Group::make(Path::new("/proc/self"), "tasks").unwrap_err().to_string();
        assert!(error.starts_with("/proc/self/spo-judge-"), "{error}");
    }
}
