"""The entry of a trainer rank: what is refused, in one line, before anything is started or written."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from spo import train
from spo.config import load_config, write_resolved
from spo.errors import RunFailed


@pytest.fixture(autouse=True)
def first_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No torchrun around, and signal handlers as they were."""
    monkeypatch.delenv("RANK", raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: torchrun"),
        (["no-such-preset"], "no-such-preset: no such preset"),
        (["tiny", "trainer.total_stepz=3"], "trainer: "),
        (["tiny", "trainer.total_steps=many"], "trainer.total_steps: "),
        (["tiny", "problems.train=[]"], "problems.train: "),
        (["tiny", "model.path=./nowhere"], "model.path: ./nowhere is no folder"),
        (["resume=./nowhere"], "resume: "),
    ],
)
def test_bad_input_ends_with_one_line_and_status_2_and_writes_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main(arguments) == train.EXIT_BAD_INPUT
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("spo: error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "something").touch()
    assert train.main(["tiny", f"run_dir={tmp_path}"]) == train.EXIT_BAD_INPUT
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


def test_other_ranks_leave_the_telling_to_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(train, "_LAST_WORDS_S", 0.0)
    assert train.main(["no-such-preset"]) == train.EXIT_BAD_INPUT
    assert capsys.readouterr().err == ""


def test_a_finished_run_shows_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_resolved(load_config("tiny", [f"run_dir={tmp_path}"]), tmp_path)
    (tmp_path / "report.md").write_text("all is well", encoding="utf-8")
    (tmp_path / "report.json").write_text('{"finished": true}', encoding="utf-8")
    assert train.main([f"resume={tmp_path}"]) == 0
    assert capsys.readouterr().out == "all is well\n"


def test_an_orchestrator_that_does_not_start_ends_the_run_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_run_dir: Path) -> None:
        raise RunFailed("network.port: 29600 is taken")

    monkeypatch.setattr(train, "start_orchestrator", refuse)
    monkeypatch.setattr(train, "resolve_model", lambda _config, _run_dir: None)
    assert train.main(["tiny", f"run_dir={tmp_path / 'run'}"]) == train.EXIT_FAILED
    assert capsys.readouterr().err == "spo: error: network.port: 29600 is taken\n"


def test_an_interrupt_ends_the_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "resolve_model", lambda _config, _run_dir: signal.raise_signal(signal.SIGTERM))
    assert train.main(["tiny", f"run_dir={tmp_path / 'run'}"]) == train.EXIT_INTERRUPTED
    assert f"interrupted; go on by `spo train --resume {tmp_path}/run`" in capsys.readouterr().err
    # A repeated signal does not disturb the ending.
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
