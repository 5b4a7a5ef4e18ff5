"""The Python face of weight streaming: arrays in, whole versions out, and errors that say what to do."""

import _thread
import contextlib
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from spo.weights import Snapshot, VersionGone, WeightPublisher, WeightsError, WeightShard, WeightSubscriber

TOKEN = b"the run's token"


def shard(name, data, shape=None, offset=0):
    dtype = "bfloat16" if data.dtype == np.uint16 else "float32"
    return WeightShard(name, dtype, data.shape if shape is None else shape, offset, data)


def subscriber(*publishers, token=TOKEN, timeout_s=20.0):
    return WeightSubscriber([publisher.address for publisher in publishers], token=token, timeout_s=timeout_s)


@pytest.fixture
def publisher():
    with WeightPublisher(token=TOKEN) as publisher:
        yield publisher


def test_a_version_sharded_over_ranks_arrives_whole():
    rng = np.random.default_rng(1)
    matrix = rng.integers(0, 2**16, size=(3, 700_001), dtype=np.uint16)
    bias = rng.standard_normal(5).astype(np.float32)
    scalar = np.array([2.5], np.float32)
    flat, cut = matrix.ravel(), 700_001
    publishers = [WeightPublisher(token=TOKEN, rank=rank, world_size=2) for rank in range(2)]
    publishers[0].publish(
        7, [shard("matrix", flat[:cut], matrix.shape), shard("bias", bias), shard("scalar", scalar, ())]
    )
    publishers[1].publish(7, [shard("matrix", flat[cut:], matrix.shape, cut), shard("bias", bias[5:], (5,), offset=5)])
    snapshot = subscriber(*reversed(publishers)).fetch(7)
    assert isinstance(snapshot, Snapshot)
    assert snapshot.version == 7
    assert set(snapshot.names) == {"matrix", "bias", "scalar"}
    assert snapshot.num_bytes == matrix.nbytes + bias.nbytes + scalar.nbytes
    np.testing.assert_array_equal(snapshot.tensor("matrix"), matrix)
    np.testing.assert_array_equal(snapshot["bias"], bias)
    assert snapshot["scalar"].shape == ()
    assert snapshot["scalar"] == np.float32(2.5)
    for publisher in publishers:
        publisher.close()


def test_publishing_copies_so_the_trainer_may_go_on_at_once(publisher):
    weight = np.ones(10, np.float32)
    publisher.publish(1, [shard("w", weight)])
    weight[:] = 2.0
    assert (subscriber(publisher).fetch(1)["w"] == 1.0).all()


def test_raw_bytes_can_be_published_for_either_dtype(publisher):
    floats = np.arange(4, dtype=np.float32)
    patterns = np.arange(6, dtype=np.uint16)
    publisher.publish(
        1,
        [
            WeightShard("f", "float32", (4,), 0, floats.view(np.uint8)),
            WeightShard("b", "bfloat16", (2, 3), 0, patterns.view(np.uint8)),
        ],
    )
    snapshot = subscriber(publisher).fetch(1)
    np.testing.assert_array_equal(snapshot["f"], floats)
    np.testing.assert_array_equal(snapshot["b"], patterns.reshape(2, 3))
    assert snapshot["b"].dtype == np.uint16


def test_fetched_arrays_are_writable_and_outlive_snapshot_and_publisher(publisher):
    publisher.publish(1, [shard("w", np.arange(8, dtype=np.float32))])
    array = subscriber(publisher).fetch(1)["w"]
    publisher.close()
    array += 1
    np.testing.assert_array_equal(array, np.arange(1, 9, dtype=np.float32))


def test_only_the_newest_versions_are_kept(publisher):
    for version in (3, 5, 8):
        publisher.publish(version, [shard("w", np.full(4, version, np.float32))])
    assert publisher.versions == [5, 8]
    assert (subscriber(publisher).fetch(5)["w"] == 5).all()
    with pytest.raises(VersionGone, match="no longer keeps version 3; its newest is 8") as gone:
        subscriber(publisher).fetch(3)
    assert gone.value.newest == 8
    assert isinstance(gone.value, WeightsError)


def test_a_version_is_fetched_as_patches_to_one_that_is_held(publisher):
    rng = np.random.default_rng(2)
    matrix = rng.integers(0, 2**16, size=(3, 1000), dtype=np.uint16)
    bias = rng.standard_normal(7).astype(np.float32)
    publisher.publish(1, [shard("matrix", matrix.ravel(), matrix.shape), shard("bias", bias)])
    held = subscriber(publisher).fetch(1)
    before = {name: held[name].copy() for name in held}
    matrix[1, 5] ^= 3
    bias[2] = 4.0
    publisher.publish(2, [shard("matrix", matrix.ravel(), matrix.shape), shard("bias", bias)])
    for base in (held, Snapshot(1, {}), Snapshot(7, {"matrix": matrix})):
        fetched = subscriber(publisher).fetch(2, base=base)
        assert fetched.version == 2
        np.testing.assert_array_equal(fetched["matrix"], matrix)
        np.testing.assert_array_equal(fetched["bias"], bias)
    for name in held:
        np.testing.assert_array_equal(held[name], before[name])


