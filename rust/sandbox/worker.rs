//! A worker: the helper process of one judge thread, jailed and warm.
//!
//! It is started by exec (through posix_spawn: nothing of this process is copied), speaks over its descriptor 0, and
//! ends when this process does, however that ends.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::descriptors::message_sockets;
use super::exec::ProgramFolder;
use super::meter::Meter;
use super::program::Program;
use super::protocol::{self, Channel};
use super::tier::IsolationTier;
use super::{Limits, compile, seccomp};
use crate::{Error, Result};

const BOOTSTRAP: &str = include_str!("helper/bootstrap.py");
/// Loaded in this order: each may import those before it.
const MODULES: [(&str, &str); 8] = [
    ("kernel", include_str!("helper/kernel.py")),
    ("box", include_str!("helper/box.py")),
    ("jail", include_str!("helper/jail.py")),
    ("runs", include_str!("helper/runs.py")),
    ("program", include_str!("helper/program.py")),
    ("executor", include_str!("helper/executor.py")),
    ("compiler", include_str!("helper/compiler.py")),
    ("zygote", include_str!("helper/zygote.py")),
];

const START_TIMEOUT: Duration = Duration::from_secs(30);
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Uids that no system hands out; each worker takes another one, so that workers cannot reach each other.
const FIRST_UID: u32 = 0x6000_0000;
const NUM_UIDS: u32 = 1 << 16;
static NEXT_UID: AtomicU32 = AtomicU32::new(0);

/// How workers are made.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// A CPython of at least 3.11.
    pub interpreter: PathBuf,
    /// The isolation to set up; refused with a reason where this host does not give it.
    pub tier: IsolationTier,
    /// Whether a part of the tier that this host does not give is an error, rather than missing in the layers.
    pub forced: bool,
    /// What it runs.
    pub kind: WorkerKind,
}

/// What a worker runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerKind {
    /// Python programs, each test in a fork of a warm interpreter.
    Warm,
    /// Programs by exec: a fresh Python for each test, or a machine's binary.
    Exec,
    /// None: it compiles C++, with this compiler.
    Compile(PathBuf),
}

impl WorkerKind {
    fn name(&self) -> &'static str {
        match self {
            WorkerKind::Warm => "warm",
            WorkerKind::Exec => "exec",
            WorkerKind::Compile(_) => "compile",
        }
    }
}

/// A running helper.
#[derive(Debug)]
pub struct Worker {
    process: Child,
    pub(super) control: Arc<Channel>,
    pub(super) config: WorkerConfig,
    python_version: String,
    layers: Arc<[String]>,
    num_programs: u64,
    pub(super) program_folder: Option<ProgramFolder>,
    pub(super) meter: Arc<Meter>,
    memory_accounting: Arc<str>,
}

impl Worker {
    /// Starts a helper and waits until it is jailed and warm. `Error::Judge` says what the host refused.
    pub fn start(config: &WorkerConfig) -> Result<Self> {
        let (ours, theirs) = message_sockets()?;
        let log = File::from(memory_log()?);
        let process = spawn(&config.interpreter, theirs, &log)?;
        let mut worker = Worker {
            process,
            control: Arc::new(Channel::new(ours)),
            config: config.clone(),
            python_version: String::new(),
            layers: Arc::default(),
            num_programs: 0,
            program_folder: None,
            meter: Arc::new(Meter::new()),
            memory_accounting: Arc::default(),
        };
        if let Err(error) = worker.shake_hands() {
            return Err(explain(error, config, log));
        }
        worker.memory_accounting = worker.meter.memory_accounting().into();
        Ok(worker)
    }

    fn shake_hands(&mut self) -> Result<()> {
        let sources: Vec<&str> = MODULES.iter().flat_map(|(name, text)| [*name, *text]).collect();
        self.control.send(sources.join("\0").as_bytes(), &[])?;
        self.control.send(configuration(&self.config).as_bytes(), &self.meter.entrances())?;
        let deadline = Instant::now() + START_TIMEOUT;
        let answer = self.control.receive_with_descriptor_before(deadline, "start of the interpreter")?;
        let (message, descriptor) = answer.unwrap_or_default();
        match message.split_first() {
            Some((b'R', text)) => {
                let text = String::from_utf8_lossy(text);
                let mut lines = text.lines();
                self.python_version = lines.next().unwrap_or_default().to_string();
                self.layers = lines.next().unwrap_or_default().split(',').map(String::from).collect();
                let path = lines.next().unwrap_or_default();
                let reason = lines.next().filter(|reason| !reason.is_empty());
                // Nobody else has the meter yet.
                if let (Some(reason), Some(meter)) = (reason, Arc::get_mut(&mut self.meter)) {
                    meter.give_up_cgroup(reason);
                }
                let is_written = self.config.kind == WorkerKind::Exec;
                let folder = descriptor
                    .filter(|_| is_written)
                    .map(|folder| ProgramFolder::new(folder, path, &self.config.interpreter));
                self.program_folder = folder.transpose()?;
                Ok(())
            }
            Some((b'E', reason)) => Err(Error::Judge(String::from_utf8_lossy(reason).into_owned())),
            _ => Err(Error::Judge("the interpreter ended".into())),
        }
    }

    /// The isolation that is in force.
    pub fn tier(&self) -> IsolationTier {
        self.config.tier
    }

