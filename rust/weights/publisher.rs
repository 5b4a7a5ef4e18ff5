//! The publisher: keeps a rank's newest versions and a listening socket. Publishing copies; everything else
//! happens on background threads, one a connection, so that no subscriber can slow or stop the trainer.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};

use super::WeightShard;
use super::manifest::{MAX_WORLD_SIZE, Manifest};
use super::serve::serve;
use super::version::Version;
use crate::{Error, Interrupt, Result};

/// Connections served at once; more wait in the system's queue until one ends.
const MAX_CONNECTIONS: usize = 256;
/// Versions that are no longer kept but still being sent; beyond it the oldest are revoked, which bounds
/// memory.
const MAX_OUTGOING: usize = 2;
/// How often the accepting thread looks whether the publisher was closed.
const ACCEPT_POLL: Duration = Duration::from_millis(100);
/// Stack of a connection's thread.
const STACK_BYTES: usize = 256 << 10;

/// How a publisher is set up.
#[derive(Clone, Debug)]
pub struct PublisherConfig {
    /// Address to listen on, "host:port"; port 0 lets the system choose.
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
}

/// What the publisher's threads share.
pub(super) struct Shared {
    pub(super) instance: [u8; 16],
    pub(super) token: Vec<u8>,
    pub(super) closing: AtomicBool,
    versions: Mutex<Versions>,
}

/// Serves one rank's shards of the newest policy versions.
pub struct WeightPublisher {
    address: SocketAddr,
    config: PublisherConfig,
    shared: Arc<Shared>,
    /// Held while a version is copied, so that publishes come one after another; holds memory to be used
    /// again.
    publishing: Mutex<Vec<u8>>,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Versions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn newest(&self) -> Option<u64> {
        self.lock().kept.back().map(|version| version.number())
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

    /// Makes `version` the newest and lets the oldest go; returns the memory of one that nobody needs any
    /// more.
    fn insert(&self, version: Version, keep: usize) -> Option<Vec<u8>> {
        let mut versions = self.lock();
        versions.kept.push_back(Arc::new(version));
        while versions.kept.len() > keep {
            let old = versions.kept.pop_front();
            versions.outgoing.extend(old);
        }
        let mut spare = None;
        for old in std::mem::take(&mut versions.outgoing) {
            match Arc::try_unwrap(old) {
                Ok(unused) => spare = Some(unused.into_memory()),
                Err(still_sent) => versions.outgoing.push_back(still_sent),
            }
        }
        let too_many = versions.outgoing.len().saturating_sub(MAX_OUTGOING);
        versions.outgoing.iter().take(too_many).for_each(|version| version.revoke());
        spare
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
        let listener = listen(&config.bind, !config.token.is_empty())?;
        let failed = |error| Error::io(format!("listening on {}", config.bind), error);
        let address = listener.local_addr().map_err(failed)?;
        let mut instance = [0; 16];
        getrandom::fill(&mut instance)
            .map_err(|error| Error::Weights(format!("no randomness from the system: {error}")))?;
        let shared = Arc::new(Shared {
            instance,
            token: config.token.clone(),
            closing: AtomicBool::new(false),
            versions: Mutex::default(),
        });
        let theirs = Arc::clone(&shared);
        let acceptor = Builder::new().name("spo-publisher".into()).spawn(move || accept(&listener, &theirs));
        let acceptor = Mutex::new(Some(acceptor.map_err(failed)?));
        Ok(WeightPublisher { address, config, shared, publishing: Mutex::default(), acceptor })
    }

    /// The address that subscribers connect to, with the port that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Versions that can be fetched, oldest first.
    pub fn versions(&self) -> Vec<u64> {
        self.shared.lock().kept.iter().map(|version| version.number()).collect()
    }

    /// Copies this rank's `shards` and serves them as `version`, which must be greater than every earlier
    /// one. Returns when the copy is made: the caller may change its memory. An error or interrupt leaves the
    /// kept versions as they were.
    pub fn publish(&self, version: u64, shards: &[WeightShard<'_>], interrupt: Interrupt<'_>) -> Result<()> {
        let mut memory = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
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
        let copied = Version::copy(manifest, shards, std::mem::take(&mut *memory), interrupt)?;
        *memory = self.shared.insert(copied, self.config.keep).unwrap_or_default();
        Ok(())
    }

    /// Stops listening and ends every connection; no more than a moment passes. Closing twice is harmless.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        let acceptor = self.acceptor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(acceptor) = acceptor {
            let _ = acceptor.join(); // a panic of the accepting thread has already been printed
        }
    }
}

impl Drop for WeightPublisher {
    fn drop(&mut self) {
        self.close();
    }
}

fn listen(bind: &str, has_token: bool) -> Result<TcpListener> {
    let failed = |error| Error::io(format!("listening on {bind}"), error);
    let addresses: Vec<SocketAddr> = bind.to_socket_addrs().map_err(failed)?.collect();
    if !has_token && !addresses.iter().all(|address| is_loopback(address.ip())) {
        return Err(Error::invalid(format!(
            "bind={bind:?} is reachable from other machines and token is empty; give a token, or bind to 127.0.0.1"
        )));
    }
    let listener = TcpListener::bind(&addresses[..]).map_err(failed)?;
    sockopt::set_socket_timeout(&listener, Timeout::Recv, Some(ACCEPT_POLL)).map_err(|error| failed(error.into()))?;
    Ok(listener)
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Accepts until the publisher is closed, then waits for the connections to notice.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections: Vec<JoinHandle<()>> = Vec::new();
    while !shared.closing.load(Ordering::Relaxed) {
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= MAX_CONNECTIONS {
            std::thread::sleep(ACCEPT_POLL);
            continue;
        }
        match listener.accept() {
            Ok((stream, peer)) => {
                let shared = Arc::clone(shared);
                let connection = move || serve(stream, peer.to_string(), &shared);
                let thread = Builder::new().name("spo-serve".into()).stack_size(STACK_BYTES);
                connections.extend(thread.spawn(connection)); // no thread to be had: the peer sees a closed connection
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => std::thread::sleep(ACCEPT_POLL), // out of descriptors, or the peer left: never a reason to stop
        }
    }
    for connection in connections {
        let _ = connection.join(); // a panic there has already been printed
    }
}
