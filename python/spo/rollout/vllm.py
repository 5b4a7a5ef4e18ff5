"""The vLLM sampler: an in-process vLLM engine that a `spo.rollout.threaded.ThreadedEngine` steps.

vLLM batches continuously, shares the keys and values of equal prompt beginnings, and spreads large models over GPUs
(`vllm.tensor_parallel_size`). It holds the weights of one policy at a time. Requests for the other one, the reference
beside a newer version, wait until the responses under way are complete; then its weights take their place. A run asks
for both at once only where reference samples are still lacking when it is resumed.

A new version is put in place of the old one between two steps, by its changes alone where it follows that one.
Responses under way keep their keys and values and go on with it; prompts that come later share none from before. How
weights get into vLLM's parameters is in `spo.rollout.vllm_weights` and `spo.vllm_model`, which vLLM, for whom, and
with which settings, in `spo.rollout.vllm_loading`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from vllm import SamplingParams
from vllm.inputs import tokens_input
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from spo.errors import WeightsError
from spo.rollout.engine import Request, Response, Snapshot
from spo.rollout.staging import check_fits
from spo.rollout.vllm_weights import ChangedWeights, FolderWeights, WholeWeights
from spo.versions import spans_of
from spo.weight_map import changes_between

_SEED_BITS = 63
"""vLLM takes seeds of int64."""

_log = logging.getLogger(__name__)


@dataclass
class _Row:
    """A request that vLLM has."""

    request: Request
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    """Of the weights that drew each token."""


@dataclass(eq=False)
class StagedVersion:
    """A version that is ready to be put in place."""

    snapshot: Snapshot
    num_workers: int
    base: StagedVersion | None = None
    """The version that `changes` are of."""
    changes: ChangedWeights | None = None
    _whole: WholeWeights | None = None

    @property
    def version(self) -> int:
        """The policy version."""
        return self.snapshot.version

    def whole(self) -> WholeWeights:
        """All of it, where vLLM's workers can read it."""
        if self._whole is None:
            self._whole = WholeWeights.of(self.snapshot, self.num_workers)
        return self._whole

    def forget_base(self) -> None:
        """Lets the version before go."""
        self.base = self.changes = None


Weights = FolderWeights | StagedVersion


