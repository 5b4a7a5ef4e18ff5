"""A program that is not spo's has vLLM follow a trainer for hundreds of versions.

Connections are cut, publishers and receivers restarted, versions skipped or late; what trainer and engine hold must be
the same each time, bit for bit.

python tests/vllm_soak.py MODEL_FOLDER [UPDATES] [TENSOR_PARALLEL_SIZE]; needs spo's base install and vLLM.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from vllm import LLM, SamplingParams

from spo.weight_map import assemble
from spo.weights import WeightPublisher, WeightShard

TOKEN = b"soak"


class Cutter:
    """A proxy on loopback that cuts some connections after some bytes."""

    def __init__(self, rng: random.Random) -> None:
        self.target = ""
        self.cuts = 0
        self._rng = rng
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            near, _ = self._listener.accept()
            host, port = self.target.rsplit(":", 1)
            try:
                far = socket.create_connection((host, int(port)), timeout=5)
            except OSError:
                near.close()
                continue
            budget = self._rng.choice([1 << 40, self._rng.randrange(20_000)])
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink, budget), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, budget: int) -> None:
        try:
            while budget > 0 and (data := source.recv(min(65536, budget))):
                sink.sendall(data)
                budget -= len(data)
            self.cuts += budget <= 0
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(
                    socket.SHUT_RDWR
                )  # closing alone would leave the other thread's reading, and its peer, waiting
            end.close()


class Trainer:
    """Weights as bfloat16 patterns, some of which change at every step."""

    def __init__(self, folder: str, seed: int) -> None:
        tensors: dict[str, torch.Tensor] = {}
        for path in sorted(Path(folder).glob("*.safetensors")):
            tensors |= load_file(path)
        self.arrays = {name: t.to(torch.bfloat16).view(torch.uint16).numpy().copy() for name, t in tensors.items()}
        self._rng = np.random.default_rng(seed)

    def step(self) -> None:
        for array in self.arrays.values():
            if self._rng.random() < 0.9:
                share = self._rng.choice([0.001, 0.02, 1.0], p=[0.6, 0.35, 0.05])
                # One ulp up or down, within a power of two: no weight becomes infinite.
                array ^= (self._rng.random(array.shape) < share).astype(np.uint16)

    def shards(self) -> list[WeightShard]:
        return [WeightShard(n, "bfloat16", a.shape, 0, a.reshape(-1)) for n, a in self.arrays.items()]


def state_hash(arrays: dict[str, np.ndarray]) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        whole.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return whole.hexdigest()


def engine_hash(llm: LLM, trainer: Trainer) -> str:
    held = {}
    for name, array in trainer.arrays.items():
        whole = assemble(llm.collective_rpc("spo_read_weights", args=(name,)), array.shape)
        held[name] = whole.view(torch.uint16).numpy()
    return state_hash(held)


def forget(worker: object) -> None:
    worker._spo_receiver = None  # type: ignore[attr-defined]


def main(folder: str, updates: int, tp_size: int) -> None:
    rng = random.Random(updates)
    llm = LLM(
        folder,
        dtype="bfloat16",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=64,
        kv_cache_memory_bytes=1 << 27,
        tensor_parallel_size=tp_size,
        worker_extension_cls="spo.vllm_plugin.WorkerExtension",
    )
    sampling = SamplingParams(temperature=0, max_tokens=4, detokenize=False, ignore_eos=True)
    trainer, cutter = Trainer(folder, updates), Cutter(rng)
    publisher = WeightPublisher(token=TOKEN)
    counts = {"updates": 0, "restarted publishers": 0, "forgotten receivers": 0, "late versions": 0, "skipped": 0}

    def update(version: int, timeout_s: float) -> None:
        llm.collective_rpc("spo_update_weights", args=([cutter.address], TOKEN.hex(), version, timeout_s))

    version = 0
    while counts["updates"] < updates:
        version += 1
        trainer.step()
        if rng.random() < 0.1:
            publisher.close()
            publisher = WeightPublisher(token=TOKEN)
            counts["restarted publishers"] += 1
        cutter.target = publisher.address
        publisher.publish(version, trainer.shards())
        if rng.random() < 0.1:
            counts["skipped"] += 1
            continue
        if rng.random() < 0.03 and tp_size == 1:
            llm.collective_rpc(forget)
            counts["forgotten receivers"] += 1
        # With several workers, vLLM takes the second one's error for the answer to the next call.
        if rng.random() < 0.05 and counts["updates"] and tp_size == 1:
            before = engine_hash(llm, trainer)
            with contextlib.suppress(TimeoutError):
                update(version + 1, 0.05)
                raise AssertionError("a version that does not exist was applied")
            assert engine_hash(llm, trainer) == before
            counts["late versions"] += 1
        update(version, 60.0)
        counts["updates"] += 1
        assert engine_hash(llm, trainer) == state_hash(trainer.arrays), f"version {version}"
        if rng.random() < 0.1:
            llm.reset_prefix_cache()
            llm.generate({"prompt_token_ids": [5, 6, 7]}, sampling, use_tqdm=False)
    print(
        f"same {engine_hash(llm, trainer)} {state_hash(trainer.arrays)} after {counts}, {cutter.cuts} cuts", flush=True
    )
    publisher.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200, int(sys.argv[3]) if len(sys.argv) > 3 else 1)
