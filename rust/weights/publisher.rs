//! The publisher: keeps a rank's newest versions and a listening socket. Publishing copies; everything else
//! happens on background threads, one a connection, so that no subscriber can slow or stop the trainer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::address::unix_path;
use super::chain::{Chain, Steps};
use super::manifest::{MAX_WORLD_SIZE, Manifest};
use super::version::Version;
use super::{WeightShard, listen};
use crate::{Error, Interrupt, Result};

/// Versions that are no longer kept but still being sent; beyond it the oldest are revoked, which bounds
/// memory.
const MAX_OUTGOING: usize = 2;
/// How a publisher is set up.
#[derive(Clone, Debug)]
pub struct PublisherConfig {
    /// Address to listen on: "host:port", where port 0 lets the system choose, or "unix:/path".
    pub bind: String,
    /// The run's secret; may be empty on loopback only.
    pub token: Vec<u8>,
    /// This trainer's rank.
    pub rank: u32,
    /// Number of trainer ranks.
    pub world_size: u32,
    /// Versions kept, at least 1.
    pub keep: usize,
}

/// What the publisher has of a version.
pub(super) enum Lookup {
    Kept(Arc<Version>),
    Gone { newest: u64 },
    NotYet { newest: Option<u64> },
}

#[derive(Default)]
struct Versions {
    /// The newest ones, oldest first.
    kept: VecDeque<Arc<Version>>,
    /// Those that went while somebody was still being sent them, oldest first.
    outgoing: VecDeque<Arc<Version>>,
    /// Memory of one that nobody needs any more: its pages are there already.
    spare: Vec<u8>,
    /// Patches that lead from versions that went to kept ones.
    chain: Chain,
}

/// What the publisher's threads share.
pub(super) struct Shared {
    pub(super) instance: [u8; 16],
    pub(super) token: Vec<u8>,
    pub(super) closing: AtomicBool,
    /// Whether anybody has asked for patches.
    pub(super) patches_wanted: AtomicBool,
    versions: Mutex<Versions>,
}

/// Serves one rank's shards of the newest policy versions.
pub struct WeightPublisher {
    address: String,
    config: PublisherConfig,
    shared: Arc<Shared>,
    /// Held while a version is copied, so that publishes come one after another.
    publishing: Mutex<()>,
    /// Those that accept, and the one that makes patches.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Versions {
    /// Takes the memory of those that went and are no longer sent, and presses those that are sent for too long.
    fn retire(&mut self) {
        for old in std::mem::take(&mut self.outgoing) {
            match Arc::try_unwrap(old) {
                Ok(unused) => self.spare = unused.into_memory(),
                Err(still_sent) => self.outgoing.push_back(still_sent),
            }
        }
        let too_many = self.outgoing.len().saturating_sub(MAX_OUTGOING);
        self.outgoing.iter().take(too_many).for_each(|version| version.revoke());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Versions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn newest(&self) -> Option<u64> {
        self.newest_version().map(|version| version.number())
    }

    fn newest_version(&self) -> Option<Arc<Version>> {
        self.lock().kept.back().cloned()
    }

    pub(super) fn find(&self, number: u64) -> Lookup {
        let versions = self.lock();
        if let Some(version) = versions.kept.iter().find(|version| version.number() == number) {
            return Lookup::Kept(Arc::clone(version));
        }
        match versions.kept.back().map(|version| version.number()) {
            Some(newest) if newest > number => Lookup::Gone { newest },
            newest => Lookup::NotYet { newest },
        }
    }

    /// The way from version `base`, which may be gone, to `version`: stored patches to a kept version, then that
    /// version. `None` if there is no such way, or it is longer than the whole.
    pub(super) fn way(&self, base: u64, version: &Version) -> Option<(Steps, Arc<Version>)> {
        let versions = self.lock();
        let kept = |number| versions.kept.iter().find(|kept| kept.number() == number);
        let (steps, end) = versions.chain.from(base, |number| kept(number).is_some());
        let end = kept(end).filter(|end| end.manifest.shards == version.manifest.shards)?;
        let bytes = steps.iter().map(|step| step.bytes()).sum::<usize>();
        (end.number() <= version.number() && bytes < version.num_bytes()).then(|| (steps, Arc::clone(end)))
    }

    /// Makes `version` the newest and lets the oldest go.
    fn insert(&self, version: Arc<Version>, keep: usize) {
        let mut versions = self.lock();
        versions.kept.push_back(version);
        while versions.kept.len() > keep {
            let old = versions.kept.pop_front();
            if let (Some(old), Some(next)) = (&old, versions.kept.front().cloned()) {
                versions.chain.append(old, &next);
            }
            versions.outgoing.extend(old);
        }
        versions.retire();
    }

    /// Memory for the next version: that of one which nobody needs any more, or none yet.
    fn take_spare(&self) -> Vec<u8> {
        let mut versions = self.lock();
        versions.retire(); // those that were still sent when the last version came may have been let go since
        std::mem::take(&mut versions.spare)
    }
}

impl WeightPublisher {
    /// Listens on `config.bind` and starts serving.
    pub fn new(config: PublisherConfig) -> Result<Self> {
        let PublisherConfig { rank, world_size, keep, .. } = config;
        if rank >= world_size || world_size > MAX_WORLD_SIZE {
            let what =
                format!("rank {rank} of world_size {world_size}: need 0 <= rank < world_size <= {MAX_WORLD_SIZE}");
            return Err(Error::invalid(what));
        }
        if keep == 0 {
            return Err(Error::invalid("keep is 0; a publisher keeps at least 1 version"));
        }
        let (address, listeners) = listen::listen(&config.bind, !config.token.is_empty())?;
        let mut instance = [0; 16];
        getrandom::fill(&mut instance)
            .map_err(|error| Error::Weights(format!("no randomness from the system: {error}")))?;
        let shared = Arc::new(Shared {
            instance,
            token: config.token.clone(),
            closing: AtomicBool::new(false),
            patches_wanted: AtomicBool::new(false),
            versions: Mutex::default(),
        });
        let threads = Mutex::default();
        let publisher = WeightPublisher { address, config, shared, publishing: Mutex::default(), threads };
        for listener in listeners {
            let thread = listen::spawn(listener, &publisher.shared);
            publisher.lock_threads().push(thread.map_err(|error| Error::io("starting a publisher's thread", error))?);
        }
        Ok(publisher)
    }

