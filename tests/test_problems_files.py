"""Which files a spec means: local ones, globs, and data sets of the hub."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from spo.errors import ConfigError, ProblemError
from spo.problems import load_problems
from spo.problems.data_files import find_files

LINE = '{"id": "%s", "statement": "Do.", "tests": [{"input": "1", "output": "2"}]}\n'


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(LINE % name)


def names(named: str, root: Path, suffixes: tuple[str, ...] = (".jsonl",)) -> list[str]:
    return [str(file.relative_to(root)) for file in find_files(named, suffixes).files]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A hub that has one data set; returns what it was asked for."""
    asked: list[dict[str, Any]] = []
    write(tmp_path / "hub", "data/test-0.jsonl", "data/train-0.jsonl", "data/train-1.jsonl", "README.md")

    def snapshot_download(repo: str, **settings: Any) -> str:
        asked.append({"repo": repo, **settings})
        if repo != "owner/set":
            raise OSError(f"404: no {repo}\nmore")
        return str(tmp_path / "hub")

    module = ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.chdir(tmp_path)
    return asked


def test_a_file_a_folder_with_all_below_it_and_a_glob(tmp_path: Path) -> None:
    write(tmp_path, "b.jsonl", "a.jsonl", "deep/er/c.jsonl", "notes.txt")
    assert names(str(tmp_path / "a.jsonl"), tmp_path) == ["a.jsonl"]
    assert names(str(tmp_path), tmp_path) == ["a.jsonl", "b.jsonl", "deep/er/c.jsonl"]
    assert names(str(tmp_path / "[ab].jsonl"), tmp_path) == ["a.jsonl", "b.jsonl"]
    assert names(str(tmp_path / "**/c.*"), tmp_path) == ["deep/er/c.jsonl"]
    assert names(str(tmp_path / "de*"), tmp_path) == ["deep/er/c.jsonl"]


def test_json_lines_of_a_folder_are_joined_and_a_named_file_may_be_called_as_it_likes(tmp_path: Path) -> None:
    write(tmp_path, "b.jsonl", "a.jsonl", "list.json")
    assert load_problems([f"jsonl:{tmp_path}"]).ids == ["a.jsonl", "b.jsonl"]
    assert load_problems([f"jsonl:{tmp_path / 'list.json'}"]).ids == ["list.json"]


def test_a_hub_id_is_downloaded_with_the_files_that_count(hub: list[dict[str, Any]], tmp_path: Path) -> None:
    assert load_problems(["jsonl:owner/set"]).ids == ["data/test-0.jsonl", "data/train-0.jsonl", "data/train-1.jsonl"]
    assert load_problems(["jsonl:owner/set/data/train-*"]).ids == ["data/train-0.jsonl", "data/train-1.jsonl"]
    assert names("owner/set/data/test-0.jsonl", tmp_path / "hub") == ["data/test-0.jsonl"]
    assert [(one["repo"], one["repo_type"], one["allow_patterns"]) for one in hub] == [
        ("owner/set", "dataset", ["***.jsonl"]),
        ("owner/set", "dataset", ["data/train-**.jsonl"]),
        ("owner/set", "dataset", ["data/test-0.jsonl"]),
    ]


def test_what_the_hub_cannot_give_is_told_with_its_reason(hub: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=r"owner/other is no local path, .*\(404: no owner/other\); download"):
        load_problems(["jsonl:owner/other"])


@pytest.mark.parametrize("named", ["folder/missing", "folder/missing.jsonl", "owner/set.jsonl", "/owner/set", "*"])
def test_what_looks_like_a_path_is_never_asked_of_the_hub(
    named: str, hub: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ProblemError, match="no such file"):
        find_files(named, (".jsonl",)) if named != "*" else find_files("x*", (".jsonl",))
    assert hub == []


def test_without_the_hubs_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"owner/set is no local path; .*pip install 'spo-rl\[data\]'"):
        load_problems(["taco:owner/set"])
