"""A policy: a causal language model that gives the log-probability of tokens in packed rows.

The trained policy and the frozen reference are both this. Several trajectories share a row; attention stays inside each
of them, and so does every token's context. The policy's parameters are float32 masters whatever forward and backward
compute in. Sharding is `parallel`'s, the head's chunking `logprobs`'s.

Shapes: R rows, T tokens in a row, N tokens asked for, D hidden size.
"""

from __future__ import annotations

import functools
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from spo.config import ModelConfig
from spo.errors import ConfigError
from spo.trainer.attention import ATTENTION, find_packing
from spo.trainer.logprobs import token_logprobs
from spo.trainer.parallel import Ranks, local_shard, shard

Kind = TypeVar("Kind", bound="Policy")

_UNSUPPORTED_HEADS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings of models whose logits are more than the product of hidden state and head."""


class Policy(nn.Module):
    """A `transformers` causal language model behind one method: log-probabilities of tokens in packed rows."""

    def __init__(self, model: PreTrainedModel, compute_dtype: torch.dtype, logprob_chunk_tokens: int) -> None:
        """Wraps `model`, whose dropout is switched off: a policy's log-probabilities are a function of its weights."""
        super().__init__()
        self.model = model.eval()
        self.compute_dtype = compute_dtype
        self.logprob_chunk_tokens = logprob_chunk_tokens
        config = model.config
        self.head_size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        names = set(model._no_split_modules or ())
        self.layers: list[nn.Module] = [module for module in model.modules() if type(module).__name__ in names]
        """The decoder layers: what is sharded and recomputed as a unit."""

    def forward(self, tokens_RT: Tensor, position_ids_RT: Tensor, index_N: Tensor) -> Tensor:
        """The log-probability of each token asked for, given those before it in its own trajectory.

        Args:
            tokens_RT: int64 token ids.
            position_ids_RT: int64; 0 starts a trajectory (and padding may be anything).
            index_N: int64 flat positions (row · T + column) of the tokens asked for; none is the first of its
                trajectory.

        Returns:
            Float32 [N].
        """
        hidden_ND = self.hidden_before(tokens_RT, position_ids_RT, index_N)
        target_N = tokens_RT.flatten()[index_N]
        head_VD = self.model.get_output_embeddings().weight
        return token_logprobs(hidden_ND, head_VD, target_N, self.logprob_chunk_tokens)

    def hidden_before(self, tokens_RT: Tensor, position_ids_RT: Tensor, index_N: Tensor) -> Tensor:
        """The last hidden state before each token asked for, which is what the token is predicted from: [N, D]."""
        hidden_RTD = self.model.base_model(
            input_ids=tokens_RT,
            position_ids=position_ids_RT,
            use_cache=False,
            packing=find_packing(position_ids_RT, self.compute_dtype, self.head_size),
        ).last_hidden_state
        hidden_ND: Tensor = hidden_RTD.flatten(0, 1)[index_N - 1]
        return hidden_ND

    @torch.no_grad()
    def copy_from(self, other: Policy) -> None:
        """Takes over the parameters of another policy of the same model, shard by shard, in its own dtype."""
        for module in (*self.modules(), *other.modules()):
            if isinstance(module, FSDPModule):
                # What is gathered for a forward pass would hide the change.
                module.reshard()
        for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
            local_shard(mine).copy_(local_shard(theirs))

    def recompute_layers(self) -> None:
        """Keeps only each layer's input for the backward pass, and computes the rest again there."""
        for layer in self.layers:
            # In place of `forward`, not around the module: FSDP's hooks must not run twice. Nothing random is inside.
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


class ValueModel(Policy):
    """PPO's value model: a policy whose output head is a single number, the value of the state before each token."""

    def __init__(self, model: PreTrainedModel, compute_dtype: torch.dtype, logprob_chunk_tokens: int) -> None:
        """Takes the model's body; the head starts at value 0 everywhere."""
        super().__init__(model, compute_dtype, logprob_chunk_tokens)
        self.model = model.base_model
        self.head = nn.Linear(model.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens_RT: Tensor, position_ids_RT: Tensor, index_N: Tensor) -> Tensor:
        """The value before each token asked for: float32 [N]; arguments as for a policy."""
        hidden_ND = self.hidden_before(tokens_RT, position_ids_RT, index_N)
        value_N1: Tensor = self.head(hidden_ND)
        # A sum of one, not a view: FSDP hooks onto what this returns.
        return value_N1.float().sum(dim=1)


def load_policy(path: str, config: ModelConfig, max_tokens: int, ranks: Ranks, *, trained: bool) -> Policy:
    """Loads a local model folder and shards it over the ranks.

    Args:
        path: The folder, in Hugging Face format.
        config: What to compute in, recomputation, chunking.
        max_tokens: The longest row.
        ranks: Whom to shard over.
        trained: The policy, in float32 masters; else the frozen reference, held in what it computes in (the forward
            pass rounds the policy's masters to just that, so both agree to the bit before training).

    Raises:
        ConfigError: The folder holds no causal language model that this trainer can score.
    """
    return _load(Policy, path, config, max_tokens, ranks, trained)


def load_value_model(path: str, config: ModelConfig, max_tokens: int, ranks: Ranks) -> ValueModel:
    """A value model with the body of the policy before training; arguments and errors as for `load_policy`."""
    return _load(ValueModel, path, config, max_tokens, ranks, trained=True)


def _load(kind: type[Kind], path: str, config: ModelConfig, max_tokens: int, ranks: Ranks, trained: bool) -> Kind:
    compute_dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    dtype = torch.float32 if trained else compute_dtype
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, attn_implementation=ATTENTION, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path: no causal language model can be loaded from {path}: {error}") from error
    _check_supported(model, max_tokens)
    policy = kind(model, compute_dtype, config.logprob_chunk_tokens)
    policy.requires_grad_(trained)
    if trained and config.gradient_checkpointing:
        policy.recompute_layers()
    # FSDP moves a module's shard only; everything else (buffers) moves here.
    policy.to(ranks.device)
    shard(policy, policy.layers, ranks, compute_dtype)
    return policy


def _check_supported(model: PreTrainedModel, max_tokens: int) -> None:
    name = type(model).__name__
    for setting in _UNSUPPORTED_HEADS:
        if getattr(model.config, setting, None) not in (None, 1, 1.0):
            raise ConfigError(f"model.path: {name} scales its logits ({setting}), which is not supported")
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise ConfigError(f"model.path: {name} has a bias in its output head, which is not supported")
    if set(getattr(model.config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}:
        raise ConfigError(
            f"model.path: {name} has layers that are no attention, which rows of several cannot go through"
        )
    window = getattr(model.config, "sliding_window", None)
    if window is not None and window < max_tokens:
        raise ConfigError(
            f"batch.token_budget: {name} attends to the last {window} tokens only; set it to at most {window}"
        )