class VllmSampler:
    """A `Sampler` around vLLM's engine; see `spo.rollout.engine.Sampler` for the calls."""

    def __init__(
        self,
        engine: LLMEngine,
        end_tokens: Sequence[int],
        *,
        reference: FolderWeights,
        shapes: Mapping[str, Sequence[int]],
        max_batch_size: int,
    ) -> None:
        """Takes an engine that has just loaded the reference.

        Args:
            engine: Steps in this process; its workers have `spo.rollout.vllm_weights.WeightLoader`.
            end_tokens: What ends a response.
            reference: Where the reference's weights can be read again.
            shapes: The shape of each of the model's parameters, by their Hugging Face names.
            max_batch_size: Responses sampled at once.
        """
        self.max_batch_size = max_batch_size
        self._engine = engine
        self._end_tokens = list(end_tokens)
        self._shapes = shapes
        self._reference: Weights = reference
        self._latest: Weights = reference
        self._loaded: Weights = reference
        self._whole_names = self._prepare(reference)
        self._rows: dict[int, _Row] = {}
        self._held_back: deque[tuple[int, Request]] = deque()
        """Requests that wait for the other policy's weights, and those that came after one."""

    @property
    def policy_version(self) -> int:
        """The version that `latest` requests are sampled with."""
        return self._latest.version

    def check(self, request: Request) -> None:
        """Refuses requests for more tokens than the engine was set up for."""
        longest = self._engine.model_config.max_model_len
        num_tokens = len(request.prompt_tokens) + request.max_new_tokens
        if num_tokens > longest:
            raise ValueError(
                f"a prompt of {len(request.prompt_tokens)} tokens and {request.max_new_tokens} new ones exceed the "
                f"{longest} that vLLM samples (vllm.max_model_len, or the model's positions); "
                "lower sampling.max_new_tokens or leave the problem out"
            )

    def add(self, requests: Sequence[tuple[int, Request]]) -> None:
        """Takes requests in; vLLM runs their prompts in its next steps."""
        self._held_back.extend(requests)
        self._submit()

    def drop(self, keys: set[int]) -> None:
        """Takes requests out."""
        self._held_back = deque((key, request) for key, request in self._held_back if key not in keys)
        known = keys & self._rows.keys()
        self._engine.abort_request([str(key) for key in known])
        for key in known:
            del self._rows[key]

    def step(self) -> list[tuple[int, Response]]:
        """One step of vLLM: a token for every response under way, some prompts."""
        if not self._rows:
            self._change_policy()
        finished = []
        for output in self._engine.step():
            key = int(output.request_id)
            (completion,) = output.outputs
            row = self._rows[key]
            self._extend(row, completion)
            if completion.finish_reason is not None:
                del self._rows[key]
                finished.append((key, self._response(row, completion)))
        return finished

    def stage(self, snapshot: Snapshot) -> StagedVersion:
        """Checks a version against the model, and puts what it changes where vLLM's workers read it."""
        check_fits(snapshot, self._shapes)
        staged = StagedVersion(snapshot, self._engine.vllm_config.parallel_config.world_size)
        base = self._latest
        if self._whole_names is None or isinstance(base, FolderWeights) or _kinds(base.snapshot) != _kinds(snapshot):
            staged.whole()
        else:
            changes = changes_between(_arrays(base.snapshot), _arrays(snapshot), self._whole_names)
            staged.base, staged.changes = base, ChangedWeights.of(changes, staged.num_workers)
        return staged

    def switch(self, staged: StagedVersion) -> None:
        """Puts a staged version in place, unless the reference is being sampled: then it waits for its turn."""
        is_sampling_reference = any(row.request.policy == "reference" for row in self._rows.values())
        if self._loaded is self._latest and not is_sampling_reference:
            self._load(staged)
        staged.forget_base()
        self._latest = staged

    # --- which policy's weights are loaded -------------------------------------------------------------------------

    def _weights_of(self, request: Request) -> Weights:
        return self._reference if request.policy == "reference" else self._latest

    def _submit(self) -> None:
        """Hands requests to vLLM, in order, up to the first that needs other weights than those loaded."""
        while self._held_back and self._weights_of(self._held_back[0][1]) is self._loaded:
            key, request = self._held_back.popleft()
            self._rows[key] = _Row(request)
            # The salt keeps keys and values that other weights made from being shared.
            prompt = tokens_input(list(request.prompt_tokens), cache_salt=str(self._loaded.version))
            self._engine.add_request(str(key), prompt, self._sampling_params(request))

    def _change_policy(self) -> None:
        """With no response under way, loads what the first request held back needs."""
        if self._held_back:
            weights = self._weights_of(self._held_back[0][1])
            if weights is not self._loaded:
                _log.info("version %d is loaded for %d requests", weights.version, len(self._held_back))
                self._load(weights)
            self._submit()

    def _prepare(self, reference: FolderWeights) -> frozenset[str] | None:
        """Has the workers map the model; returns which tensors must be given whole, None for all."""
        names = self._engine.collective_rpc("spo_prepare", args=(dict(self._shapes), reference))
        return None if None in names else frozenset(name for worker in names for name in worker)

    def _load(self, weights: Weights) -> None:
        """Replaces the weights, or has the ones before back in place.

        Raises:
            WeightsError: They could not be loaded.
            RuntimeError: Nor could those before.
        """
        reason = self._try_change(weights) if self._is_next(weights) else self._try_load(weights)
        if reason is not None:
            raise WeightsError(
                f"version {weights.version} could not be loaded, version {self._loaded.version} stays: {reason}"
            )
        self._loaded = weights

    def _is_next(self, weights: Weights) -> bool:
        return isinstance(weights, StagedVersion) and weights.base is self._loaded

    def _try_change(self, weights: Weights) -> str | None:
        """Changes the weights in place in all workers or none; the first one's reason why it could not."""
        assert isinstance(weights, StagedVersion)
        reason = self._call("spo_change_weights", weights.changes)
        if reason is not None and self._call("spo_undo_change") is not None:
            self._put_back()
        return reason

    def _try_load(self, weights: Weights) -> str | None:
        reason = self._call("spo_load_weights", weights.whole() if isinstance(weights, StagedVersion) else weights)
        if reason is not None:
            self._put_back()
        return reason

    def _put_back(self) -> None:
        weights = self._loaded.whole() if isinstance(self._loaded, StagedVersion) else self._loaded
        reason = self._call("spo_load_weights", weights)
        if reason is not None:
            raise RuntimeError(f"version {self._loaded.version} could not be put back: {reason}")

    def _call(self, method: str, *arguments: object) -> str | None:
        """The first worker's reason why it could not, None if all have."""
        return next((reason for reason in self._engine.collective_rpc(method, args=arguments) if reason), None)

    # --- requests and responses ------------------------------------------------------------------------------------

    def _sampling_params(self, request: Request) -> SamplingParams:
        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed % (1 << _SEED_BITS),
            max_tokens=request.max_new_tokens,
            stop_token_ids=self._end_tokens,
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    def _extend(self, row: _Row, completion: CompletionOutput) -> None:
        row.tokens += completion.token_ids
        row.logprobs += (
            logprobs[token].logprob
            for token, logprobs in zip(completion.token_ids, completion.logprobs or (), strict=True)
        )
        row.versions += [self._loaded.version] * len(completion.token_ids)

    def _response(self, row: _Row, completion: CompletionOutput) -> Response:
        if completion.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a response for another reason: {completion.finish_reason}")
        return Response(
            tokens=tuple(row.tokens),
            is_truncated=completion.finish_reason == "length",
            version_spans=spans_of(row.versions),
            behavior_logprobs=np.array(row.logprobs, dtype=np.float32),
        )


def _arrays(snapshot: Snapshot) -> dict[str, npt.NDArray[Any]]:
    return {name: snapshot.tensor(name) for name in snapshot.names}


def _kinds(snapshot: Snapshot) -> dict[str, np.dtype[Any]]:
    return {name: snapshot.tensor(name).dtype for name in snapshot.names}
