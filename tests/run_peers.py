"""Peers for tests of the orchestrator: a worker and trainer ranks that speak the protocol, without model and judge.

A scripted response to a problem is a function of its seed alone: some tokens, accepted or not. So whatever a test
kills and resumes, the same work gives the same trajectories.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import trio

from spo.config import Config, load_config
from spo.errors import ConnectionLost
from spo.orchestrator.run import run_directory
from spo.problems import Problem, ProblemTest, Solution
from spo.rerun import replayed_config
from spo.rundir import MODEL_FILE, ModelInfo, prepare_run, resumed_config
from spo.store import Trajectory, encode_trajectories
from spo.types import (
    Batch,
    BatchRequest,
    CheckpointSaved,
    Heartbeat,
    MeasurePrompts,
    NewVersion,
    Pending,
    ProblemData,
    PromptLengths,
    ReferenceLogprobs,
    RunFinished,
    SavedState,
    SaveRequest,
    Shutdown,
    StepDone,
    Stop,
    ToTrainer,
    ToWorker,
    TrainerHello,
    TrainingDone,
    VersionPublished,
    Work,
    WorkDone,
    WorkerHello,
    WorkerReady,
    WorkerSetup,
)
from spo.weights import WeightPublisher, WeightShard
from spo.wire import ADDRESS_FILE, AsyncConnection, read_token

TOKENIZER = "test-tokenizer"
ACCEPTED_SHARE = 0.4
SMALL = (
    "model.path=anything",
    "batch.num_trajectories=8",
    "batch.online_fraction=0.5",
    "batch.token_budget=64",
    "replay.max_staleness=6",
    "replay.max_uses=2",
    "sampling.max_new_tokens=24",
    "sampling.samples_per_problem=2",
    "values.num_samples=12",
    "weights.model_update_interval=2",
    "workers.num_workers=0",
    "evaluation.interval=4",
    "evaluation.num_samples=10",
    "trainer.total_steps=12",
    "trainer.checkpoint_interval=3",
    "network.stall_timeout_s=60",
)


def write_problems(path: Path, prefix: str, count: int) -> None:
    """Writes a file of small problems."""
    problems = [
        Problem(
            f"{prefix}{index}",
            "test",
            f"Print {index}.",
            (ProblemTest("", f"{index}\n"),),
            solutions=(
                *(Solution("python", f"print({index}){'  # right' * note}\n", True) for note in range(6)),
                Solution("python", f"print(-1 - {index})\n", False),
            ),
        )
        for index in range(count)
    ]
    path.write_bytes(b"\n".join(msgspec.json.encode(problem) for problem in problems))


def make_run(
    folder: Path, *overrides: str, resume: bool = False, tokenizer: str = TOKENIZER, name: str = "run"
) -> Path:
    """Prepares `folder/NAME` with six training problems and three held-out ones."""
    if not resume:
        write_problems(folder / "train.jsonl", "train", 6)
        write_problems(folder / "evaluation.jsonl", "held-out", 3)
    (folder / "small.toml").write_text("")
    config = load_config(
        str(folder / "small.toml"),
        [
            *SMALL,
            f"run_dir={folder / name}",
            f'problems.train=["jsonl:{folder / "train.jsonl"}"]',
            f'problems.evaluation=["jsonl:{folder / "evaluation.jsonl"}"]',
            *overrides,
        ],
    )
    return prepared(config, folder, resume, tokenizer)


def make_replay(run_dir: Path, *overrides: str, resume: bool = False) -> Path:
    """Prepares the replay of a run beside it."""
    replay_dir = run_dir.with_name("replay")
    config = resumed_config(replay_dir) if resume else replayed_config(run_dir, [f"run_dir={replay_dir}", *overrides])
    return prepared(config, run_dir.parent, resume)


def prepared(config: Config, folder: Path, resume: bool = False, tokenizer: str = TOKENIZER) -> Path:
    """The run directory as the orchestrator finds it."""
    run_dir = prepare_run(config, resume, argv=["test"])
    model = ModelInfo(path=str(folder), reference_fingerprint="test-reference", tokenizer_fingerprint=tokenizer)
    (run_dir / MODEL_FILE).write_bytes(msgspec.json.encode(model))
    return run_dir


def response(work: Work, index: int, version: int) -> Trajectory:
    """The scripted response to one seed of a work item."""
    seed = work.seeds[index]
    generator = random.Random(seed)
    accepted = generator.random() < ACCEPTED_SHARE
    tokens = [generator.randrange(5, 1000) for _ in range(generator.randrange(2, 12))]
    return Trajectory(
        problem_id=work.problem_id,
        prompt_tokens=[1, 2, 3],
        response_tokens=tokens,
        reward=0.0 if accepted else -1.0,
        verdict="accepted" if accepted else "wrong_answer",
        source=work.source,
        behavior_logprobs=[-token / 1000 for token in tokens],
        min_policy_version=version,
        max_policy_version=version,
        temperature=work.temperatures[index],
        top_p=work.top_p,
        seed=seed,
        metadata={"program": f"print({seed})"},
    )


def orchestrate(run_dir: Path, *peers: ScriptedTrainer | ScriptedWorker, timeout_s: float = 240.0) -> None:
    """Runs orchestrator and peers to the end of the run, or raises what it ended with."""

    async def main() -> None:
        with trio.fail_after(timeout_s):
            async with trio.open_nursery() as nursery:
                for peer in peers:
                    nursery.start_soon(peer.run)
                await run_directory(run_dir)
                with trio.move_on_after(5):
                    while nursery.child_tasks:
                        await trio.sleep(0.01)
                nursery.cancel_scope.cancel()

    try:
        trio.run(main)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


async def connect(run_dir: Path, accepts: object) -> AsyncConnection:
    """Connects to the orchestrator of a run as soon as it listens."""
    with trio.fail_after(30):
        while not (run_dir / ADDRESS_FILE).exists():
            await trio.sleep(0.01)
        return await AsyncConnection.connect((run_dir / ADDRESS_FILE).read_text(), read_token(run_dir), accepts)


@dataclass
class ScriptedWorker:
    """A rollout worker that samples one work item at a time."""

    run_dir: Path
    name: str = "scripted"
    delay_s: float = 0.0
    starts_after_s: float = 0.0
    max_batch_size: int = 8
    lose: Callable[[Work], bool] = lambda work: False
    """Whether to vanish instead of answering this item."""
    exclude: Callable[[Work], int] = lambda work: 0
    """How many responses of this item the judge fails on."""
    prompt_length: Callable[[str], int] = lambda problem_id: 3
    """How long it says that a problem's prompt is."""
    prompt_template: str = "plain"
    done: list[Work] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    stopped: str = ""

    async def run(self) -> None:
        """Works until the orchestrator ends it or goes."""
        await trio.sleep(self.starts_after_s)
        connection = await connect(self.run_dir, ToWorker)
        try:
            await connection.send(WorkerHello(name=self.name))
            assert isinstance(await connection.receive(), WorkerSetup)
            await connection.send(
                WorkerReady(
                    tokenizer_fingerprint=TOKENIZER,
                    prompt_template=self.prompt_template,
                    max_batch_size=self.max_batch_size,
                    isolation_tier="none",
                )
            )
            await self._work(connection)
        except ConnectionLost:
            return
        finally:
            await connection.aclose()

    async def _work(self, connection: AsyncConnection) -> None:
        version, waiting, known = 0, [], set()
        while True:
            match message := await connection.receive():
                case ProblemData():
                    known.add(message.problem.id)
                    self.problems.append(message.problem)
                case MeasurePrompts():
                    lengths = [self.prompt_length(problem.id) for problem in message.problems]
                    await connection.send(PromptLengths(lengths=lengths))
                case NewVersion():
                    version = message.version
                    await connection.send(Heartbeat(engine_steps=1, policy_version=version, num_tokens=0))
                case Work():
                    assert message.problem_id in known
                    waiting.append(message)
                case Shutdown():
                    return
                case Stop():
                    self.stopped = message.reason
                    return
            for work in [work for work in waiting if work.min_policy_version <= version]:
                waiting.remove(work)
                if self.lose(work):
                    return
                await trio.sleep(self.delay_s)
                await self._answer(connection, work, 0 if work.policy == "reference" else version)

    async def _answer(self, connection: AsyncConnection, work: Work, version: int) -> None:
        excluded = self.exclude(work)
        trajectories = [response(work, index, version) for index in range(len(work.seeds) - excluded)]
        await connection.send(
            WorkDone(
                work_id=work.work_id,
                trajectories=encode_trajectories(trajectories),
                num_excluded=excluded,
                num_truncated=0,
                sampling_time_s=0.01,
                judge_time_s=0.01,
                judge_cpu_time_s=0.005,
            )
        )
        self.done.append(work)


