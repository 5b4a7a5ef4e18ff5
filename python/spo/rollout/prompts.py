"""From a problem to the tokens of its prompt, and from a response's tokens to its text.

With a chat template the statement is the user's message, else it is the prompt as it stands. How prompts are rendered
has a name (`prompt_template`), since values estimated under one rendering mean nothing under another. Which program a
text holds is not decided here (`spo.problems.extract_code`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from spo.errors import ConfigError
from spo.problems import Problem


class Codec(Protocol):
    """What a worker needs of a tokenizer."""

    @property
    def tokenizer_fingerprint(self) -> str:
        """Tells tokenizers apart."""

    @property
    def prompt_template(self) -> str:
        """Tells renderings of prompts apart."""

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """What ends a response; at least one."""

    def encode_prompt(self, problem: Problem) -> tuple[int, ...]:
        """The prompt's tokens; never none."""

    def decode_response(self, tokens: Sequence[int]) -> str:
        """The text of a response, without end tokens."""

    def encode_response(self, text: str) -> tuple[int, ...]:
        """The tokens of a response with this text, its end token included."""


class ModelCodec:
    """The tokenizer and chat template of a model folder."""

    def __init__(self, model_path: str | Path, tokenizer_fingerprint: str, instruction: str = "") -> None:
        """Loads the tokenizer.

        Args:
            model_path: The model's local folder.
            tokenizer_fingerprint: Of the tokenizer in that folder.
            instruction: Said after each statement.

        Raises:
            ConfigError: The folder holds no tokenizer, or none that knows an end token.
        """
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(model_path), local_files_only=True)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"model.path: {model_path}: no tokenizer that transformers can load: {reason}") from error
        self.tokenizer_fingerprint = tokenizer_fingerprint
        self.end_tokens = _end_tokens(self._tokenizer, Path(model_path))
        if not self.end_tokens:
            raise ConfigError(f"model.path: {model_path}: its tokenizer has no eos_token; responses would never end")
        template = self._tokenizer.chat_template
        self._has_template = template is not None
        self._instruction = instruction
        kind = "chat" if self._has_template else "statement"
        digest = hashlib.blake2b(f"{template}\0{instruction}".encode(), digest_size=8).hexdigest()
        self.prompt_template = f"{kind}-{digest}"

    def encode_prompt(self, problem: Problem) -> tuple[int, ...]:
        """See `Codec.encode_prompt`."""
        text = prompt_text(problem, self._instruction)
        if self._has_template:
            messages = [{"role": "user", "content": text}]
            text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        tokens = self._tokenizer(text, add_special_tokens=not self._has_template)["input_ids"]
        return tuple(tokens)

    def decode_response(self, tokens: Sequence[int]) -> str:
        """See `Codec.decode_response`."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def encode_response(self, text: str) -> tuple[int, ...]:
        """See `Codec.encode_response`."""
        return (*self._tokenizer(text, add_special_tokens=False)["input_ids"], self.end_tokens[0])


def prompt_text(problem: Problem, instruction: str = "") -> str:
    """What the policy is told: the statement, what kind of answer is wanted, and the code to start from, if any."""
    code = f"Start from this code:\n\n```python\n{problem.starter_code}\n```" if problem.starter_code else ""
    return "\n\n".join(part for part in (problem.statement, instruction, code) if part)


def _end_tokens(tokenizer: Any, model_path: Path) -> tuple[int, ...]:
    """The tokenizer's end token, and those that the model names for generation (chat models often have several)."""
    found = [tokenizer.eos_token_id]
    file = model_path / "generation_config.json"
    if file.is_file():
        named = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
        found += named if isinstance(named, list) else [named]
    return tuple(dict.fromkeys(token for token in found if token is not None))
