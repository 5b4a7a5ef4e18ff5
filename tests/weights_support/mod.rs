//! What the tests of weight streaming share: small publishers, and a proxy that damages what passes through it.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use spo_core::weights::{DType, PublisherConfig, Snapshot, WeightPublisher, WeightShard, WeightSubscriber};
use spo_core::{Interrupt, Result};

pub const TOKEN: &[u8] = b"token of the test";

/// A publisher on loopback.
pub fn publisher(rank: u32, world_size: u32, keep: usize) -> WeightPublisher {
    let config = PublisherConfig { bind: "127.0.0.1:0".into(), token: TOKEN.into(), rank, world_size, keep };
    WeightPublisher::new(config).unwrap()
}

/// Publishes one tensor "w" of bytes, of which `range` is this rank's part.
pub fn publish(publisher: &WeightPublisher, version: u64, full: &[u8], range: std::ops::Range<usize>) {
    let shard = WeightShard {
        name: "w".into(),
        dtype: DType::BFloat16,
        shape: vec![full.len() as u64 / 2],
        offset: range.start as u64 / 2,
        data: &full[range],
    };
    publisher.publish(version, &[shard], Interrupt::never()).unwrap();
}

/// Deterministic bytes that differ by seed.
pub fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Fetches from `addresses` within `timeout_ms`.
pub fn fetch(addresses: &[impl ToString], version: u64, timeout_ms: u64) -> Result<Snapshot> {
    let addresses = addresses.iter().map(ToString::to_string).collect();
    let subscriber = WeightSubscriber::new(addresses, TOKEN.into(), Duration::from_millis(timeout_ms))?;
    subscriber.fetch(version, None, None, Interrupt::never())
}

/// The bytes of the one tensor of a snapshot.
pub fn bytes_of(snapshot: &Snapshot) -> &[u8] {
    snapshot.tensors[0].data.as_bytes()
}

/// What happens to the bytes that flow from the publisher to the subscriber on one connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// The connection ends after so many bytes from the publisher.
    CutDown(usize),
    /// The connection ends after so many bytes to the publisher.
    CutUp(usize),
    /// Bit 0 of this byte from the publisher arrives flipped.
    Flip(usize),
    /// What comes from the publisher together with this byte arrives twice.
    Twice(usize),
    /// This byte from the publisher comes late.
    Delay(usize),
    /// After so many bytes from the publisher nothing more comes, but the connection stays.
    Stall(usize),
}

/// A TCP proxy. The faults are used up one a connection; the last one stays.
pub struct Proxy {
    pub address: SocketAddr,
    plan: Arc<Mutex<Plan>>,
}

struct Plan {
    upstream: SocketAddr,
    /// Where later connections go once the restart has happened.
    restart: Option<(Arc<AtomicBool>, SocketAddr)>,
    faults: Vec<Fault>,
    connections: usize,
    bytes_down: usize,
}

impl Proxy {
    pub fn new(upstream: &str, faults: &[Fault]) -> Self {
        let upstream = upstream.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let plan = Plan { upstream, restart: None, faults: faults.into(), connections: 0, bytes_down: 0 };
        let plan = Arc::new(Mutex::new(plan));
        let theirs = Arc::clone(&plan);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let plan = Arc::clone(&theirs);
                std::thread::spawn(move || forward(client.unwrap(), &plan));
            }
        });
        Proxy { address, plan }
    }

    /// Sends connections to another publisher once `restarted`, which a cut of this proxy makes true.
    pub fn restart_at_cut(&self, restarted: &Arc<AtomicBool>, upstream: &str) {
        let upstream = upstream.parse().unwrap();
        self.plan.lock().unwrap().restart = Some((Arc::clone(restarted), upstream));
    }

    /// Bytes that have come from the publisher.
    pub fn bytes_down(&self) -> usize {
        self.plan.lock().unwrap().bytes_down
    }

    /// Connections made so far.
    pub fn connections(&self) -> usize {
        self.plan.lock().unwrap().connections
    }
}

fn forward(client: TcpStream, plan: &Arc<Mutex<Plan>>) {
    let (upstream, fault) = {
        let mut plan = plan.lock().unwrap();
        plan.connections += 1;
        let fault = if plan.faults.len() > 1 { plan.faults.remove(0) } else { plan.faults[0] };
        let restarted = plan.restart.as_ref().filter(|(restarted, _)| restarted.load(Ordering::SeqCst));
        (restarted.map_or(plan.upstream, |(_, upstream)| *upstream), fault)
    };
    let Ok(server) = TcpStream::connect(upstream) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            end(copy(&mut { &client }, &mut { &server }, fault, None), &client, &server, plan);
        });
        end(copy(&mut { &server }, &mut { &client }, fault, Some(plan)), &client, &server, plan);
    });
}

fn end(cut: bool, client: &TcpStream, server: &TcpStream, plan: &Mutex<Plan>) {
    if cut && let Some((restarted, _)) = &plan.lock().unwrap().restart {
        restarted.store(true, Ordering::SeqCst);
    }
    let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
}

/// Copies until the end or the fault; says whether a cut struck. Downwards there is a plan, which counts the bytes.
fn copy(from: &mut impl Read, to: &mut impl Write, fault: Fault, down: Option<&Mutex<Plan>>) -> bool {
    let up = down.is_none();
    let mut passed = 0;
    let mut buffer = vec![0; 65536];
    loop {
        let limit = match fault {
            Fault::CutDown(limit) if !up => limit,
            Fault::CutUp(limit) if up => limit,
            Fault::Stall(limit) if !up => limit,
            _ => usize::MAX,
        };
        if passed >= limit {
            if matches!(fault, Fault::Stall(_)) {
                std::thread::sleep(Duration::from_secs(120)); // longer than any test
            }
            return true;
        }
        let room = buffer.len().min(limit - passed);
        let Ok(count @ 1..) = from.read(&mut buffer[..room]) else { return false };
        let strikes = |at| !up && (passed..passed + count).contains(&at);
        match fault {
            Fault::Flip(at) if strikes(at) => buffer[at - passed] ^= 1,
            Fault::Twice(at) if strikes(at) && to.write_all(&buffer[..count]).is_err() => return false,
            Fault::Delay(at) if strikes(at) => std::thread::sleep(Duration::from_millis(20)),
            _ => {}
        }
        if let Some(plan) = down {
            plan.lock().unwrap().bytes_down += count;
        }
        if to.write_all(&buffer[..count]).is_err() {
            return false;
        }
        passed += count;
    }
}