@dataclass
class ScriptedTrainer:
    """One trainer rank; its checkpoints outlive its connection, as those on disk do."""

    run_dir: Path
    total_steps: int = 12
    rank: int = 0
    world_size: int = 1
    model_update_interval: int = 2
    checkpoint_interval: int = 3
    step_s: float = 0.0
    publisher: WeightPublisher | None = None
    """Where workers fetch versions; scripted workers do without."""
    checkpoints: dict[int, bytes] = field(default_factory=dict)
    batches: dict[int, Batch] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)
    finished: bool = False
    stopped: str = ""

    async def run(self) -> None:
        """Trains from the last checkpoint until the run is finished or the orchestrator goes."""
        connection = await connect(self.run_dir, ToTrainer)
        try:
            await self._train(connection)
        except ConnectionLost:
            return
        finally:
            await connection.aclose()

    async def _train(self, connection: AsyncConnection) -> None:
        first = max(self.checkpoints, default=0)
        await self._publish(first)
        await connection.send(
            TrainerHello(
                rank=self.rank,
                world_size=self.world_size,
                publisher=self.publisher.address if self.publisher else f"127.0.0.1:{9000 + self.rank}",
                step=first,
                replay_state=self.checkpoints.get(first, b"") if self.rank == 0 else b"",
            )
        )
        for step in range(first + 1, self.total_steps + 1):
            await connection.send(BatchRequest(step=step))
            if not isinstance(batch := await self._answer(connection), Batch):
                return
            assert batch.step == step
            # A step that a resume undid has to be repeated with the batch that it had.
            trained_on = msgspec.structs.replace(batch, keep_reference_logprobs=False)
            assert self.batches.setdefault(step, trained_on) == trained_on, f"step {step} has another batch than before"
            await trio.sleep(self.step_s)
            if batch.keep_reference_logprobs and not batch.reference_logprobs:
                await self._tell_reference(connection, batch)
            if self.rank == 0:
                await connection.send(StepDone(step=step, metrics={"loss/objective": 1.0 / step}))
            if step % self.model_update_interval == 0 or step == self.total_steps:
                await self._publish(step)
                await connection.send(VersionPublished(version=step))
            if self.rank == 0 and step % self.checkpoint_interval == 0:
                await connection.send(SaveRequest(step=step))
                if not isinstance(saved := await self._answer(connection), SavedState):
                    return
                self.checkpoints[step] = saved.state
                await connection.send(CheckpointSaved(step=step))
        await connection.send(TrainingDone(step=self.total_steps))
        self.finished = isinstance(await self._answer(connection), RunFinished)

    async def _tell_reference(self, connection: AsyncConnection, batch: Batch) -> None:
        """Tells values that depend on the step, as the last bits of real ones do."""
        segments = rows_of(batch)[1]
        responses = np.frombuffer(batch.response_mask, np.uint8).reshape(segments.shape) != 0
        trajectories = sorted({int(index) for index in segments[segments >= 0]})
        lengths = [int((responses & (segments == index)).sum()) for index in trajectories]
        values = np.full(sum(lengths), -1.0 - batch.step / 1024, np.float32)
        if trajectories:
            await connection.send(
                ReferenceLogprobs(step=batch.step, trajectories=trajectories, logprobs=values.tobytes())
            )

    async def _publish(self, version: int) -> None:
        if self.publisher is not None:
            weights = np.full(16, version, dtype=np.float32)
            shard = WeightShard("weights", "float32", (16,), 0, weights.view(np.uint8))
            await trio.to_thread.run_sync(self.publisher.publish, version, [shard])

    async def _answer(self, connection: AsyncConnection) -> object:
        while isinstance(message := await connection.receive(), Pending):
            self.pending.append(message.reason)
        if isinstance(message, Stop):
            self.stopped = message.reason
        return message


def rows_of(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """The tokens and segment ids of a batch message: int32 [R, T] each."""
    shape = (batch.num_rows, batch.num_tokens)
    tokens = np.frombuffer(batch.tokens, dtype="<i4").reshape(shape)
    return tokens, np.frombuffer(batch.segment_ids, dtype="<i4").reshape(shape)
