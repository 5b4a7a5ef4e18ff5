"""The built-in engine's sampler: continuous batching over a `transformers` model, on a CPU or one GPU.

Each request takes a row. Joining, a prompt is run through the model once but for its last token (equal prompts share
the pass); from there every step feeds each row's newest token and draws the next. Rows of the latest policy and of
the frozen reference are two lanes with a cache each; until the first new version both use one model. For
large models and many GPUs there are engines made for throughput; this one needs nothing but the trainer's libraries.

Shapes: B rows of a lane, T tokens or columns, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from spo.config import Config
from spo.errors import ConfigError
from spo.rollout.engine import Request, Response, Snapshot, request_rng
from spo.rollout.kv_cache import SlotCache
from spo.rollout.sampling import sample_tokens
from spo.rollout.staging import check_fits, to_torch
from spo.versions import spans_of

PREFILL_TOKENS = 8192
"""About so many prompt tokens, padding included, go through the model at once."""


@dataclass
class _Row:
    """A request in the batch."""

    key: int
    request: Request
    uniforms: npt.NDArray[np.float64]
    """One for each token that may be drawn."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    """Of the weights that drew each token."""

    @property
    def newest_token(self) -> int:
        return self.tokens[-1] if self.tokens else self.request.prompt_tokens[-1]

    @property
    def num_cached(self) -> int:
        """Tokens whose keys and values are cached: all but the newest."""
        return len(self.request.prompt_tokens) + len(self.tokens) - 1


@dataclass
class StagedWeights:
    """A version's tensors, on the model's device and in its dtype, and not yet in use."""

    version: int
    tensors: dict[str, Tensor]


class TransformersSampler:
    """A `Sampler` around a causal language model; see `spo.rollout.engine.Sampler` for the calls."""

    def __init__(self, model: Any, end_tokens: Sequence[int], *, max_batch_size: int) -> None:
        """Takes the reference model; it is frozen and never changed.

        Args:
            model: A `transformers` causal language model, with its dtype and on its device.
            end_tokens: What ends a response.
            max_batch_size: Rows of both lanes together.

        Raises:
            ConfigError: The model is of a kind whose cache this engine does not know.
        """
        _check_attention(model.config)
        model.eval().requires_grad_(False)
        self.max_batch_size = max_batch_size
        self.policy_version = 0
        self._max_tokens = int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)
        self._shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self._dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
        self._device = model.device
        settings = (frozenset(end_tokens), max_batch_size)
        self._reference = _Lane(model, *settings)
        self._latest = _Lane(model, *settings)

    def check(self, request: Request) -> None:
        """Refuses requests for more tokens than the model has positions."""
        num_tokens = len(request.prompt_tokens) + request.max_new_tokens
        if num_tokens > self._max_tokens:
            raise ValueError(
                f"a prompt of {len(request.prompt_tokens)} tokens and {request.max_new_tokens} new ones exceed the "
                f"model's {self._max_tokens} positions; lower sampling.max_new_tokens or leave the problem out"
            )

    @torch.inference_mode()
    def add(self, requests: Sequence[tuple[int, Request]]) -> None:
        """Takes requests in: caches their prompts but for the last token."""
        for lane, policy, _ in self._lanes():
            rows = [
                _Row(key, request, request_rng(request.seed).random(request.max_new_tokens))
                for key, request in requests
                if request.policy == policy
            ]
            lane.add(rows)

    @torch.inference_mode()
    def drop(self, keys: set[int]) -> None:
        """Takes requests out."""
        for lane, _, _ in self._lanes():
            lane.remove([index for index, row in enumerate(lane.rows) if row.key in keys])

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Response]]:
        """Draws one token for every row."""
        return [done for lane, _, version in self._lanes() if lane.rows for done in lane.step(version)]

    def stage(self, snapshot: Snapshot) -> StagedWeights:
        """Checks a version against the model and brings it to the model's device and dtype."""
        check_fits(snapshot, self._shapes)
        tensors = {
            name: to_torch(snapshot.tensor(name)).to(device=self._device, dtype=dtype, copy=True)
            for name, dtype in self._dtypes.items()
        }
        return StagedWeights(snapshot.version, tensors)

    def switch(self, staged: StagedWeights) -> None:
        """Puts a staged version's tensors in the place of the latest model's; responses under way go on with them."""
        if self._latest.model is self._reference.model:
            self._latest.model = copy.deepcopy(self._reference.model)
        for name, parameter in self._latest.model.named_parameters():
            parameter.data = staged.tensors[name]
        self.policy_version = staged.version

    def _lanes(self) -> Iterator[tuple[_Lane, str, int]]:
        yield self._latest, "latest", self.policy_version
        yield self._reference, "reference", 0