def test_a_version_is_received_into_the_memory_of_one_that_is_needed_no_longer(publisher):
    rng = np.random.default_rng(3)
    matrix, bias = rng.integers(0, 2**16, size=600_000, dtype=np.uint16), np.zeros(3, np.float32)
    held = []
    for version in range(5):
        matrix[version::1000] ^= 1
        bias += 1
        publisher.publish(version, [shard("matrix", matrix, (6, 100_000)), shard("bias", bias)])
        base = held[-1] if version in (1, 3) else None  # changes, or all of it
        into = held[-2] if version >= 2 else None
        memory = {} if into is None else dict(into)
        before = {} if base is None else {name: base[name].copy() for name in base}
        held.append(subscriber(publisher).fetch(version, base=base, into=into))
        np.testing.assert_array_equal(held[-1]["matrix"], matrix.reshape(6, 100_000))
        np.testing.assert_array_equal(held[-1]["bias"], bias)
        assert all(np.shares_memory(held[-1][name], array) for name, array in memory.items())
        assert not memory or not into
        for name, array in before.items():
            np.testing.assert_array_equal(base[name], array)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("v", np.full(4, 9, np.uint16)),
        ("w", np.full(5, 9, np.uint16)),
        ("w", np.full(2, 9, np.float32)),
        ("w", np.full(8, 9, np.uint8)),
        ("w", np.broadcast_to(np.uint16(9), 4)),
    ],
    ids=["name", "size", "type", "unknown type", "read-only"],
)
def test_memory_that_does_not_fit_is_left_alone(publisher, name, array):
    publisher.publish(1, [shard("w", np.arange(4, dtype=np.uint16))])
    fetched = subscriber(publisher).fetch(1, into=Snapshot(0, {name: array}))
    np.testing.assert_array_equal(fetched["w"], np.arange(4, dtype=np.uint16))
    assert set(array) == {9}


def test_a_base_is_never_written_over(publisher):
    for version in (1, 2):
        publisher.publish(version, [shard("w", np.full(4, version, np.uint16))])
    base = subscriber(publisher).fetch(1)
    for into in (base, Snapshot(0, {"w": base["w"][:]})):
        with pytest.raises(ValueError, match="into shares memory with base: 'w'"):
            subscriber(publisher).fetch(2, base=base, into=into)
    np.testing.assert_array_equal(base["w"], np.ones(4, np.uint16))


def test_after_a_failed_fetch_its_memory_is_gone(publisher):
    publisher.publish(3, [shard("w", np.ones(4, np.float32))])
    into = subscriber(publisher).fetch(3)
    with pytest.raises(VersionGone):
        subscriber(publisher).fetch(2, into=into)
    assert not into


def test_a_version_that_is_not_yet_published_is_waited_for(publisher):
    late = threading.Timer(0.2, publisher.publish, (1, [shard("w", np.ones(3, np.float32))]))
    late.start()
    assert (subscriber(publisher).fetch(1)["w"] == 1).all()
    late.join()


def test_a_fetch_ends_at_its_deadline_and_names_the_address(publisher):
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=rf"{publisher.address} within 0.3 s: .*no version yet"):
        subscriber(publisher).fetch(1, timeout_s=0.3)
    assert time.monotonic() - started < 5


def test_a_publisher_that_is_not_there_is_named(publisher):
    address = publisher.address
    publisher.close()
    with pytest.raises(TimeoutError, match=rf"connecting to {address}: Connection refused"):
        WeightSubscriber([address], token=TOKEN, timeout_s=0.3).fetch(1)


def test_a_peer_that_sends_byte_after_byte_is_given_up_at_the_deadline():
    def drip(listener):
        peer, _ = listener.accept()
        with peer, contextlib.suppress(OSError):
            while True:
                peer.send(b"S")
                time.sleep(0.02)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=[listener], daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="did not send the greeting in time"):
            WeightSubscriber([address], token=TOKEN, timeout_s=0.2).fetch(1)
        assert time.monotonic() - began < 5


def test_a_wrong_token_is_refused_at_once(publisher):
    publisher.publish(1, [shard("w", np.ones(3, np.float32))])
    with pytest.raises(WeightsError, match="refused the token"):
        subscriber(publisher, token=b"another").fetch(1)


def test_ctrl_c_ends_a_fetch(publisher):
    threading.Timer(0.2, _thread.interrupt_main).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        subscriber(publisher, timeout_s=60).fetch(1)
    assert time.monotonic() - started < 10


def test_other_threads_run_during_a_fetch(publisher):
    ticks = []
    done = threading.Event()

    def tick():
        while not done.wait(0.01):
            ticks.append(1)

    thread = threading.Thread(target=tick)
    thread.start()
    with pytest.raises(TimeoutError):
        subscriber(publisher).fetch(1, timeout_s=0.5)
    done.set()
    thread.join()
    assert len(ticks) >= 5


