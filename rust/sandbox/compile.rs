//! C++: a worker that compiles, and the executable that comes of it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::Alarm;
use super::descriptors::{message_sockets, sealed_memory};
use super::limits::Limits;
use super::program::Program;
use super::protocol::{self, Channel, FromRunner};
use super::worker::Worker;
use crate::{Error, Result};

/// Looked for in this order.
const COMPILERS: [&str; 3] = ["g++", "clang++", "c++"];
const TOOLS: [&str; 5] = ["/bin", "/usr/bin", "/usr/include", "/usr/libexec", "/usr/local/include"];
/// The helper stops a compiler that takes long; this is for a helper that is stuck.
const TIMEOUT: Duration = Duration::from_secs(330);
/// Of all processes of a compilation together and its files, which lie in memory; each process has its own limits.
const MEMORY_BYTES: u64 = 3 << 30;

/// A program for this machine, in sealed memory.
#[derive(Debug)]
pub struct Executable(OwnedFd);

/// What compiling came to.
#[derive(Debug)]
pub enum Compilation {
    /// It can be run.
    Done(Executable),
    /// The source does not compile, with the compiler's words.
    NotCompiled(String),
    /// The alarm rang. The worker must be dropped, which ends the compiler.
    Cancelled,
}

/// The C++ compiler of this host, if there is one.
pub fn find_compiler() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let candidates =
        COMPILERS.iter().flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)));
    // The real file: what links on the way may not be there in the jail.
    candidates.filter_map(|candidate| candidate.canonicalize().ok()).find(|candidate| candidate.is_file())
}

/// What a compiler reads: its headers and libraries, and the programs that it starts.
pub(super) fn readable_paths(compiler: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = TOOLS.iter().map(PathBuf::from).collect();
    // One that is installed elsewhere has all of it there, in PREFIX/bin, PREFIX/lib and so on.
    let prefix = compiler.parent().and_then(Path::parent);
    paths.extend(prefix.filter(|prefix| !matches!(prefix.to_str(), Some("/" | "/usr"))).map(Path::to_path_buf));
    paths
}

impl Worker {
    /// Compiles C++17. The worker must be of the kind [`super::WorkerKind::Compile`].
    pub fn compile(&mut self, source: &[u8], alarm: &Alarm) -> Result<Compilation> {
        let source = sealed_memory(source)?;
        let output = memory_for_executable()?;
        self.begin_program(MEMORY_BYTES)?;
        self.control.send(protocol::COMPILE, &[source.as_fd(), output.as_fd()])?;
        let mut watched = [PollFd::new(&*self.control, PollFlags::IN), PollFd::new(alarm, PollFlags::IN)];
        if !protocol::wait(&mut watched, Instant::now() + TIMEOUT)? {
            return Err(protocol::too_late("end of a compiler"));
        }
        if !watched[1].revents().is_empty() {
            return Ok(Compilation::Cancelled);
        }
        let message = self.control.receive()?.ok_or_else(|| Error::Judge("the compiler's helper ended".into()))?;
        match FromRunner::parse(&message)? {
            FromRunner::Compiled => {
                let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
                rustix::fs::fcntl_add_seals(&output, seals)
                    .map_err(|errno| Error::io("sealing an executable", errno.into()))?;
                Ok(Compilation::Done(Executable(output)))
            }
            FromRunner::NotCompiled(reason) => Ok(Compilation::NotCompiled(reason)),
            _ => Err(Error::Judge("the compiler's helper told of a run".into())),
        }
    }

    /// Has an executable run in each test. The worker must be of the kind [`super::WorkerKind::Exec`].
    pub fn load_executable(&mut self, executable: &Executable, limits: &Limits) -> Result<Program> {
        let (ours, theirs) = message_sockets()?;
        let request = protocol::load(limits.memory_bytes, "solution");
        self.begin_program(limits.memory_bytes)?;
        self.control.send(&request, &[theirs.as_fd(), executable.0.as_fd()])?;
        Ok(Program::in_template(Channel::new(ours), self.meter.clone(), limits))
    }
}

fn memory_for_executable() -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let made = match rustix::fs::memfd_create("solution", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => rustix::fs::memfd_create("solution", flags), // Before Linux 6.3.
        made => made,
    };
    made.map_err(|errno| Error::io("making memory for an executable", errno.into()))
}
