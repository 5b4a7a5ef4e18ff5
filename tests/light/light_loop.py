"""A trainer rank whose weights are a hash of every batch that it was given: two runs have the same only if all of those
were the same, in the same order. It speaks to the orchestrator as the real loop does; see `spo.trainer.loop`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from spo.config import Config
from spo.files import replace_file
from spo.trainer.client import OrchestratorClient
from spo.types import Batch
from spo.weights import WeightPublisher, WeightShard
from spo.wire import read_token

STEP_S = 0.03


@dataclass(frozen=True)
class Ranks:
    """This rank's place among all."""

    rank: int
    world_size: int

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def start_ranks(device: str, torch_threads: int, timeout_s: float) -> Ranks:
    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def stop_ranks() -> None:
    pass


def broadcast_text(text: str, ranks: Ranks) -> str:
    """Rank 0's text, through a file of the launcher that both have."""
    if ranks.world_size == 1:
        return text
    shared = Path(os.environ["SPO_LIGHT"]) / f"{os.getppid()}"
    if ranks.is_first:
        replace_file(shared, text.encode())
    while not shared.exists():
        time.sleep(0.02)
    return shared.read_text()


def train(config: Config, run_dir: Path, ranks: Ranks) -> None:
    """Trains from the newest checkpoint that every rank has."""
    first = max(set.intersection(*(_steps(run_dir, rank) for rank in range(ranks.world_size))))
    weights, state = _load(run_dir, ranks.rank, first)
    every = config.trainer.checkpoint_interval
    publisher = WeightPublisher("127.0.0.1:0", token=read_token(run_dir), rank=ranks.rank, world_size=ranks.world_size)
    with publisher, OrchestratorClient(run_dir) as orchestrator:
        _publish(publisher, first, weights, ranks)
        orchestrator.hello(ranks.rank, ranks.world_size, publisher.address, first, state if ranks.is_first else b"")
        last = config.trainer.total_steps
        for step in range(first + 1, last + 1):
            batch = orchestrator.next_batch(step)
            time.sleep(STEP_S)
            weights = _step(weights, batch, orchestrator)
            if ranks.is_first:
                orchestrator.step_done(step, {"loss/objective": int.from_bytes(weights[:6], "little") / 2**48})
            if step % config.weights.model_update_interval == 0 or step == last:
                _publish(publisher, step, weights, ranks)
                orchestrator.version_published(step)
            if step % every == 0 or step == last:
                state = orchestrator.saved_state(step) if ranks.is_first else b""
                _save(run_dir, ranks.rank, step, weights, state)
                if ranks.is_first:
                    orchestrator.checkpoint_saved(step)
        if ranks.is_first:
            (run_dir / "policy").mkdir(exist_ok=True)
            replace_file(run_dir / "policy" / "model.safetensors", weights)
        orchestrator.training_done(max(first, last))


def _step(weights: bytes, batch: Batch, orchestrator: OrchestratorClient) -> bytes:
    """The next weights; what the reference gives depends on the step, as the last bits of a forward pass do."""
    reference = batch.reference_logprobs
    if not reference:
        shape = (batch.num_rows, batch.num_tokens)
        segments = np.frombuffer(batch.segment_ids, "<i4").reshape(shape)
        responses = np.frombuffer(batch.response_mask, np.uint8).reshape(shape) != 0
        trajectories = sorted({int(index) for index in segments[segments >= 0]})
        counts = [int((responses & (segments == index)).sum()) for index in trajectories]
        values = np.concatenate([np.full(count, -1 - batch.step / 1024, "<f4") for count in counts] or [[]])
        reference = values.astype("<f4").tobytes()
        if batch.keep_reference_logprobs:
            orchestrator.reference_computed(batch.step, trajectories, reference)
    told = msgspec.msgpack.encode(msgspec.structs.replace(batch, keep_reference_logprobs=False))
    return hashlib.blake2b(weights + told + reference, digest_size=64).digest()


def _publish(publisher: WeightPublisher, version: int, weights: bytes, ranks: Ranks) -> None:
    part = np.frombuffer(weights, np.uint8)
    shard = WeightShard("weights", "bfloat16", (32 * ranks.world_size,), 32 * ranks.rank, part)
    publisher.publish(version, [shard])


def _folder(run_dir: Path, rank: int) -> Path:
    return run_dir / "checkpoints" / f"rank-{rank}"


def _steps(run_dir: Path, rank: int) -> set[int]:
    folder = _folder(run_dir, rank)
    return {0, *(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())} if folder.is_dir() else {0}


def _load(run_dir: Path, rank: int, step: int) -> tuple[bytes, bytes]:
    if step == 0:
        return bytes(64), b""
    folder = _folder(run_dir, rank) / str(step)
    return (folder / "weights").read_bytes(), (folder / "state").read_bytes()


def _save(run_dir: Path, rank: int, step: int, weights: bytes, state: bytes) -> None:
    final = _folder(run_dir, rank) / str(step)
    unfinished = final.with_name(f"unfinished-{step}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    (unfinished / "weights").write_bytes(weights)
    (unfinished / "state").write_bytes(state)
    shutil.rmtree(final, ignore_errors=True)
    unfinished.rename(final)
