"""The carriers between the processes of a run: every control message, and nothing that computes.

A **problem** gives a prompt. A **rollout** is the act of sampling a response from a behaviour policy; the **judge**
runs the program in it and returns a **verdict**; `spo.reward` alone turns a verdict into the **reward** 0 or −1. The
record of all that is a **trajectory** (`spo.store.Trajectory`, in its own encoding). A **policy version** is the number
of optimiser steps that its weights have had: 0 is the reference. Trajectories travel encoded, batches as packed arrays.

Shapes: R rows, T tokens in a row, B trajectories in the batch.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from spo.problems import Problem

PROTOCOL_VERSION = 4
"""Raised whenever a message changes; processes of different versions refuse each other."""

PREFIX_KEY = "prefix_tokens"
"""Metadata of a trajectory whose response begins with given tokens (`Work.prefix_tokens`): how many they are."""


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of all messages; the tag on the wire is the class name."""


# --- any process → orchestrator ---


class TrainerHello(Message, frozen=True):
    """A trainer rank's first message."""

    rank: int
    world_size: int
    publisher: str
    """`host:port` of the rank's weight publisher; version `step` is already published there."""
    step: int
    """Optimiser steps done so far: 0, or the checkpoint's step on resume."""
    replay_state: bytes = b""
    """Rank 0 on resume: the orchestrator's state that the checkpoint kept (`SavedState.state`)."""


class BatchRequest(Message, frozen=True):
    """A rank wants its rows of the batch of optimiser step `step` (from 1)."""

    step: int


class StepDone(Message, frozen=True):
    """Rank 0 tells that optimiser step `step` is done."""

    step: int
    metrics: dict[str, float]
    """Already averaged over ranks; names as in `docs/metrics.md`."""


class ReferenceLogprobs(Message, frozen=True):
    """A rank tells what the reference gave to the trajectories in its rows of `step`, computed for that step."""

    step: int
    trajectories: list[int]
    """Indices in the whole batch."""
    logprobs: bytes
    """float32: of each one's response tokens, one trajectory after the other."""


class VersionPublished(Message, frozen=True):
    """A rank has published its shard of a policy version."""

    version: int


class SaveRequest(Message, frozen=True):
    """Rank 0 is about to write the checkpoint of `step` and wants the orchestrator's state for it."""

    step: int


class CheckpointSaved(Message, frozen=True):
    """Rank 0 has the checkpoint of `step` complete on disk."""

    step: int


class TrainingDone(Message, frozen=True):
    """A rank has done its last step; it keeps its publisher alive until `RunFinished`."""

    step: int


class WorkerHello(Message, frozen=True):
    """A rollout worker's first message; `WorkerSetup` answers it."""

    name: str
    """Unique in the run, for logs and errors."""


class WorkerReady(Message, frozen=True):
    """The worker's engine and judge are up; work may come."""

    tokenizer_fingerprint: str
    """Of the tokenizer it encodes with; must be the run's."""
    prompt_template: str
    """Names how it renders prompts: part of the key of Q̂_0."""
    max_batch_size: int
    """How many responses its engine samples at once."""
    isolation_tier: str
    """What its judge's sandbox gives on its host."""


class PromptLengths(Message, frozen=True):
    """The answer to `MeasurePrompts`."""

    lengths: list[int]
    """Tokens of the prompts, in the order of the problems."""


class WorkDone(Message, frozen=True):
    """A work item is finished: its trajectories, judged."""

    work_id: int
    trajectories: bytes
    """`spo.store.encode_trajectories`; fewer than asked where the judge itself failed."""
    num_excluded: int
    """Responses left out because the judge itself failed on them, twice."""
    num_truncated: int
    """Responses without an end token."""
    sampling_time_s: float
    """Engine time, shared among the requests of a batch in proportion."""
    judge_time_s: float
    """Wall time in the judge, summed over programs."""
    judge_cpu_time_s: float
    """CPU time of the judged programs."""


class WorkFailed(Message, frozen=True):
    """A work item could not be done; it will be tried elsewhere."""

    work_id: int
    reason: str


class Heartbeat(Message, frozen=True):
    """Sent by a worker every few seconds, whatever it does."""

    engine_steps: int
    """Decode steps so far: shows progress within long responses."""
    policy_version: int
    """The version that the engine samples with now."""
    num_tokens: int
    """Response tokens sampled so far."""


# --- orchestrator → trainer ---


class Pending(Message, frozen=True):
    """The answer to a request is not there yet; sent every few seconds so that no wait is silent."""

    reason: str


