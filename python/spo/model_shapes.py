"""How large a model is, from its `config.json` or, for the presets' models, by heart: no weights, no download."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spo.errors import ConfigError


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a Llama-like decoder."""

    vocabulary: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    mlp_width: int
    tied: bool
    """Whether embeddings and output head are one matrix."""

    @property
    def layer_parameters(self) -> int:
        """Of one decoder layer: attention, gated MLP, two norms."""
        attention = 2 * self.width * self.head_width * (self.num_heads + self.num_kv_heads)
        return attention + 3 * self.width * self.mlp_width + 2 * self.width

    @property
    def root_parameters(self) -> int:
        """Of all else: embeddings, head, last norm."""
        return self.vocabulary * self.width * (1 if self.tied else 2) + self.width

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return self.num_layers * self.layer_parameters + self.root_parameters

    @property
    def kv_values_per_token(self) -> int:
        """Numbers that the key-value cache holds for a token."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_width


KNOWN = {
    "tiny": ModelShape(51, 160, 2, 4, 4, 40, 480, tied=True),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ModelShape(49_152, 576, 30, 9, 3, 64, 1536, tied=True),
    "meta-llama/Llama-3.1-8B-Instruct": ModelShape(128_256, 4096, 32, 32, 8, 128, 14_336, tied=False),
}


def shape_of(path: str) -> ModelShape:
    """The shape of the model that `model.path` names.

    Raises:
        ConfigError: It is neither known nor a folder whose `config.json` says its sizes.
    """
    if path in KNOWN:
        return KNOWN[path]
    file = Path(path).expanduser() / "config.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(KNOWN)
        raise ConfigError(
            f"model.path: the sizes of {path!r} are not known here; give a local folder, or one of {known}"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    try:
        return _read(settings)
    except KeyError as error:
        raise ConfigError(f"{file}: does not say {error}; its model is not laid out as a Llama is") from None


def _read(settings: dict[str, Any]) -> ModelShape:
    width, num_heads = settings["hidden_size"], settings["num_attention_heads"]
    return ModelShape(
        vocabulary=settings["vocab_size"],
        width=width,
        num_layers=settings["num_hidden_layers"],
        num_heads=num_heads,
        num_kv_heads=settings.get("num_key_value_heads") or num_heads,
        head_width=settings.get("head_dim") or width // num_heads,
        mlp_width=settings["intermediate_size"],
        tied=settings.get("tie_word_embeddings", False),
    )
