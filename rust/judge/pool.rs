//! The threads that judge, one worker each; their queue, first come first served; and the tickets of those who wait.
//!
//! Idle threads sleep in the kernel. A worker belongs to its thread: the kernel ends it with that.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use super::workers::{NO_COMPILER, Workers};
use super::{Judgement, Runtime, Submission};
use crate::sandbox::{Alarm, IsolationTier, Worker, WorkerConfig, WorkerKind, find_compiler, find_interpreter};
use crate::{Error, Interrupt, Result};

/// How a judge is set up.
#[derive(Clone, Debug)]
pub struct JudgeConfig {
    /// Programs judged at the same time.
    pub num_workers: usize,
    /// The CPython that judged programs run in: a path, or a name to look up.
    pub interpreter: PathBuf,
    /// Exactly this tier, or an error; `None` is the strongest that this host gives.
    pub isolation: Option<IsolationTier>,
    /// Lets the choice fall on tiers below [`IsolationTier::STRONG`].
    pub allow_weak_isolation: bool,
}

impl Default for JudgeConfig {
    fn default() -> Self {
        JudgeConfig {
            num_workers: std::thread::available_parallelism().map_or(1, usize::from),
            interpreter: PathBuf::from("python3"),
            isolation: None,
            allow_weak_isolation: false,
        }
    }
}

impl JudgeConfig {
    /// More workers than this are a mistake.
    const MAX_WORKERS: usize = 4096;

    fn tiers(&self) -> Vec<IsolationTier> {
        match self.isolation {
            Some(tier) => vec![tier],
            None => {
                let weak = self.allow_weak_isolation.then_some(IsolationTier::Seccomp);
                IsolationTier::STRONG.into_iter().chain(weak).collect()
            }
        }
    }
}

/// A pool of workers that judges what is submitted. Dropping it cancels everything and waits until nothing is left.
pub struct Judge {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    tier: IsolationTier,
    owner: u32,
}

struct Shared {
    queue: Mutex<Queue>,
    arrival: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Arc<Job>>,
    running: Vec<Arc<Job>>,
    closed: bool,
}

/// Called once, on a judge thread, when a submission is judged, cancelled or lost. It must be short.
pub type OnDone = Box<dyn FnOnce() + Send>;

struct Job {
    submission: Submission,
    state: Mutex<State>,
    change: Condvar,
    on_done: Mutex<Option<OnDone>>,
}

enum State {
    Waiting,
    Running(Arc<Alarm>),
    Cancelled,
    Done(Arc<Judgement>),
}

/// The right to the judgement of one submission.
#[derive(Clone)]
pub struct Ticket(Arc<Job>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Judge {
    /// Starts the pool. `Error::Judge` says, tier by tier, why no sandbox could be made.
    pub fn new(config: &JudgeConfig) -> Result<Self> {
        if !(1..=JudgeConfig::MAX_WORKERS).contains(&config.num_workers) {
            let (have, most) = (config.num_workers, JudgeConfig::MAX_WORKERS);
            return Err(Error::invalid(format!("num_workers is {have}: give 1 to {most}")));
        }
        let interpreter = find_interpreter(&config.interpreter)?;
        let shared = Arc::new(Shared { queue: Mutex::default(), arrival: Condvar::new() });
        let (sender, receiver) = sync_channel(1);
        let mut threads = Vec::with_capacity(config.num_workers);
        let (tiers, forced) = (config.tiers(), config.isolation.is_some());
        let first = (shared.clone(), interpreter.clone());
        threads.push(start_thread(0, move || first_thread(&first.0, &first.1, forced, &tiers, &sender))?);
        let lost = |_| Error::Judge("the first judge thread ended".into());
        let tier = receiver.recv().map_err(lost)??;
        let mut judge = Judge { shared, threads, tier, owner: std::process::id() };
        for index in 1..config.num_workers {
            let shared = judge.shared.clone();
            let workers = Workers::new(interpreter.clone(), tier, config.isolation.is_some(), None);
            judge.threads.push(start_thread(index, move || serve(workers, &shared))?);
        }
        Ok(judge)
    }

    /// The isolation that is in force.
    pub fn isolation_tier(&self) -> IsolationTier {
        self.tier
    }

    /// Queues a submission. `on_done` is called when its ticket will not have to wait any more.
    pub fn submit(&self, submission: Submission, on_done: Option<OnDone>) -> Result<Ticket> {
        submission.validate()?;
        if submission.runtime == Runtime::Cpp17 && find_compiler().is_none() {
            return Err(Error::Judge(NO_COMPILER.into()));
        }
        if std::process::id() != self.owner {
            return Err(Error::Judge("this judge belongs to the process that forked this one: make a new one".into()));
        }
        let job = Arc::new(Job {
            submission,
            state: Mutex::new(State::Waiting),
            change: Condvar::new(),
            on_done: Mutex::new(on_done),
        });
        let mut queue = lock(&self.shared.queue);
        if queue.closed {
            return Err(Error::Judge("the judge is closed".into()));
        }
        queue.waiting.push_back(job.clone());
        drop(queue);
        self.shared.arrival.notify_one();
        Ok(Ticket(job))
    }

    /// Submits and waits.
    pub fn judge(&self, submission: Submission, interrupt: Interrupt<'_>) -> Result<Arc<Judgement>> {
        let ticket = self.submit(submission, None)?;
        let judgement = ticket.wait(interrupt);
        if judgement.is_err() {
            ticket.cancel();
        }
        judgement
    }

    /// Cancels everything, ends the workers and waits for them.
    pub fn close(&mut self) {
        let mut queue = lock(&self.shared.queue);
        queue.closed = true;
        let jobs: Vec<_> = queue.waiting.drain(..).collect();
        let running = queue.running.clone();
        drop(queue);
        self.shared.arrival.notify_all();
        for job in jobs.into_iter().chain(running) {
            Ticket(job).cancel();
        }
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing more to give back.
            let _ = thread.join();
        }
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        if std::process::id() == self.owner {
            self.close();
        } else {
            // In a forked process the threads do not exist; joining them would wait for ever.
            self.threads.drain(..).for_each(std::mem::forget);
        }
    }
}

