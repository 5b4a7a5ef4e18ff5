//! The subscriber: fetches one version from all ranks at once, and hands it out whole or not at all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::address;
use super::exchange::{Failure, Fetch};
use super::fetch::RankFetch;
use super::link::pause;
use super::manifest::MAX_WORLD_SIZE;
use super::snapshot::{Base, Layout, Snapshot};
use super::tensor::{DType, TensorData};
use crate::{Error, Interrupt, Result};

/// Longest timeout of a fetch.
const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Wait before a fetch starts over because a publisher was restarted under it.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// Fetches versions from the publishers of all trainer ranks. Keeps no connection between fetches, so
/// publishers may come and go.
pub struct WeightSubscriber {
    addresses: Vec<String>,
    token: Vec<u8>,
    timeout: Duration,
    local: bool,
}

impl WeightSubscriber {
    /// A subscriber of the publishers at `addresses` ("host:port" or "unix:/path", one a rank, in any order). Publishers on
    /// loopback are reached by the UNIX socket beside their port where there is one.
    pub fn new(addresses: Vec<String>, token: Vec<u8>, timeout: Duration) -> Result<Self> {
        if addresses.is_empty() || addresses.len() > MAX_WORLD_SIZE as usize {
            let count = addresses.len();
            return Err(Error::invalid(format!("{count} addresses; need one for each trainer rank")));
        }
        addresses.iter().try_for_each(|address| address::check(address))?;
        check_timeout(timeout)?;
        Ok(WeightSubscriber { addresses, token, timeout, local: true })
    }

    /// The same, but taking addresses as they are given: TCP on loopback too.
    pub fn as_given(mut self) -> Self {
        self.local = false;
        self
    }

    /// Fetches `version` within `timeout` (`None`: the subscriber's own): every rank's shards of just that
    /// version, verified. Waits for a version that is not published yet; [`Error::VersionGone`] for one that
    /// is no longer kept.
    ///
    /// With a `base`, publishers that still keep that version send what has changed since and no more.
    pub fn fetch(
        &self,
        version: u64,
        base: Option<&Base<'_>>,
        timeout: Option<Duration>,
        interrupt: Interrupt<'_>,
    ) -> Result<Snapshot> {
        let zeroed = |name: &str, dtype, elements| TensorData::zeroed(dtype, elements, name);
        self.fetch_into(version, base, timeout, interrupt, zeroed)
    }

    /// The same, into memory of the caller's: `memory` gives each tensor's, of just its bytes, for its name, dtype and
    /// elements; of all tensors anew where the fetch starts over. What it holds after an error is undefined.
    pub fn fetch_into<M: AsMut<[u8]>>(
        &self,
        version: u64,
        base: Option<&Base<'_>>,
        timeout: Option<Duration>,
        interrupt: Interrupt<'_>,
        mut memory: impl FnMut(&str, DType, usize) -> Result<M>,
    ) -> Result<Snapshot<M>> {
        let timeout = timeout.unwrap_or(self.timeout);
        check_timeout(timeout)?;
        let deadline = Instant::now() + timeout;
        loop {
            let stop = AtomicBool::new(false);
            let (token, local) = (&self.token[..], self.local);
            let fetch = Fetch { token, local, version, base, timeout, deadline, stop: &stop };
            match self.fetch_once(&fetch, interrupt, &mut memory) {
                Ok(snapshot) => return Ok(snapshot),
                Err(Failure::Error(error)) => return Err(error),
                Err(Failure::Stopped) => return Err(Error::Interrupted),
                Err(Failure::Restarted(why)) if Instant::now() >= deadline => {
                    return Err(fetch.too_late(&self.addresses.join(", "), &why));
                }
                Err(Failure::Restarted(_)) => pause(RESTART_PAUSE, &AtomicBool::new(false), deadline),
            }
        }
    }

    fn fetch_once<M: AsMut<[u8]>>(
        &self,
        fetch: &Fetch<'_>,
        interrupt: Interrupt<'_>,
        memory: &mut impl FnMut(&str, DType, usize) -> Result<M>,
    ) -> Result<Snapshot<M>, Failure> {
        let addresses = self.addresses.iter().collect();
        let ranks = on_threads(addresses, fetch.stop, interrupt, |address| RankFetch::open(fetch, address))?;
        let manifests: Vec<_> = ranks.iter().map(|rank| &rank.manifest).collect();
        let layout = Layout::new(&manifests).map_err(Failure::Error)?;
        let mut tensors = layout.allocate(memory).map_err(Failure::Error)?;
        let parts = ranks.into_iter().zip(layout.split(&mut tensors)).collect();
        let ranks = on_threads(parts, fetch.stop, interrupt, |(rank, shards)| rank.receive(shards))?;
        on_threads(ranks, fetch.stop, interrupt, RankFetch::confirm)?;
        Ok(Snapshot { version: fetch.version, tensors })
    }
}

fn check_timeout(timeout: Duration) -> Result<()> {
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        let (seconds, longest) = (timeout.as_secs_f64(), MAX_TIMEOUT.as_secs());
        return Err(Error::invalid(format!("timeout_s={seconds}: must be above 0 and at most {longest}")));
    }
    Ok(())
}

/// Runs `work` on every item at once. The first failure, or an interrupt of the calling thread, raises
/// `stop`, on which the others end too; the results are in the order of the items.
fn on_threads<T: Send, R: Send>(
    items: Vec<T>,
    stop: &AtomicBool,
    interrupt: Interrupt<'_>,
    work: impl Fn(T) -> Result<R, Failure> + Sync,
) -> Result<Vec<R>, Failure> {
    let (sender, receiver) = mpsc::channel();
    let work = &work;
    let count = items.len();
    std::thread::scope(|scope| {
        let mut failure = None;
        for (index, item) in items.into_iter().enumerate() {
            let sender = sender.clone();
            let task = move || drop(sender.send((index, work(item))));
            if let Err(error) = std::thread::Builder::new().name("spo-fetch".into()).spawn_scoped(scope, task) {
                stop.store(true, Ordering::Relaxed);
                failure = Some(Failure::Error(Error::io("starting a thread for a fetch", error)));
                break;
            }
        }
        drop(sender);
        let mut results: Vec<Option<R>> = (0..count).map(|_| None).collect();
        loop {
            let failed = match receiver.recv_timeout(Interrupt::POLL) {
                Ok((index, Ok(result))) => {
                    results[index] = Some(result);
                    continue;
                }
                Ok((_, Err(failed))) => failed,
                Err(RecvTimeoutError::Timeout) => match interrupt.check() {
                    Ok(()) => continue,
                    Err(error) => Failure::Error(error),
                },
                Err(RecvTimeoutError::Disconnected) => break,
            };
            stop.store(true, Ordering::Relaxed);
            failure.get_or_insert(failed);
        }
        match failure {
            Some(failure) => Err(failure),
            None => Ok(results.into_iter().flatten().collect()),
        }
    })
}