    /// The address that subscribers connect to, with the port that was chosen.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn lock_threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Versions that can be fetched, oldest first.
    pub fn versions(&self) -> Vec<u64> {
        self.shared.lock().kept.iter().map(|version| version.number()).collect()
    }

    /// Copies this rank's `shards` and serves them as `version`, which must be greater than every earlier
    /// one. Returns when the copy is made: the caller may change its memory. An error or interrupt leaves the
    /// kept versions as they were.
    pub fn publish(&self, version: u64, shards: &[WeightShard<'_>], interrupt: Interrupt<'_>) -> Result<()> {
        let _turn = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shared.closing.load(Ordering::Relaxed) {
            return Err(Error::Weights(format!("version {version} cannot be published: the publisher is closed")));
        }
        if let Some(newest) = self.shared.newest().filter(|&newest| newest >= version) {
            return Err(Error::invalid(format!(
                "version {version} cannot follow version {newest}: versions must grow"
            )));
        }
        let manifest = Manifest {
            instance: self.shared.instance,
            version,
            rank: self.config.rank,
            world_size: self.config.world_size,
            shards: Vec::new(),
        };
        let copied = Version::copy(manifest, shards, self.shared.take_spare(), interrupt)?;
        let (before, copied) = (self.shared.newest_version(), Arc::new(copied));
        self.shared.insert(Arc::clone(&copied), self.config.keep);
        if let Some(before) = before.filter(|_| self.shared.patches_wanted.load(Ordering::Relaxed)) {
            self.make_patches(before, copied);
        }
        Ok(())
    }

    /// Makes the patches from one version to the next before anybody asks, unless the last ones are still being made.
    /// Whoever needs them makes them otherwise; but who is several versions behind finds only those that were made.
    fn make_patches(&self, base: Arc<Version>, version: Arc<Version>) {
        const NAME: &str = "spo-patch";
        let mut threads = self.lock_threads();
        if threads.iter().any(|thread| thread.thread().name() == Some(NAME) && !thread.is_finished()) {
            return;
        }
        threads.retain(|thread| !thread.is_finished());
        let shared = Arc::clone(&self.shared);
        let work = move || {
            let stop = || shared.closing.load(Ordering::Relaxed) || version.is_revoked() || base.is_revoked();
            let _ = version.patches_from(&base, Interrupt::new(&stop)); // who asks for them meets the error
        };
        threads.extend(Builder::new().name(NAME.into()).spawn(work));
    }

    /// Stops listening and ends every connection; no more than a moment passes. Closing twice is harmless.
    pub fn close(&self) {
        if self.shared.closing.swap(true, Ordering::Relaxed) {
            return; // another publisher may have the path by now
        }
        for thread in std::mem::take(&mut *self.lock_threads()) {
            let _ = thread.join(); // a panic of the thread has already been printed
        }
        if let Some(path) = unix_path(&self.address) {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for WeightPublisher {
    fn drop(&mut self) {
        self.close();
    }
}
