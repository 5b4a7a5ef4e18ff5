//! Programs that are executed: by a fresh Python for each test, as `python3 solution.py` is.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::Limits;
use super::descriptors::{message_sockets, sealed_memory};
use super::program::Program;
use super::protocol::{self, Channel};
use super::worker::Worker;
use crate::{Error, Result};

const SOURCE: &str = "solution.py";
/// Makes the folder an empty virtual environment: all of plain Python, and no packages of this machine.
const ENVIRONMENT: &str = "pyvenv.cfg";

/// The folder of a worker from which its programs are executed: they read it only, and this process writes it.
#[derive(Debug)]
pub(super) struct ProgramFolder {
    descriptor: OwnedFd,
    /// Where the programs find it.
    path: String,
}

impl ProgramFolder {
    pub(super) fn new(descriptor: OwnedFd, path: &str, interpreter: &Path) -> Result<Self> {
        let folder = ProgramFolder { descriptor, path: path.to_string() };
        let home = interpreter.parent().unwrap_or(Path::new("/")).display();
        let settings = format!("home = {home}\ninclude-system-site-packages = false\n");
        folder.write(ENVIRONMENT, settings.as_bytes())?;
        Ok(folder)
    }

    /// A new file in place of any that has the name; the modes are not left to this process's umask.
    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let failed = |errno: rustix::io::Errno| Error::io(format!("writing {name} for the judge"), errno.into());
        match rustix::fs::unlinkat(&self.descriptor, name, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let readable = Mode::from_bits_truncate(0o444);
        let file = rustix::fs::openat(&self.descriptor, name, flags, readable).map_err(failed)?;
        rustix::fs::fchmod(&file, readable).map_err(failed)?;
        let mut rest = content;
        while !rest.is_empty() {
            let written = rustix::io::write(&file, rest).map_err(failed)?;
            rest = &rest[written..];
        }
        Ok(())
    }
}

impl Worker {
    /// Has a Python program run by an interpreter of its own in each test. Whether it compiles, its first run tells.
    ///
    /// The worker must be of the kind [`super::WorkerKind::Exec`].
    pub fn load_exec(&mut self, source: &[u8], limits: &Limits) -> Result<Program> {
        let folder = self.program_folder.as_ref().ok_or_else(|| Error::Judge("a worker without a folder".into()))?;
        folder.write(SOURCE, source)?;
        let path = &folder.path;
        let arguments = [&format!("{path}/bin/python3"), "-B", "-s", SOURCE].join("\0");
        let executable = open_executable(&self.config.interpreter)?;
        let source = sealed_memory(source)?;
        let (ours, theirs) = message_sockets()?;
        let request = protocol::load(limits.memory_bytes, &arguments);
        self.begin_program(limits.memory_bytes)?;
        self.control.send(&request, &[theirs.as_fd(), executable.as_fd(), source.as_fd()])?;
        Ok(Program::in_template(Channel::new(ours), self.meter.clone(), limits))
    }
}

fn open_executable(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| Error::io(format!("opening {}", path.display()), errno.into()))
}
