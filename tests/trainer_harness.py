"""What the trainer's tests share: a small Llama, a run directory, deterministic batches and a fake orchestrator.

The fake speaks the real messages over the real wire to any number of ranks, fetches every published version as a worker
would, and remembers everything; it samples, stores and judges nothing.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import torch
import trio
from transformers import LlamaConfig, LlamaForCausalLM

from spo.config import Config, load_config, write_resolved
from spo.errors import ConnectionLost
from spo.rundir import MODEL_FILE, ModelInfo
from spo.types import (
    Batch,
    BatchRequest,
    CheckpointSaved,
    Pending,
    ReferenceLogprobs,
    RunFinished,
    SavedState,
    SaveRequest,
    StepDone,
    Stop,
    ToOrchestrator,
    TrainerHello,
    TrainingDone,
    VersionPublished,
)
from spo.weights import Snapshot, WeightSubscriber
from spo.wire import ADDRESS_FILE, AsyncConnection, new_token

VOCABULARY = 48
NUM_ROWS, NUM_TOKENS, NUM_TRAJECTORIES = 6, 32, 9


def make_model(path: Path, *, tied: bool = True) -> Path:
    """Saves a Llama of two layers, in which no dimension divides evenly into everything, with a file of a tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY + 1,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        tie_word_embeddings=tied,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    (path / "tokenizer.json").write_text('{"a": "tokenizer"}', encoding="utf-8")
    return path


def make_run(run_dir: Path, model: Path, *overrides: str) -> Config:
    """A run directory as the trainer finds it."""
    settings = (
        f"run_dir={run_dir}", f"model.path={model}", f"batch.num_trajectories={NUM_TRAJECTORIES}",
        f"batch.token_budget={NUM_TOKENS}", "batch.rows_per_forward=2", "optimizer.learning_rate=3e-3",
        "optimizer.warmup_steps=3", "weights.model_update_interval=2", "trainer.total_steps=6",
        "trainer.checkpoint_interval=3", "trainer.device=cpu", "sampling.max_new_tokens=16", *overrides,
    )  # fmt: skip
    config = load_config("tiny", settings)
    run_dir.mkdir(parents=True, exist_ok=True)
    write_resolved(config, run_dir)
    (run_dir / MODEL_FILE).write_bytes(msgspec.json.encode(ModelInfo(str(model), "", "")))
    (run_dir / "logs").mkdir(exist_ok=True)
    new_token(run_dir)
    return config