class _Lane:
    """The rows that one model samples; row i lies in slot i of the cache."""

    def __init__(self, model: Any, end_tokens: frozenset[int], max_batch_size: int) -> None:
        self.model = model
        self.rows: list[_Row] = []
        self._end_tokens = end_tokens
        self._cache = SlotCache(max_batch_size)
        self._device, self._dtype = model.device, model.dtype
        # `past_key_values` until transformers 5.2x.
        name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
        self._cache_arguments = {name: self._cache, "use_cache": True}

    def add(self, rows: list[_Row]) -> None:
        slots: dict[tuple[int, ...], list[int]] = {}
        for slot, row in enumerate(rows, start=len(self.rows)):
            slots.setdefault(row.request.prompt_tokens[:-1], []).append(slot)
        self.rows += rows
        slots.pop((), None)
        for prompts in _groups(sorted(slots, key=len)):
            self._prefill(prompts, [slots[prompt] for prompt in prompts])

    def _prefill(self, prompts: list[tuple[int, ...]], slots: list[list[int]]) -> None:
        num_columns = len(prompts[-1])
        # Padded on the right, where the causal mask hides it from every real token.
        tokens_BT = self._tensor([prompt + (0,) * (num_columns - len(prompt)) for prompt in prompts])
        sources = [index for index, of_prompt in enumerate(slots) for _ in of_prompt]
        self._cache.prefill(self._tensor([slot for of_prompt in slots for slot in of_prompt]), self._tensor(sources))
        self.model.base_model(input_ids=tokens_BT, **self._cache_arguments)

    def step(self, version: int) -> list[tuple[int, Response]]:
        requests = [row.request for row in self.rows]
        logits_BV = self._forward()
        tokens, logprobs = sample_tokens(
            logits_BV,
            self._tensor([request.temperature for request in requests], torch.float32),
            self._tensor([request.top_p for request in requests], torch.float64),
            self._tensor([row.uniforms[len(row.tokens)] for row in self.rows], torch.float64),
        )
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            row.tokens.append(token)
            row.versions.append(version)
        for row, logprob in zip(self.rows, logprobs.tolist(), strict=True):
            row.logprobs.append(logprob)
        finished = [index for index, row in enumerate(self.rows) if self._is_finished(row)]
        responses = [(self.rows[index].key, self._response(self.rows[index])) for index in finished]
        self.remove(finished)
        return responses

    def _forward(self) -> Tensor:
        """Feeds each row's newest token; the logits of the next, [B, V]."""
        tokens_B1 = self._tensor([[row.newest_token] for row in self.rows])
        num_cached = [row.num_cached for row in self.rows]
        num_columns = max(num_cached) + 1
        lengths = self._tensor(num_cached)
        self._cache.append(lengths, num_columns)
        is_hidden_BT = torch.arange(num_columns, device=self._device) > lengths[:, None]
        mask_BT = torch.zeros(is_hidden_BT.shape, dtype=self._dtype, device=self._device)
        mask_BT.masked_fill_(is_hidden_BT, -torch.inf)
        output = self.model(
            input_ids=tokens_B1,
            attention_mask=mask_BT[:, None, None, :],
            position_ids=lengths[:, None],
            **self._cache_arguments,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def remove(self, indices: list[int]) -> None:
        """Takes rows out, the last one moving into each gap."""
        for index in sorted(indices, reverse=True):
            last = self.rows.pop()
            if index < len(self.rows):
                self._cache.move(len(self.rows), index, last.num_cached)
                self.rows[index] = last

    def _is_finished(self, row: _Row) -> bool:
        return row.tokens[-1] in self._end_tokens or len(row.tokens) == row.request.max_new_tokens

    def _response(self, row: _Row) -> Response:
        return Response(
            tokens=tuple(row.tokens),
            is_truncated=row.tokens[-1] not in self._end_tokens,
            version_spans=spans_of(row.versions),
            behavior_logprobs=np.array(row.logprobs, dtype=np.float32),
        )

    def _tensor(self, data: Any, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.tensor(data, dtype=dtype, device=self._device)


def load_sampler(config: Config, model_path: str, end_tokens: Sequence[int]) -> TransformersSampler:
    """Loads the reference model from a local folder, as `config.workers` says.

    Raises:
        ConfigError: The folder holds no such model, or the device is not there.
    """
    device = _device(config.workers.device)
    torch.set_num_threads(config.workers.torch_threads)
    disable_progress_bar()
    dtype = getattr(torch, config.workers.dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            model_path, dtype=dtype, attn_implementation="sdpa", local_files_only=True
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"model.path: {model_path}: no model that transformers can load: {reason}") from error
    return TransformersSampler(model.to(device), end_tokens, max_batch_size=config.workers.max_batch_size)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"workers.device: {name}: not usable here: {error}") from error
    return device


def _check_attention(config: Any) -> None:
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if kinds != {"full_attention"} or (window is not None and not getattr(config, "layer_types", None)):
        raise ConfigError(
            f"model.path: a {config.model_type} model with sliding-window or linear attention; the transformers "
            "engine samples models whose layers all have full attention"
        )


def _groups(prompts: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Splits prompts, ascending in length, so that no group's padded size exceeds `PREFILL_TOKENS` needlessly."""
    group: list[tuple[int, ...]] = []
    for prompt in prompts:
        if group and (len(group) + 1) * len(prompt) > PREFILL_TOKENS:
            yield group
            group = []
        group.append(prompt)
    if group:
        yield group