class Batch(Message, frozen=True):
    """A rank's rows of one optimiser step's batch. All ranks get equally many rows, so that collectives match."""

    step: int
    num_rows: int
    """R; rows without a trajectory may be among them."""
    num_tokens: int
    """T."""
    num_trajectories: int
    """B over all ranks: the loss is the mean over these."""
    tokens: bytes
    """int32 [R, T]."""
    position_ids: bytes
    """int32 [R, T]; from 0 in each trajectory."""
    segment_ids: bytes
    """int32 [R, T]; index of the trajectory in the whole batch, −1 for padding."""
    response_mask: bytes
    """uint8 [R, T]; 1 where the token is part of a response."""
    rewards: bytes
    """float32 [B], whole batch."""
    initial_values: bytes
    """float32 [B], whole batch: Q̂_0 of each trajectory's problem (Sec. 3.1.3)."""
    sources: list[str]
    """B sources, whole batch."""
    behavior_logprobs: bytes = b""
    """float32 [R, T]: ln of the probability that each response token was drawn with; empty where the objective needs
    none."""
    group_success_rates: bytes = b""
    """float32 [B], whole batch: share of the responses sampled together with each that was accepted, NaN where that is
    not known; empty where the objective needs none."""
    mc_successes: bytes = b""
    """uint16 [R, T]: successful continuations from after each response token; empty where the objective needs none, or
    the batch has none."""
    mc_rollouts: bytes = b""
    """uint16 [R, T]: all continuations from there, 0 where none were sampled."""
    reference_logprobs: bytes = b""
    """float32 [R, T], 0 outside responses: what `ReferenceLogprobs` told earlier of every trajectory of the whole
    batch; empty where one is lacking, and then all are to be computed."""
    keep_reference_logprobs: bool = False
    """Whether what is computed is to be told."""


class SavedState(Message, frozen=True):
    """What the orchestrator needs to continue from here; goes into the checkpoint of `step`."""

    step: int
    state: bytes


class RunFinished(Message, frozen=True):
    """The run is over and its report written; trainers may end."""


class Stop(Message, frozen=True):
    """The run cannot go on; `reason` says why and what to do."""

    reason: str


# --- orchestrator → worker ---


class WorkerSetup(Message, frozen=True):
    """The answer to `WorkerHello`: all that a worker needs to know, wherever it runs."""

    config: str
    """The run's resolved settings, as TOML; `model.path` is a local folder on the orchestrator's host."""
    publishers: list[str]
    """The ranks' weight publishers in rank order; empty until the trainers are there (see `NewVersion`)."""


class MeasurePrompts(Message, frozen=True):
    """How long are the prompts of these problems? Asked of a worker that is ready, one such question at a time."""

    problems: list[Problem]
    """Without tests and solutions."""


class ProblemData(Message, frozen=True):
    """A problem, sent to a worker before the first work item that needs it."""

    problem: Problem


class Work(Message, frozen=True):
    """Sample and judge some responses to one problem."""

    work_id: int
    problem_id: str
    policy: Literal["latest", "reference"]
    source: str
    """What the trajectories' `source` will be: `online`, `reference`, `evaluation`, …"""
    temperatures: list[float]
    """One a response."""
    top_p: float
    seeds: list[int]
    """One a response: the same seed, weights and prompt give the same response."""
    max_new_tokens: int
    """Of the whole response."""
    prefix_tokens: list[int] = []
    """Response tokens that are given; what is sampled follows them."""
    min_policy_version: int = 0
    """Start only with at least this version applied (evaluation of a given version)."""


class NewVersion(Message, frozen=True):
    """All ranks have published this policy version: fetch and apply it, without stopping."""

    version: int
    publishers: list[str]
    """The ranks' weight publishers, in rank order."""


class Shutdown(Message, frozen=True):
    """The worker should end now."""


ToOrchestrator = (
    TrainerHello
    | BatchRequest
    | StepDone
    | ReferenceLogprobs
    | VersionPublished
    | SaveRequest
    | CheckpointSaved
    | TrainingDone
    | WorkerHello
    | WorkerReady
    | PromptLengths
    | WorkDone
    | WorkFailed
    | Heartbeat
)
"""What the orchestrator accepts."""

ToTrainer = Pending | Batch | SavedState | RunFinished | Stop
"""What a trainer rank accepts."""

ToWorker = WorkerSetup | MeasurePrompts | ProblemData | Work | NewVersion | Shutdown | Stop
"""What a rollout worker accepts."""
