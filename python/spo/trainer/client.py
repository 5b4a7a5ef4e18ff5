"""A trainer rank's side of its conversation with the orchestrator: each method is one question or one report.

Every wait ends: the orchestrator says every few seconds that an answer is still pending, and long silence, a lost
connection or a `Stop` raise. What is done with a batch is not known here.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from spo.errors import ConnectionLost, RunFailed
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
    ToTrainer,
    TrainerHello,
    TrainingDone,
    VersionPublished,
)
from spo.wire import ADDRESS_FILE, Connection, read_token

Answer = TypeVar("Answer", bound=msgspec.Struct)

SILENCE_TIMEOUT_S = 120.0
"""An orchestrator that has not even said `Pending` for this long is given up."""


class OrchestratorClient:
    """The connection of one trainer rank to the orchestrator of its run."""

    def __init__(self, run_dir: Path, silence_timeout_s: float = SILENCE_TIMEOUT_S) -> None:
        """Connects to the orchestrator that serves `run_dir`.

        Raises:
            ConnectionLost: It cannot be reached, or is not of this run.
        """
        address = (run_dir / ADDRESS_FILE).read_text(encoding="ascii").strip()
        self._connection: Connection[ToTrainer] = Connection(address, read_token(run_dir), ToTrainer)
        self._silence_timeout_s = silence_timeout_s
        self._sending = threading.Lock()

    def hello(self, rank: int, world_size: int, publisher: str, step: int, replay_state: bytes) -> None:
        """Introduces this rank, `step` steps into the run; version `step` is published at `publisher`."""
        self._send(
            TrainerHello(rank=rank, world_size=world_size, publisher=publisher, step=step, replay_state=replay_state)
        )

    def next_batch(self, step: int) -> Batch:
        """This rank's rows of the batch of `step`; waits until the orchestrator has it."""
        self._send(BatchRequest(step=step))
        batch = self._answer(Batch)
        if batch.step != step:
            raise ConnectionLost(f"asked the orchestrator for the batch of step {step}, got that of {batch.step}")
        return batch

    def reference_computed(self, step: int, trajectories: list[int], logprobs: bytes) -> None:
        """Reports what the reference gave to this rank's trajectories of `step`, if it had to be asked."""
        if trajectories:
            self._connection.send(ReferenceLogprobs(step=step, trajectories=trajectories, logprobs=logprobs))

    def step_done(self, step: int, metrics: dict[str, float]) -> None:
        """Reports a finished step; rank 0 only."""
        self._send(StepDone(step=step, metrics=metrics))

    def version_published(self, version: int) -> None:
        """Reports that this rank's shard of `version` can be fetched; on any thread."""
        self._send(VersionPublished(version=version))

    def saved_state(self, step: int) -> bytes:
        """What the orchestrator needs to continue from `step`; rank 0 only."""
        self._send(SaveRequest(step=step))
        return self._answer(SavedState).state

    def checkpoint_saved(self, step: int) -> None:
        """Reports that the checkpoint of `step` is whole and on disk; rank 0 only."""
        self._send(CheckpointSaved(step=step))

    def training_done(self, step: int) -> None:
        """Reports the last step, and waits until the run is over; the publisher must be served until then."""
        self._send(TrainingDone(step=step))
        self._answer(RunFinished)

    def _send(self, message: ToOrchestrator) -> None:
        with self._sending:
            self._connection.send(message)

    def _answer(self, kind: type[Answer]) -> Answer:
        """The next message that is not `Pending`, which must be of this kind."""
        while True:
            message = self._connection.receive(timeout_s=self._silence_timeout_s)
            if isinstance(message, kind):
                return message
            if isinstance(message, Stop):
                raise RunFailed(message.reason)
            if not isinstance(message, Pending):
                raise ConnectionLost(
                    f"the orchestrator sent {type(message).__name__} where {kind.__name__} was waited for"
                )

    def close(self) -> None:
        """Closes the connection; closing twice is fine."""
        self._connection.close()

    def __enter__(self) -> OrchestratorClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
