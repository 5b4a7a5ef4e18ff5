//! Hundreds of updates over connections that cut, flip, repeat and delay: after each, the old version whole or the new one.

mod weights_support;

use std::time::Duration;

use spo_core::weights::{Snapshot, WeightPublisher, WeightSubscriber};
use spo_core::{Error, Interrupt, Result};
use weights_support::{Fault, Proxy, TOKEN, bytes_of, content, publish, publisher};

const BYTES: usize = 40_000;
const CUT: usize = 12_002;
const THREADS: u64 = 4;
const ROUNDS: u64 = 250;
/// After so many rounds both publishers are started anew.
const LIFE: u64 = 40;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    /// Mostly within the few bytes of an exchange of patches, now and then anywhere in the whole version.
    fn fault(&mut self) -> Fault {
        let reach = if self.below(3) == 0 { BYTES } else { 700 };
        let at = self.below(reach);
        match self.below(6) {
            0 => Fault::CutDown(at),
            1 => Fault::CutUp(at % 140),
            2 => Fault::Flip(at),
            3 => Fault::Twice(at),
            4 => Fault::Delay(at),
            _ => Fault::None,
        }
    }
}

fn publish_on(publishers: &[WeightPublisher; 2], version: u64, state: &[u8]) {
    publish(&publishers[0], version, state, 0..CUT);
    publish(&publishers[1], version, state, CUT..BYTES);
}

fn fetch(proxies: &[Proxy; 2], version: u64, base: Option<&Snapshot>) -> Result<Snapshot> {
    let addresses = proxies.iter().map(|proxy| proxy.address.to_string()).collect();
    let subscriber = WeightSubscriber::new(addresses, TOKEN.into(), Duration::from_secs(30))?;
    let base = base.map(Snapshot::as_base);
    subscriber.fetch(version, base.as_ref(), None, Interrupt::never())
}

/// Updates one subscriber again and again; returns how many faults there were, and how many fetches failed.
fn follow(seed: u64) -> (u64, u64) {
    let mut random = Random(seed * 2 + 1);
    let mut state = content(seed, BYTES);
    let (mut faults, mut failures, mut version) = (0, 0, 0);
    let mut held: Option<Snapshot> = None;
    for _ in 0..ROUNDS / LIFE + 1 {
        // The new publishers begin with other weights under the number of the last version.
        let publishers = [publisher(0, 2, 2), publisher(1, 2, 2)];
        state[random.below(BYTES)] ^= 1;
        publish_on(&publishers, version, &state);
        for _ in 0..LIFE {
            for _ in 0..1 + random.below(3) {
                (0..20).for_each(|_| state[random.below(BYTES)] ^= 1);
                version += 1;
                publish_on(&publishers, version, &state);
            }
            let proxies = publishers.each_ref().map(|publisher| {
                let plan = [random.fault(), random.fault(), Fault::None];
                faults += plan.iter().filter(|&&fault| fault != Fault::None).count() as u64;
                Proxy::new(publisher.address(), &plan)
            });
            let before = held.clone();
            match fetch(&proxies, version, held.as_ref()) {
                Ok(new) => {
                    assert!(bytes_of(&new) == state, "version {version} is wrong");
                    held = Some(new);
                }
                Err(Error::Weights(_)) => failures += 1, // a bit that struck the handshake looks like a wrong token
                Err(other) => panic!("version {version}: {other}"),
            }
            assert!(before.is_none() || held.is_some());
        }
    }
    (faults, failures)
}

#[test]
fn a_thousand_random_faults_and_some_restarts_never_give_wrong_weights() {
    let (faults, failures) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|seed| scope.spawn(move || follow(seed + 1))).collect();
        let done = threads.into_iter().map(|thread| thread.join().unwrap());
        done.fold((0, 0), |(faults, failures), (more, failed)| (faults + more, failures + failed))
    });
    assert!(faults > 1000, "{faults} faults");
    assert!(failures < faults / 10, "{failures} of {faults} faults ended a fetch");
}
