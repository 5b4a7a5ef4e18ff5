//! Connections cut, bytes flipped and publishers restarted at every point of a fetch: the right version whole, or an error.

mod weights_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use spo_core::Error;
use weights_support::{Fault, Proxy, bytes_of, content, fetch, publish, publisher};

/// Bytes of a 100-byte exchange from the publisher: handshake 40 + 33, manifest 32 + 36 + 29, chunk 32 + 100, end and
/// identity 48 each.
const DOWN: usize = 73 + 97 + 132 + 96;
/// Bytes to the publisher: proof 72, two requests of 32.
const UP: usize = 136;

/// Runs `check` on every number below `count`, on four threads.
fn on_every(count: usize, check: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    check(number);
                }
            });
        }
    });
}

#[test]
fn a_connection_cut_at_any_byte_from_the_publisher_is_picked_up_again() {
    let publisher = publisher(0, 1, 1);
    let full = content(1, 100);
    publish(&publisher, 1, &full, 0..100);
    on_every(DOWN, |cut| {
        let proxy = Proxy::new(publisher.address(), &[Fault::CutDown(cut), Fault::None]);
        let snapshot = fetch(&[proxy.address], 1, 30_000).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        assert_eq!(bytes_of(&snapshot), full, "cut at {cut}");
        assert_eq!(proxy.connections(), 2, "cut at {cut}");
    });
    let proxy = Proxy::new(publisher.address(), &[Fault::CutDown(DOWN), Fault::None]);
    fetch(&[proxy.address], 1, 30_000).unwrap();
    assert_eq!(proxy.connections(), 1, "the exchange is longer than this test knows");
}

#[test]
fn a_connection_cut_at_any_byte_to_the_publisher_is_picked_up_again() {
    let publisher = publisher(0, 1, 1);
    let full = content(2, 100);
    publish(&publisher, 1, &full, 0..100);
    on_every(UP, |cut| {
        let proxy = Proxy::new(publisher.address(), &[Fault::CutUp(cut), Fault::None]);
        let snapshot = fetch(&[proxy.address], 1, 30_000).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        assert_eq!(bytes_of(&snapshot), full, "cut at {cut}");
        assert_eq!(proxy.connections(), 2, "cut at {cut}");
    });
}

#[test]
fn a_bit_that_always_flips_is_an_error_and_nothing_is_delivered() {
    let publisher = publisher(0, 1, 1);
    publish(&publisher, 1, &content(3, 100), 0..100);
    // What follows the chunk stands elsewhere in a stream that is picked up, so the same byte does not strike it twice.
    on_every(DOWN - 96, |at| {
        let proxy = Proxy::new(publisher.address(), &[Fault::Flip(at)]);
        let error = fetch(&[proxy.address], 1, 30_000).expect_err("damaged data");
        assert!(matches!(error, Error::Weights(_)), "byte {at}: {error}");
    });
}

#[test]
fn a_bit_flipped_once_costs_a_retry() {
    let publisher = publisher(0, 1, 1);
    let full = content(4, 100);
    publish(&publisher, 1, &full, 0..100);
    on_every(DOWN - 73, |at| {
        let proxy = Proxy::new(publisher.address(), &[Fault::Flip(73 + at), Fault::None]);
        let snapshot = fetch(&[proxy.address], 1, 30_000).unwrap_or_else(|error| panic!("byte {at}: {error}"));
        assert_eq!(bytes_of(&snapshot), full);
        assert_eq!(proxy.connections(), 2);
    });
}

#[test]
fn random_cuts_of_a_long_stream_on_two_ranks_never_give_wrong_weights() {
    let full = content(5, 5_000_000);
    let publishers = [publisher(0, 2, 1), publisher(1, 2, 1)];
    publish(&publishers[0], 9, &full, 0..2_000_002);
    publish(&publishers[1], 9, &full, 2_000_002..full.len());
    for round in 0..6 {
        let faults: Vec<Fault> = (0..5u64)
            .map(|n| content(100 * round + n, 3).iter().fold(0, |sum, &byte| sum * 256 + byte as usize) % 3_000_000)
            .map(Fault::CutDown)
            .chain([Fault::None])
            .collect();
        let proxies = publishers.each_ref().map(|publisher| Proxy::new(publisher.address(), &faults));
        let snapshot = fetch(&proxies.each_ref().map(|proxy| proxy.address), 9, 30_000).unwrap();
        assert!(bytes_of(&snapshot) == full, "round {round}");
    }
}

#[test]
fn a_cut_stream_goes_on_after_the_last_good_chunk() {
    let publisher = publisher(0, 1, 1);
    let full = content(6, 4 << 20);
    publish(&publisher, 1, &full, 0..full.len());
    // Each connection brings two chunks of 512 KiB and a little: without resuming, the eighth would never come.
    let faults = [Fault::CutDown(1_100_000)];
    let proxy = Proxy::new(publisher.address(), &faults);
    assert!(bytes_of(&fetch(&[proxy.address], 1, 30_000).unwrap()) == full);
    assert_eq!(proxy.connections(), 4);
}

#[test]
fn publishers_restarted_in_the_middle_never_mix_two_contents_of_one_version() {
    let (old, new) = (content(7, 3 << 20), content(8, 3 << 20));
    let half = old.len() / 2;
    for cut in [0, 50, 100, 150, 600_000, 1_200_000, half + 170, half + 300, half + 330] {
        let before = [publisher(0, 2, 1), publisher(1, 2, 1)];
        let after = [publisher(0, 2, 1), publisher(1, 2, 1)];
        for (publishers, full) in [(&before, &old), (&after, &new)] {
            publish(&publishers[0], 5, full, 0..half);
            publish(&publishers[1], 5, full, half..full.len());
        }
        let whole = Proxy::new(before[0].address(), &[Fault::CutDown(half + 170 + 3 * 32), Fault::None]);
        let broken = Proxy::new(before[1].address(), &[Fault::CutDown(cut), Fault::None]);
        let restarted = Arc::default();
        whole.restart_at_cut(&restarted, after[0].address());
        broken.restart_at_cut(&restarted, after[1].address());
        let snapshot = fetch(&[whole.address, broken.address], 5, 30_000).unwrap();
        assert_eq!((whole.connections() > 1, broken.connections() > 1), (true, true));
        assert!(bytes_of(&snapshot) == new, "cut at {cut}");
    }
}

#[test]
fn a_publisher_that_stays_away_ends_the_fetch_at_its_deadline() {
    let publisher = publisher(0, 1, 1);
    let full = content(9, 3 << 20);
    publish(&publisher, 1, &full, 0..full.len());
    let proxy = Proxy::new(publisher.address(), &[Fault::CutDown(600_000), Fault::CutDown(0)]);
    let started = std::time::Instant::now();
    let error = fetch(&[proxy.address], 1, 500).unwrap_err();
    assert!(matches!(&error, Error::Timeout(what) if what.contains(&proxy.address.to_string())), "{error}");
    assert!(started.elapsed().as_secs() < 10);
}
