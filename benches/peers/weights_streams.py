"""All weights from one process to another on this machine: ours, bare sockets, and a gloo broadcast, in turns.

One sender is started as a process of its own; this process receives. Each turn makes a new connection and new memory,
as a fetch does; the gloo group is made once, which leaves its start-up out. New memory costs as much as sockets where
pages are dear, so each takes a second turn into memory that was written to before (a fetch, into that of an earlier
version): compare like with like. (numpy asks for huge pages for new memory, as a fetch does; so gloo's new memory comes
from numpy too.)
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from spo.weights import Snapshot, WeightPublisher, WeightShard, WeightSubscriber

Received = TypeVar("Received")

TOKEN = b"benchmark"
SHARDS = 32
SUBSCRIBERS = (0, 1, 4, 16)
TIMEOUT_S = 300
USED = ", memory used before"
WAYS = (
    "spo over TCP", "bare TCP", "gloo broadcast", f"bare TCP{USED}", f"gloo broadcast{USED}",
    "spo over UNIX socket", "bare UNIX socket", f"bare UNIX socket{USED}",
    f"spo over TCP{USED}", f"spo over UNIX socket{USED}",
)  # fmt: skip


def shards(data: NDArray[np.uint16]) -> list[WeightShard]:
    """The data as some tensors."""
    parts = np.array_split(data, SHARDS)
    return [WeightShard(f"layer.{i}", "bfloat16", (len(part),), 0, part) for i, part in enumerate(parts)]


def measure_streams(data: NDArray[np.uint16], rounds: int) -> dict[str, object]:
    """Seconds until all weights are here: GB/s of each way, and ours in relation to the others."""
    with tempfile.TemporaryDirectory() as folder, sender(data, Path(folder)) as pipe:
        dist.init_process_group("gloo", init_method=f"file://{folder}/gloo", rank=0, world_size=2)
        used = np.zeros_like(data)
        before = Snapshot(0, {shard.name: np.zeros_like(shard.data) for shard in shards(data)})
        seconds: dict[str, list[float]] = {}
        for round_number in range(rounds + 1):
            for index, name in enumerate(WAYS):
                number = round_number * len(WAYS) + index
                again = name.endswith(USED)
                if name.startswith("spo"):
                    taken, snapshot = turn(name, pipe, number, partial(fetch, number, before if again else None))
                    assert snapshot.num_bytes == data.nbytes
                    before = snapshot if again else before
                else:
                    taken, memory = turn(name, pipe, number, partial(receive, name, data, used if again else None))
                    assert np.array_equal(memory, data)
                if round_number:  # the first warms all up
                    seconds.setdefault(name, []).append(taken)
        dist.destroy_process_group()
        pipe.send("end")
    taken = {name: median(values) for name, values in seconds.items()}
    results: dict[str, object] = {f"{name}, GB/s": data.nbytes / value / 1e9 for name, value in taken.items()}
    for ours, theirs in (
        ("spo over TCP", "bare TCP"), ("spo over UNIX socket", "bare UNIX socket"), ("spo over TCP", "gloo broadcast"),
        ("spo over UNIX socket", "gloo broadcast"), ("spo over UNIX socket", "spo over TCP"),
    ):  # fmt: skip
        for memory in ("", USED):
            results[f"{ours}, times {theirs}{memory}"] = taken[f"{theirs}{memory}"] / taken[f"{ours}{memory}"]
    return results


def turn(name: str, pipe: Connection, number: int, receive: Callable[[Any], Received]) -> tuple[float, Received]:
    """One turn: its seconds, and what `receive` makes of the sender's address."""
    pipe.send((name, number))
    address = pipe.recv()
    started = time.monotonic()
    received = receive(address)
    taken = time.monotonic() - started
    pipe.recv()
    return taken, received


def fetch(number: int, into: Snapshot | None, address: str) -> Snapshot:
    """Our way."""
    subscriber = WeightSubscriber([address], token=TOKEN, timeout_s=TIMEOUT_S, local=False)
    return subscriber.fetch(number, into=into)


def receive(
    name: str, data: NDArray[np.uint16], used: NDArray[np.uint16] | None, address: str | tuple[str, int]
) -> NDArray[np.uint16]:
    """The other ways."""
    memory = np.empty_like(data) if used is None else used
    if name.startswith("bare"):
        receive_all(address, memory)
    else:
        dist.broadcast(torch.from_numpy(memory.view(np.uint8)), src=1)
    return memory


