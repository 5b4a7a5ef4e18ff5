"""Where a run's model comes from, and what is refused."""

from pathlib import Path

import pytest

from spo.config import Config, ModelConfig, TinyConfig
from spo.errors import ConfigError
from spo.models import resolve_model, tokenizer_files
from spo.rundir import read_model
from spo.tiny import reference


def make_folder(path: Path) -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}", encoding="utf-8")
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "tokenizer.json").write_text("{}", encoding="utf-8")
    (path / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    return path


def resolve(path: Path | str, run_dir: Path) -> str:
    return resolve_model(Config(model=ModelConfig(path=str(path))), run_dir).reference_fingerprint


def test_a_local_folder_is_taken_and_written_down(tmp_path: Path) -> None:
    model = make_folder(tmp_path / "model")
    info = resolve_model(Config(model=ModelConfig(path=str(model))), tmp_path)
    assert info.path == str(model)
    assert read_model(tmp_path) == info


def test_fingerprints_tell_models_and_tokenizers_apart(tmp_path: Path) -> None:
    first, second = make_folder(tmp_path / "first"), make_folder(tmp_path / "second")
    (second / "model.safetensors").write_bytes(b"Weights")
    infos = []
    for number, model in enumerate((first, second)):
        (tmp_path / str(number)).mkdir()
        infos.append(resolve_model(Config(model=ModelConfig(path=str(model))), tmp_path / str(number)))
    assert infos[0].reference_fingerprint != infos[1].reference_fingerprint
    assert infos[0].tokenizer_fingerprint == infos[1].tokenizer_fingerprint


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "holds no config.json"),
        ("model.safetensors", "no weights"),
        ("tokenizer*", "no tokenizer"),
    ],
)
def test_a_folder_with_a_hole_in_it_is_refused_by_name(tmp_path: Path, missing: str, message: str) -> None:
    model = make_folder(tmp_path / "model")
    for file in model.glob(missing):
        file.unlink()
    with pytest.raises(ConfigError, match=rf"^model\.path: {model} .*{message}"):
        resolve(model, tmp_path)


@pytest.mark.parametrize("path", ["", "./nowhere", "/nowhere/at/all"])
def test_a_missing_model_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=r"^model\.path: "):
        resolve(path, tmp_path)


def test_a_hub_id_that_cannot_be_had_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match=r"^model\.path: some-one/some-model is no local folder") as caught:
        resolve("some-one/some-model", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_resumed_run_refuses_another_model(tmp_path: Path) -> None:
    model = make_folder(tmp_path / "model")
    before = resolve(model, tmp_path)
    assert resolve(model, tmp_path) == before
    (model / "model.safetensors").write_bytes(b"others")
    with pytest.raises(ConfigError, match="not what this run was started with"):
        resolve(model, tmp_path)


def test_the_tokenizer_is_every_file_that_belongs_to_it(tmp_path: Path) -> None:
    model = make_folder(tmp_path / "model")
    (model / "chat_template.jinja").write_text("", encoding="utf-8")
    names = [file.name for file in tokenizer_files(model)]
    assert names == ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]


def test_tiny_is_made_in_the_run_directory_with_the_settings_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_reference(directory: Path, seed: int, *, num_threads: int, progress: object, settings: object) -> Path:
        assert (seed, num_threads, settings) == (3, 1, reference.ReferenceSettings(num_steps=7))
        return directory if directory.exists() else make_folder(directory)

    monkeypatch.setattr(reference, "make_reference", make_reference)
    config = Config(model=ModelConfig(path="tiny"), tiny=TinyConfig(steps=7, torch_threads=1), seed=3)
    info = resolve_model(config, tmp_path)
    assert info.path == str(tmp_path / "reference")
    assert resolve_model(config, tmp_path) == info