def make_batch(step: int, rank: int, world_size: int) -> Batch:
    """The rows of a rank: trajectories of several lengths, two in some rows, one row without any."""
    generator = np.random.default_rng(step)
    tokens = generator.integers(0, VOCABULARY, (NUM_ROWS, NUM_TOKENS)).astype(np.int32)
    position_ids = np.zeros_like(tokens)
    segment_ids = np.full_like(tokens, -1)
    response_mask = np.zeros(tokens.shape, np.uint8)
    for trajectory in range(NUM_TRAJECTORIES):
        row, half = divmod(trajectory, 2)
        start, length, prompt = half * 16, int(generator.integers(4, 17)), int(generator.integers(1, 4))
        position_ids[row, start : start + length] = np.arange(length)
        segment_ids[row, start : start + length] = trajectory
        response_mask[row, start + prompt : start + length] = 1
    # Counts in the first row alone: a rank may have none.
    rollouts = np.zeros(tokens.shape, np.uint16)
    rollouts[0, ::3] = 4
    rows = slice(rank, None, world_size)
    return Batch(
        step=step,
        num_rows=len(tokens[rows]),
        num_tokens=NUM_TOKENS,
        num_trajectories=NUM_TRAJECTORIES,
        tokens=tokens[rows].tobytes(),
        position_ids=position_ids[rows].tobytes(),
        segment_ids=segment_ids[rows].tobytes(),
        response_mask=response_mask[rows].tobytes(),
        rewards=(-generator.integers(0, 2, NUM_TRAJECTORIES)).astype(np.float32).tobytes(),
        initial_values=generator.uniform(-0.3, 0.0, NUM_TRAJECTORIES).astype(np.float32).tobytes(),
        sources=["online"] * NUM_TRAJECTORIES,
        behavior_logprobs=np.full(tokens[rows].shape, -4.0, np.float32).tobytes(),
        group_success_rates=np.linspace(0.1, 0.9, NUM_TRAJECTORIES, dtype=np.float32).tobytes(),
        mc_successes=(rollouts[rows] // 2).tobytes(),
        mc_rollouts=rollouts[rows].tobytes(),
    )


@dataclass
class FakeOrchestrator:
    """What a trainer said, and how it is answered."""

    run_dir: Path
    stop_at: int | None = None
    """Answers the request for this step's batch with `Stop`."""
    hang_up_at: int | None = None
    """Closes the connection instead of sending this step's batch."""
    keeps_reference: bool = False
    """Wants to be told what the reference gives."""
    stored: dict[int, dict[int, np.ndarray]] = field(default_factory=dict)
    """By step and trajectory: what it gave before."""
    told: dict[int, dict[int, np.ndarray]] = field(default_factory=dict)
    """By step and trajectory: what it was told."""
    hellos: list[TrainerHello] = field(default_factory=list)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    snapshots: dict[int, Snapshot] = field(default_factory=dict)
    saved: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    _published: dict[int, int] = field(default_factory=dict)
    _connections: list[AsyncConnection] = field(default_factory=list)  # type: ignore[type-arg]

    @property
    def losses(self) -> dict[int, float]:
        return {step: metrics["loss/objective"] for step, metrics in self.metrics.items()}

    async def _serve(self, stream: trio.SocketStream) -> None:
        token = (self.run_dir / "token").read_bytes()
        connection: AsyncConnection[ToOrchestrator] = await AsyncConnection.accept(stream, token, ToOrchestrator)
        try:
            await self._converse(connection)
        except ConnectionLost:
            pass
        finally:
            await connection.aclose()

    async def _converse(self, connection: AsyncConnection[ToOrchestrator]) -> None:
        hello = await connection.receive()
        assert isinstance(hello, TrainerHello)
        self.hellos.append(hello)
        self._connections.append(connection)
        await self._version_published(hello.step, hello.world_size)
        while True:
            match await connection.receive():
                case BatchRequest(step=step):
                    await connection.send(Pending(reason="sampling"))
                    if step == self.stop_at:
                        await connection.send(Stop(reason="the problems are all solved"))
                    elif step == self.hang_up_at:
                        return
                    else:
                        await connection.send(self._batch(step, hello))
                case ReferenceLogprobs(step=step, trajectories=trajectories, logprobs=logprobs):
                    lengths = [self._response_mask(make_batch(step, 0, 1), each).sum() for each in trajectories]
                    parts = np.split(np.frombuffer(logprobs, np.float32), np.cumsum(lengths))
                    assert len(parts.pop()) == 0
                    self.told.setdefault(step, {}).update(zip(trajectories, parts, strict=True))
                case StepDone(step=step, metrics=metrics):
                    assert step not in self.metrics
                    self.metrics[step] = metrics
                case VersionPublished(version=version):
                    await self._version_published(version, hello.world_size)
                case SaveRequest(step=step):
                    await connection.send(SavedState(step=step, state=b"state of step %d" % step))
                case CheckpointSaved(step=step):
                    assert (self.run_dir / "checkpoints" / f"step-{step:08d}").is_dir()
                    self.saved.append(step)
                case TrainingDone(step=step):
                    self.done.append(step)
                    if len(self.done) == hello.world_size:
                        for other in self._connections:
                            await other.send(RunFinished())
                case message:
                    raise AssertionError(f"a trainer sent {message}")

    def _batch(self, step: int, hello: TrainerHello) -> Batch:
        batch = make_batch(step, hello.rank, hello.world_size)
        reference = b""
        if step in self.stored:
            values = np.zeros((batch.num_rows, batch.num_tokens), np.float32)
            for trajectory, logprobs in self.stored[step].items():
                mask = self._response_mask(batch, trajectory)
                values[mask] = logprobs[: mask.sum()]
            reference = values.tobytes()
        return msgspec.structs.replace(
            batch, reference_logprobs=reference, keep_reference_logprobs=self.keeps_reference
        )

    @staticmethod
    def _response_mask(batch: Batch, trajectory: int) -> np.ndarray:
        shape = (batch.num_rows, batch.num_tokens)
        segments = np.frombuffer(batch.segment_ids, np.int32).reshape(shape)
        return (segments == trajectory) & (np.frombuffer(batch.response_mask, np.uint8).reshape(shape) != 0)

    async def _version_published(self, version: int, world_size: int) -> None:
        self._published[version] = self._published.get(version, 0) + 1
        if self._published[version] == world_size:
            subscriber = WeightSubscriber(
                [hello.publisher for hello in self.hellos], token=(self.run_dir / "token").read_bytes()
            )
            self.snapshots[version] = await trio.to_thread.run_sync(subscriber.fetch, version)

    async def _run(self, listening: threading.Event, stop: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(functools.partial(trio.serve_tcp, self._serve, 0, host="127.0.0.1"))
            address = "{}:{}".format(*listener.socket.getsockname())
            (self.run_dir / ADDRESS_FILE).write_text(address, encoding="ascii")
            listening.set()
            await stop.wait()
            nursery.cancel_scope.cancel()


@contextmanager
def serving(orchestrator: FakeOrchestrator) -> Iterator[FakeOrchestrator]:
    """Runs the fake in a thread; its failures are raised here."""
    listening, stop = threading.Event(), trio.Event()
    tokens: list[trio.lowlevel.TrioToken] = []
    failures: list[BaseException] = []

    async def main() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        await orchestrator._run(listening, stop)

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            failures.append(error)
            listening.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert listening.wait(10)
    try:
        yield orchestrator
    finally:
        if not failures:
            tokens[0].run_sync_soon(stop.set)
        thread.join()
        if failures:
            raise failures[0]
