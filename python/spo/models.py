"""Where the run's model lies on this host, and what it is: `tiny`, a local folder or a hub id becomes a checked folder.

Also knows which files of such a folder are the tokenizer's, and fingerprints both. No torch at import: only making the
`tiny` reference needs it. How a model is loaded is up to the processes that do.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress

from spo.config import Config
from spo.errors import ConfigError
from spo.files import replace_file
from spo.rundir import MODEL_FILE, ModelInfo, read_model

TINY = "tiny"
REFERENCE_DIR = "reference"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_TOKENIZER_PATTERNS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "additional_chat_templates/*",
)
_FINGERPRINT_BYTES = 16
_READ_BYTES = 1 << 22


def resolve_model(config: Config, run_dir: Path) -> ModelInfo:
    """Finds, downloads or makes the reference model and writes `RUN_DIR/model.json`.

    Raises:
        ConfigError: There is no such model, its folder lacks something, or a resumed run's model has changed.
    """
    path = model_folder(config, run_dir)
    info = model_info(path)
    if (run_dir / MODEL_FILE).exists():
        _check_unchanged(read_model(run_dir), info)
    replace_file(run_dir / MODEL_FILE, msgspec.json.format(msgspec.json.encode(info)) + b"\n")
    return info


def model_folder(config: Config, directory: Path) -> Path:
    """The folder of the model; that of `tiny` is made in `directory`, unless it was before.

    Raises:
        ConfigError: There is no such model, or its folder lacks something.
    """
    return locate_model(config) or _make_tiny(config, directory / REFERENCE_DIR)


def is_hub_id(name: str) -> bool:
    """Whether a name could be that of a model on the Hugging Face hub."""
    return _HUB_ID.fullmatch(name) is not None


def model_info(path: Path) -> ModelInfo:
    """A model folder with its fingerprints."""
    return ModelInfo(str(path), weights_fingerprint(path), tokenizer_fingerprint(path))


def weights_fingerprint(path: Path) -> str:
    """Tells the weights in a model folder from others, bit by bit; empty where there are none."""
    files = _weight_files(path)
    return _fingerprint(files, path) if files else ""


def tokenizer_files(path: Path) -> list[Path]:
    """The files of a model folder that make up its tokenizer, sorted by name."""
    return sorted({file for pattern in _TOKENIZER_PATTERNS for file in path.glob(pattern) if file.is_file()})


def tokenizer_fingerprint(path: Path) -> str:
    """Tells the tokenizer in a model folder from others."""
    return _fingerprint(tokenizer_files(path), path)


def locate_model(config: Config) -> Path | None:
    """The absolute folder of the model, downloaded if need be; None for `tiny`, which is made in the run directory.

    Raises:
        ConfigError: There is no such model, or its folder lacks something.
    """
    name = config.model.path
    if not name:
        raise ConfigError("model.path: not set; give a local model folder, a hub id, or tiny")
    if name == TINY:
        return None
    path = Path(name).expanduser()
    if not path.exists() and is_hub_id(name):
        path = _download(name)
    if not path.is_dir():
        raise ConfigError(f"model.path: {name} is no folder; give a local model folder, a hub id, or tiny")
    if not (path / "config.json").is_file():
        raise ConfigError(f"model.path: {name} holds no config.json; give a model folder in the Hugging Face format")
    for files, what in ((_weight_files(path), "weights (*.safetensors)"), (tokenizer_files(path), "tokenizer")):
        if not files:
            raise ConfigError(f"model.path: {name} holds no {what}; save the model there in the Hugging Face format")
    return path.absolute()


def _weight_files(path: Path) -> list[Path]:
    return sorted(path.glob("*.safetensors"))


def _make_tiny(config: Config, directory: Path) -> Path:
    from transformers.utils import logging

    from spo.tiny.reference import ReferenceSettings, make_reference

    logging.disable_progress_bar()
    num_heads = config.tiny.num_heads or (5 if config.workers.engine == "vllm" else 4)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("making the tiny reference policy", total=config.tiny.steps)
        return make_reference(
            directory,
            config.seed,
            num_threads=config.tiny.torch_threads,
            progress=lambda step, _steps, _loss: progress.update(bar, completed=step),
            settings=ReferenceSettings(num_steps=config.tiny.steps, num_heads=num_heads),
        )


def _download(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(hub_id, allow_patterns=_HUB_PATTERNS))
    except (ImportError, OSError, ValueError) as error:
        # The hub's errors are OSError (HTTP, no connection) or ValueError (no such name); their first line says it.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"model.path: {hub_id} is no local folder, and cannot be had from the hub ({reason}); "
            "download the model and give its folder"
        ) from error


def _fingerprint(files: Sequence[Path], root: Path) -> str:
    """A digest of the files' names and contents."""
    digest = hashlib.blake2b(digest_size=_FINGERPRINT_BYTES)
    for file in files:
        name = str(file.relative_to(root)).encode()
        digest.update(len(name).to_bytes(4, "little") + name + file.stat().st_size.to_bytes(8, "little"))
        with file.open("rb") as stream:
            while block := stream.read(_READ_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _check_unchanged(before: ModelInfo, now: ModelInfo) -> None:
    for field in ("reference_fingerprint", "tokenizer_fingerprint"):
        if getattr(before, field) != getattr(now, field):
            raise ConfigError(
                f"model.path: {now.path} is not what this run was started with ({field} {getattr(now, field)}, "
                f"was {getattr(before, field)}); put the model back, or start a new run"
            )