def test_beyond_loopback_a_token_is_needed():
    with pytest.raises(ValueError, match="give a token, or bind to"):
        WeightPublisher("0.0.0.0:0")
    WeightPublisher("0.0.0.0:0", token=TOKEN).close()


@pytest.mark.parametrize("local", [True, False])
def test_loopback_is_reached_by_a_unix_socket_only_if_wanted(publisher, local):
    publisher.publish(1, [shard("w", np.ones(3, np.float32))])
    host, port = publisher.address.rsplit(":", 1)
    connections = Path("/proc/self/net/tcp").read_text().count(f":{int(port):04X} ")
    WeightSubscriber([publisher.address], token=TOKEN, local=local).fetch(1)
    left = Path("/proc/self/net/tcp").read_text().count(f":{int(port):04X} ")
    assert host == "127.0.0.1"
    assert (left > connections) == (not local), "a TCP connection leaves a trace, which waits for its last packets"


def test_a_publisher_on_a_path_is_reached_there_and_takes_over_what_a_dead_one_left(tmp_path):
    path = tmp_path / "weights"
    address = f"unix:{path}"
    with WeightPublisher(address, token=TOKEN) as publisher:
        assert publisher.address == address
        publisher.publish(1, [shard("w", np.ones(3, np.float32))])
        assert (subscriber(publisher).fetch(1)["w"] == 1).all()
        with pytest.raises(WeightsError, match="refused the token"):
            subscriber(publisher, token=b"another").fetch(1)
        with pytest.raises(OSError, match=f"listening on {address}: Address already in use"):
            WeightPublisher(address, token=TOKEN)
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with WeightPublisher(address, token=TOKEN) as publisher:
        publisher.publish(1, [shard("w", np.ones(3, np.float32))])
        assert (subscriber(publisher).fetch(1)["w"] == 1).all()


def test_a_path_where_nobody_listens_is_named(tmp_path):
    with pytest.raises(TimeoutError, match=rf"connecting to unix:{tmp_path}/none: No such file"):
        WeightSubscriber([f"unix:{tmp_path}/none"], timeout_s=0.2).fetch(1)


def test_a_busy_port_is_an_os_error_that_names_it(publisher):
    with pytest.raises(OSError, match=f"listening on {publisher.address}: Address already in use"):
        WeightPublisher(publisher.address, token=TOKEN)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (WeightShard("w", "float16", (4,), 0, np.ones(4, np.float32)), 'dtype "float16" cannot be published'),
        (WeightShard("w", "bfloat16", (4,), 0, np.ones(4, np.float32)), "must be a contiguous 1-D .* uint16"),
        (WeightShard("w", "float32", (4,), 0, np.ones(8, np.float32)[::2]), "must be a contiguous 1-D"),
        (WeightShard("w", "float32", (2, 2), 0, np.ones((2, 2), np.float32)), "must be a contiguous 1-D"),
        (WeightShard("w", "float32", (4,), 1, np.ones(4, np.float32)), "4 elements from offset 1 do not fit"),
        (WeightShard("w", "float32", (4,), 0, np.ones(6, np.uint8)), "6 bytes of data are no whole number"),
        (WeightShard("", "float32", (4,), 0, np.ones(4, np.float32)), "the name has 0 bytes"),
        (WeightShard("w", "float32", (2**40, 2**40), 0, np.ones(4, np.float32)), "too many elements"),
    ],
)
def test_a_bad_shard_is_refused_and_the_kept_versions_stay(publisher, bad, message):
    publisher.publish(1, [shard("w", np.ones(4, np.float32))])
    with pytest.raises(ValueError, match=message):
        publisher.publish(2, [bad])
    assert publisher.versions == [1]
    assert (subscriber(publisher).fetch(1)["w"] == 1).all()


def test_versions_must_grow(publisher):
    publisher.publish(2, [])
    with pytest.raises(ValueError, match="version 2 cannot follow version 2"):
        publisher.publish(2, [])


def test_a_closed_publisher_says_so(publisher):
    publisher.close()
    publisher.close()
    with pytest.raises(WeightsError, match="the publisher is closed"):
        publisher.publish(1, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 2, "world_size": 2}, "rank 2 of world_size 2"),
        ({"keep": 0}, "keeps at least 1 version"),
    ],
)
def test_a_publisher_with_impossible_settings_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        WeightPublisher(token=TOKEN, **arguments)


@pytest.mark.parametrize(
    ("addresses", "timeout_s", "message"),
    [
        ([], 1.0, "0 addresses"),
        (["localhost"], 1.0, 'address "localhost" is not of the form'),
        (["unix:relative/path"], 1.0, 'address "unix:relative/path" is not of the form'),
        (["unix:/" + 120 * "x"], 1.0, "is not of the form"),
        (["127.0.0.1:1"], 0.0, "must be above 0"),
        (["127.0.0.1:1"], float("nan"), "must be a number of seconds"),
    ],
)
def test_a_subscriber_with_impossible_settings_is_refused(addresses, timeout_s, message):
    with pytest.raises(ValueError, match=message):
        WeightSubscriber(addresses, token=TOKEN, timeout_s=timeout_s)