impl Ticket {
    /// Waits for the judgement. `Error::Interrupted` when the caller ends the wait, `Error::Judge` when somebody else
    /// cancelled the ticket or closed the judge.
    pub fn wait(&self, interrupt: Interrupt<'_>) -> Result<Arc<Judgement>> {
        let mut state = lock(&self.0.state);
        loop {
            match &*state {
                State::Done(judgement) => return Ok(judgement.clone()),
                State::Cancelled => return Err(Error::Judge("judging was cancelled".into())),
                State::Waiting | State::Running(_) => {}
            }
            let waited = self.0.change.wait_timeout(state, Interrupt::POLL);
            drop(waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0);
            interrupt.check()?;
            state = lock(&self.0.state);
        }
    }

    /// The judgement if there is one already.
    pub fn try_get(&self) -> Option<Arc<Judgement>> {
        match &*lock(&self.0.state) {
            State::Done(judgement) => Some(judgement.clone()),
            _ => None,
        }
    }

    /// Gives up: what waits is not judged, what runs is killed. Without effect once judged.
    pub fn cancel(&self) {
        let mut state = lock(&self.0.state);
        match &*state {
            State::Waiting => *state = State::Cancelled,
            State::Running(alarm) => {
                alarm.ring();
                *state = State::Cancelled;
            }
            State::Cancelled | State::Done(_) => return,
        }
        drop(state);
        self.0.announce();
    }
}

impl Job {
    fn announce(&self) {
        self.change.notify_all();
        let on_done = lock(&self.on_done).take();
        if let Some(on_done) = on_done {
            on_done();
        }
    }
}

fn start_thread(index: usize, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let name = format!("spo-judge-{index}");
    std::thread::Builder::new().name(name).spawn(body).map_err(|error| Error::io("starting a judge thread", error))
}

/// Finds the tier, tells it, then serves as every thread does.
fn first_thread(
    shared: &Shared,
    interpreter: &Path,
    forced: bool,
    tiers: &[IsolationTier],
    found: &SyncSender<Result<IsolationTier>>,
) {
    let mut reasons = Vec::new();
    for &tier in tiers {
        let config = WorkerConfig { interpreter: interpreter.to_path_buf(), tier, forced, kind: WorkerKind::Warm };
        match Worker::start(&config) {
            Ok(worker) => {
                if found.send(Ok(tier)).is_ok() {
                    serve(Workers::new(config.interpreter, tier, forced, Some(worker)), shared);
                }
                return;
            }
            Err(error) => reasons.push(error.to_string()),
        }
    }
    // Nobody listens any more only when the caller is gone.
    let _ = found.send(Err(Error::Judge(reasons.join("; "))));
}

/// One judge thread.
fn serve(mut workers: Workers, shared: &Shared) {
    let Ok(alarm) = Alarm::new().map(Arc::new) else { return };
    while let Some(job) = next_job(shared) {
        if job.start(&alarm) {
            let judged = catch_unwind(AssertUnwindSafe(|| workers.judge(&job.submission, &alarm)));
            let judgement = judged.unwrap_or_else(|_| {
                workers.discard();
                Some(workers.failure("the judge panicked".into()))
            });
            job.finish(&alarm, judgement);
        }
        lock(&shared.queue).running.retain(|other| !Arc::ptr_eq(other, &job));
    }
}

fn next_job(shared: &Shared) -> Option<Arc<Job>> {
    let mut queue = lock(&shared.queue);
    loop {
        if queue.closed {
            return None;
        }
        if let Some(job) = queue.waiting.pop_front() {
            queue.running.push(job.clone());
            return Some(job);
        }
        queue = shared.arrival.wait(queue).unwrap_or_else(|poisoned| poisoned.into_inner());
    }
}

impl Job {
    /// False when it was cancelled while it waited.
    fn start(&self, alarm: &Arc<Alarm>) -> bool {
        let mut state = lock(&self.state);
        match *state {
            State::Waiting => {
                *state = State::Running(alarm.clone());
                true
            }
            _ => false,
        }
    }

    fn finish(&self, alarm: &Alarm, judgement: Option<Judgement>) {
        let mut state = lock(&self.state);
        // Behind the lock nobody rings for this job any more.
        alarm.reset();
        if matches!(*state, State::Cancelled) {
            return;
        }
        *state = match judgement {
            Some(judgement) => State::Done(Arc::new(judgement)),
            None => State::Cancelled,
        };
        drop(state);
        self.announce();
    }
}