    /// What stands between its programs and this machine.
    pub fn layers(&self) -> &Arc<[String]> {
        &self.layers
    }

    /// What counts and limits the memory of its programs, and why it is nothing better.
    pub fn memory_accounting(&self) -> &Arc<str> {
        &self.memory_accounting
    }

    /// The version of the interpreter.
    pub fn python_version(&self) -> &str {
        &self.python_version
    }

    /// The process id of the helper.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// How many programs it has loaded.
    pub fn num_programs(&self) -> u64 {
        self.num_programs
    }

    /// A program, to be compiled in a process of its own, within the limits. Whether it compiles, its first run tells.
    ///
    /// With a `function`, each run calls that with the arguments that stdin holds (a JSON list), and writes the value
    /// (JSON) in place of the program's own output.
    pub fn load(&mut self, source: &[u8], function: Option<&str>, limits: &Limits) -> Result<Program> {
        self.begin_program(limits.memory_bytes)?;
        let function = function.unwrap_or_default();
        Ok(Program::warm(self.control.clone(), self.meter.clone(), source, function, limits))
    }

    /// To be called before a program is loaded.
    pub(super) fn begin_program(&mut self, memory_bytes: u64) -> Result<()> {
        self.num_programs += 1;
        self.meter.limit_memory(memory_bytes)
    }

    /// Kills the process of the program loaded last, and all it has started; returns when they are gone.
    pub fn kill_program(&mut self) -> Result<()> {
        self.control.send(protocol::KILL, &[])?;
        let deadline = Instant::now() + KILL_TIMEOUT;
        while let Some(answer) = self.control.receive_before(deadline, "end of a killed program")? {
            // Before it may come the end of a run that nobody waits for any more.
            if answer == protocol::KILL {
                return Ok(());
            }
        }
        Err(Error::Judge("the judge's helper ended".into()))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The zygote ends at the end of its socket; the kill is for a helper that is stuck.
        let _ = rustix::net::shutdown(&*self.control, rustix::net::Shutdown::Both);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            match self.process.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                _ => return,
            }
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(interpreter: &Path, control: OwnedFd, log: &File) -> Result<Child> {
    let log = log.try_clone().map_err(|error| Error::io("making the helper's log", error))?;
    Command::new(interpreter)
        .args(["-I", "-S", "-B", "-c", BOOTSTRAP])
        .env_clear()
        // What a fork would have to look up anew each time is looked up once. The helper removes it from its environment.
        .env("LD_BIND_NOW", "1")
        .current_dir("/")
        // A group of its own: Ctrl-C is for the caller, who then ends its helpers.
        .process_group(0)
        .stdin(control)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|error| Error::io(format!("starting {}", interpreter.display()), error))
}

fn memory_log() -> Result<OwnedFd> {
    rustix::fs::memfd_create("spo-judge-log", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|errno| Error::io("making the helper's log", errno.into()))
}

fn configuration(config: &WorkerConfig) -> String {
    let uid = FIRST_UID
        + std::process::id().wrapping_mul(31).wrapping_add(NEXT_UID.fetch_add(1, Ordering::Relaxed)) % NUM_UIDS;
    let (child_filter, pid_offset) = seccomp::child_filter();
    let (readable, compiler, base_filter) = match &config.kind {
        WorkerKind::Warm => (Vec::new(), "".into(), seccomp::base_filter()),
        WorkerKind::Exec => (vec![config.interpreter.clone()], "".into(), seccomp::base_filter()),
        WorkerKind::Compile(compiler) => {
            (compile::readable_paths(compiler), compiler.to_string_lossy(), seccomp::compiler_filter())
        }
    };
    let readable: Vec<_> = readable.iter().map(|path| path.to_string_lossy()).collect();
    format!(
        "tier={}\nforced={}\nkind={}\nreadable={}\ncompiler={compiler}\ntemporary={}\nuid={uid}\nparent_pid={}\nbase_filter={}\n\
         child_filter={}\nchild_filter_pid_offset={pid_offset}",
        config.tier,
        config.forced,
        config.kind.name(),
        readable.join("\0"),
        std::env::temp_dir().display(),
        std::process::id(),
        hexadecimal(&base_filter),
        hexadecimal(&child_filter),
    )
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn explain(error: Error, config: &WorkerConfig, mut log: File) -> Error {
    let mut text = String::new();
    let said = log.rewind().and_then(|()| log.read_to_string(&mut text));
    let last = text.lines().last().filter(|_| said.is_ok()).unwrap_or_default();
    let Error::Judge(reason) = error else { return error };
    let more = if last.is_empty() { String::new() } else { format!(" ({last})") };
    Error::Judge(format!(
        "no sandbox of tier \"{}\" with {}: {reason}{more}",
        config.tier,
        config.interpreter.display()
    ))
}

/// The real interpreter behind a name such as `python3` (which may be a shim that needs the caller's environment).
pub fn find_interpreter(name: &Path) -> Result<PathBuf> {
    let code = "import sys; print(sys._base_executable or sys.executable); print(sys.version_info >= (3, 11))";
    let output = Command::new(name)
        .args(["-I", "-S", "-c", code])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::io(format!("starting the interpreter {}", name.display()), error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().collect::<Vec<_>>()[..] {
        [path, "True"] => Ok(PathBuf::from(path)),
        _ => Err(Error::invalid(format!("{} is no CPython of at least 3.11", name.display()))),
    }
}
