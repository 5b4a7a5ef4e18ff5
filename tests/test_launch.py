"""Run directories and starting the orchestrator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spo.config import Config, load_config, read_resolved
from spo.errors import ConfigError, RunFailed
from spo.jsonl import Journal, read_lineage, read_lines
from spo.launch import finished_report, last_line, prepare_run, resumed_config, start_orchestrator
from spo.locks import RunLock
from spo.rundir import read_run
from spo.wire import read_token


def settings(folder: Path, *overrides: str) -> Config:
    return load_config("tiny", [f"run_dir={folder / 'runs' / 'one'}", *overrides])


def test_a_run_directory_holds_resolved_settings_a_token_and_how_it_was_started(tmp_path: Path) -> None:
    run_dir = prepare_run(settings(tmp_path, "seed=7"), argv=["spo", "train", "tiny"])
    resolved = read_resolved(run_dir)
    assert resolved.seed == 7
    assert resolved.run_dir == str(run_dir)
    assert resolved.values.directory == str(tmp_path / "runs" / "values")
    info = read_run(run_dir)
    assert (info.argv, info.num_sessions, info.elapsed_before_s) == (["spo", "train", "tiny"], 1, 0.0)
    assert info.versions["python"] == sys.version.split()[0]
    assert len(read_token(run_dir)) == 32
    assert (run_dir / "token").stat().st_mode & 0o077 == 0


def test_paths_are_made_absolute_so_that_a_run_is_resumed_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "some.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    config = load_config("tiny", ["run_dir=run", "model.path=model", 'problems.train=["jsonl:some.jsonl", "builtin"]'])
    resolved = read_resolved(prepare_run(config))
    assert resolved.model.path == str(tmp_path / "model")
    assert resolved.problems.train == (f"jsonl:{tmp_path / 'some.jsonl'}", "builtin")


def test_an_existing_run_is_refused_unless_resumed(tmp_path: Path) -> None:
    run_dir = prepare_run(settings(tmp_path))
    (run_dir / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"run_dir: .* exists already; .*--resume"):
        prepare_run(settings(tmp_path))
    assert prepare_run(resumed_config(run_dir), resume=True) == run_dir
    assert read_run(run_dir).num_sessions == 2


def test_a_start_that_failed_before_anything_was_done_is_no_run(tmp_path: Path) -> None:
    prepare_run(settings(tmp_path))
    assert read_run(prepare_run(settings(tmp_path))).num_sessions == 1


def test_wall_time_counts_what_earlier_sessions_took_up_to_their_last_line(tmp_path: Path) -> None:
    run_dir = prepare_run(settings(tmp_path))
    journal = Journal(run_dir / "metrics.jsonl")
    journal.append({"step": 3, "time/wall_s": 120.5})
    journal.close()
    info = read_run(prepare_run(resumed_config(run_dir), resume=True))
    assert info.elapsed_before_s == 120.5
    assert 120.5 <= info.wall_time_s() < 180


def test_what_is_no_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        resumed_config(tmp_path)
    with pytest.raises(ConfigError, match=r"run\.json: not found"):
        prepare_run(settings(tmp_path), resume=True)


def test_a_resumed_run_takes_changed_settings(tmp_path: Path) -> None:
    run_dir = prepare_run(settings(tmp_path))
    assert resumed_config(run_dir, ["trainer.total_steps=999"]).trainer.total_steps == 999
    with pytest.raises(ConfigError, match="trainer"):
        resumed_config(run_dir, ["trainer.nothing=1"])


@pytest.mark.parametrize("place", ["file/run", "/proc/nowhere/run"])
def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run_dir: .* cannot be written .*choose another by run_dir=PATH"):
        prepare_run(load_config("tiny", [f"run_dir={tmp_path / place}"]))


def test_only_a_finished_run_has_a_finished_report(tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("# so far")
    assert finished_report(tmp_path) is None
    (tmp_path / "report.json").write_text(json.dumps({"finished": False}))
    assert finished_report(tmp_path) is None
    (tmp_path / "report.json").write_text(json.dumps({"finished": True}))
    assert finished_report(tmp_path) == "# so far"


def test_the_last_error_line_of_a_log_says_why(tmp_path: Path) -> None:
    log = tmp_path / "some.log"
    assert last_line(log) == "(no log)"
    log.write_text("starting\nspo: error: the disk is full\nTraceback of something else\n")
    assert last_line(log) == "the disk is full"
    log.write_text("starting\nKilled\n")
    assert last_line(log) == "Killed"


def test_an_orchestrator_that_cannot_start_says_why_through_its_starter(tmp_path: Path) -> None:
    run_dir = prepare_run(settings(tmp_path))
    with pytest.raises(RunFailed, match=r"model\.json: not found"):
        start_orchestrator(run_dir)


def test_a_run_in_use_is_refused_until_its_holder_is_gone(tmp_path: Path) -> None:
    script = "import sys, time; from pathlib import Path; from spo.locks import RunLock; "
    script += "lock = RunLock(Path(sys.argv[1]), 'trainer'); print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"in use, its trainer runs as process {holder.pid}"):
        RunLock(tmp_path, "trainer")
    holder.kill()
    holder.wait()
    holder.stdout.close()
    lock = RunLock(tmp_path, "trainer", timeout_s=5)
    lock.release()
    lock.release()


def test_a_journal_cut_off_in_a_line_goes_on_in_the_next(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append({"step": 1})
    journal.append({"step": 2}, durable=True)
    journal.close()
    os.truncate(path, path.stat().st_size - 4)
    assert read_lines(path) == [{"step": 1}]
    journal = Journal(path)
    journal.append({"step": 3})
    journal.close()
    assert read_lines(path) == [{"step": 1}, {"step": 3}]


def test_the_lineage_leaves_out_what_a_resume_undid(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for line in ({"phase": "reference"}, {"step": 1}, {"step": 2, "try": 1}, {"step": 3, "try": 1}):
        journal.append(line)
    journal.mark_resumed(1)
    journal.append({"step": 2, "try": 2})
    journal.close()
    assert read_lineage(tmp_path / "journal.jsonl") == [{"phase": "reference"}, {"step": 1}, {"step": 2, "try": 2}]