def receive_all(address: str | tuple[str, int], memory: NDArray[np.uint16]) -> None:
    """Fills the memory from a new connection."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as connection:
        connection.connect(address)
        left = memoryview(memory.view(np.uint8))
        while left:
            left = left[connection.recv_into(left) :]


@contextmanager
def sender(data: NDArray[np.uint16], folder: Path) -> Iterator[Connection]:
    """A process that sends the data in each way that it is asked for."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=send, args=(data, theirs, folder))
    process.start()
    try:
        yield ours
    finally:
        ours.close()
        process.join(30)
        process.kill()


def send(data: NDArray[np.uint16], pipe: Connection, folder: Path) -> None:
    """The sender's side."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/gloo", rank=1, world_size=2)
    weights = torch.from_numpy(data.view(np.uint8))
    with (
        WeightPublisher(token=TOKEN, keep=1) as tcp,
        WeightPublisher(f"unix:{folder}/spo", token=TOKEN, keep=1) as unix,
    ):
        while (asked := pipe.recv()) != "end":
            name, number = asked
            if name.startswith("spo"):
                publisher = tcp if "TCP" in name else unix
                publisher.publish(number, shards(data))  # new every time: the checksums count
                pipe.send(publisher.address)
            elif name.startswith("bare"):
                serve_once(name, data, pipe, folder / f"{name}-{number}")
            else:
                pipe.send("")
                dist.broadcast(weights, src=1)
            pipe.send("done")
    dist.destroy_process_group()


def serve_once(name: str, data: NDArray[np.uint16], pipe: Connection, path: Path) -> None:
    """Sends the data on one bare connection."""
    with socket.socket(socket.AF_INET if "TCP" in name else socket.AF_UNIX) as listener:
        listener.bind(("127.0.0.1", 0) if "TCP" in name else str(path))
        listener.listen()
        pipe.send(listener.getsockname())
        with listener.accept()[0] as connection:
            connection.sendall(memoryview(data.view(np.uint8)))


def measure_publish(data: NDArray[np.uint16], rounds: int) -> dict[str, object]:
    """Milliseconds that `publish` takes while subscribers in another process fetch one version after the other."""
    results: dict[str, object] = {}
    copy, parts = np.empty_like(data), shards(data)
    copies = [seconds_of(lambda: np.copyto(copy, data)) for _ in range(rounds + 1)]
    results["a copy, ms on the clock"] = 1e3 * median(copies[1:])
    for subscribers in SUBSCRIBERS:
        with WeightPublisher(token=TOKEN) as publisher:
            publisher.publish(0, parts)
            stop = multiprocessing.get_context("spawn").Event()
            arguments = (publisher.address, subscribers, stop)
            followers = multiprocessing.get_context("spawn").Process(target=follow, args=arguments)
            followers.start()
            wall, used = [], []
            for version in range(1, rounds + 2):
                data[version::1000] ^= 1  # an update of one in a thousand
                before = time.thread_time()
                wall.append(seconds_of(lambda version=version: publisher.publish(version, parts)))  # type: ignore[misc]
                used.append(time.thread_time() - before)
                time.sleep(0.5)  # a step
            stop.set()
            followers.join(60)
        label = f"publish with {subscribers} subscribers, ms on the clock (CPU of its thread)"
        results[label] = f"{1e3 * median(wall[1:]):.1f} ({1e3 * median(used[1:]):.1f})"
    return results


def follow(address: str, subscribers: int, stop: threading.Event) -> None:
    """So many subscribers, each at the newest version as soon as it can."""
    from spo.weights import VersionGone

    def run() -> None:
        subscriber = WeightSubscriber([address], token=TOKEN, timeout_s=1)
        held, version = None, 0
        while not stop.is_set():
            try:
                held = subscriber.fetch(version, base=held)
                version += 1
            except VersionGone as gone:
                version = gone.newest
            except (TimeoutError, OSError):
                pass

    threads = [threading.Thread(target=run) for _ in range(subscribers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def seconds_of(work: object) -> float:
    """How long it takes."""
    assert callable(work)
    started = time.monotonic()
    work()
    return time.monotonic() - started


os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
