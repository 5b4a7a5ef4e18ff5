"""The `spo` command: what it refuses, in one line, and that nothing is left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spo.cli import main
from spo.config import load_config
from spo.rundir import prepare_run
from spo.train_cli import Child

MISTAKES = {
    "no preset": ([], "give a preset or a TOML file first"),
    "an override first": (["seed=1"], "give a preset or a TOML file first"),
    "an unknown preset": (["tinny"], "the presets are"),
    "an unknown field": (["tiny", "batch.size=3"], "unknown field `size`"),
    "an ill-typed field": (["tiny", "trainer.total_steps=many"], "trainer.total_steps"),
    "no problems": (["tiny", "problems.train=[]"], "problems.train"),
    "problems that do not exist": (["tiny", 'problems.train=["jsonl:/nowhere.jsonl"]'], "/nowhere.jsonl"),
    "nothing to resume": (["--resume", "/nowhere"], "holds no run"),
    "no ranks": (["tiny", "--nproc-per-node", "0"], "--nproc-per-node"),
    "a setting behind an option": (["tiny", "seed=1", "--nproc-per-node", "2", "batch.size=3"], "unknown field `size`"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_input_is_one_line_and_exit_status_2(mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, expected = MISTAKES[mistake]
    assert main(["train", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("spo: error: ")
    assert expected in line


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        main(["train", "tiny", "--sede=1"])
    assert ending.value.code == 2
    assert "unrecognized arguments: --sede=1" in capsys.readouterr().err


def test_a_problem_file_with_a_hole_is_named_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "holes.jsonl"
    path.write_text(json.dumps({"id": "a", "dataset": "test", "statement": "Do it.", "tests": []}) + "\n")
    assert main(["train", "tiny", f'problems.train=["jsonl:{path}"]']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path}:1" in line
    assert "tests" in line


def test_an_existing_run_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = prepare_run(load_config("tiny", [f"run_dir={tmp_path / 'run'}"]))
    (run_dir / "model.json").write_text("{}")
    assert main(["train", "tiny", f"run_dir={run_dir}"]) == 2
    assert "exists already; continue that run by `spo train --resume" in capsys.readouterr().err


def test_all_commands_explain_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "report", "problems", "judge", "store", "doctor"):
        with pytest.raises(SystemExit) as ending:
            main([command, "--help"])
        assert ending.value.code == 0
        assert f"spo {command}" in capsys.readouterr().out


def test_the_doctor_finds_the_judge_working(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "a right program is judged accepted" in shown


def test_a_childs_exit_status_is_ours_and_its_launchers_noise_is_not(capfd: pytest.CaptureFixture[str]) -> None:
    script = (
        "import sys; print('spo: error: no such model', file=sys.stderr); print('noise', file=sys.stderr); sys.exit(3)"
    )
    assert Child([sys.executable, "-c", script], hush=True).run() == 3
    assert capfd.readouterr().err == "spo: error: no such model\n"


def test_an_interruption_reaches_the_child_once_and_leaves_nothing_running(tmp_path: Path) -> None:
    grandchild = tmp_path / "grandchild"
    inner = f"import os, time; open({str(grandchild)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    child = (
        "import signal, subprocess, sys, time\n"
        "try:\n"
        f"    subprocess.Popen([sys.executable, '-c', {inner!r}])\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt: sys.exit(7)\n"
    )
    script = f"import sys; from spo.train_cli import Child; sys.exit(Child([sys.executable, '-c', {child!r}]).run())"
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 30
    while not (grandchild.exists() and grandchild.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 7
    deadline = time.monotonic() + 10
    while _is_running(int(grandchild.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_base_of_the_command_imports_no_torch() -> None:
    script = (
        "import sys; import spo.cli, spo.orchestrator.run, spo.launch, spo.report, spo.doctor, spo.train_cli; "
        "spo.cli._parser(); bad = {'torch', 'transformers', 'vllm'} & set(sys.modules); assert not bad, bad"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env=environment)
