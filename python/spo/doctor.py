"""`spo doctor`: what this host and installation offer, and what is missing for what."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spo.errors import JudgeError
from spo.rundir import installed_versions, source_commit

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_CUDA_PROBE = (
    "import torch; n = torch.cuda.device_count(); "
    "print(', '.join(torch.cuda.get_device_name(i) for i in range(n)) or 'none: training and sampling run on the CPU')"
)
_PROBE_TIMEOUT_S = 60.0
Finding = tuple[bool, str]
"""Whether all is well, and what was found."""


def register(subparsers: Subparsers) -> None:
    """Adds the `doctor` command."""
    text = "show what this host and installation offer"
    parser = subparsers.add_parser("doctor", help=text, description=f"{text.capitalize()}.")
    parser.set_defaults(run=_run)


def _run(_options: argparse.Namespace) -> int:
    """Prints the findings; exit status 1 if something that every run needs is missing."""
    table = Table(show_header=False, box=None, padding=(0, 1))
    all_well = True
    for name, find in _CHECKS.items():
        well, found = find()
        all_well = all_well and well
        table.add_row("[green]ok[/]" if well else "[red]!![/]", name, escape(found))
    Console().print(table)
    return 0 if all_well else 1


def _versions() -> Finding:
    return True, ", ".join(f"{name} {version}" for name, version in installed_versions().items())


def _commit() -> Finding:
    return True, source_commit()


def _processors() -> Finding:
    return True, f"{len(os.sched_getaffinity(0))} cores for this process"


def _training() -> Finding:
    missing = [name for name in ("torch", "transformers", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        return False, f"{', '.join(missing)} not installed; for training: pip install 'spo-rl[train]'"
    return True, "torch and transformers are installed"


def _devices() -> Finding:
    """Asked in another process: the judge must never run beside a CUDA context."""
    if importlib.util.find_spec("torch") is None:
        return True, "unknown without torch"
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _CUDA_PROBE], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return False, f"torch did not answer within {_PROBE_TIMEOUT_S:.0f} s"
    if probe.returncode != 0:
        return False, f"torch fails: {(probe.stderr.strip().splitlines() or ['no message'])[-1]}"
    return True, probe.stdout.strip()


def _plots() -> Finding:
    missing = [name for name in ("matplotlib", "tensorboard") if importlib.util.find_spec(name) is None]
    if missing:
        return True, f"without {' and '.join(missing)}; for plots and TensorBoard: pip install 'spo-rl[plot]'"
    return True, "matplotlib and tensorboard are installed"


def _judge() -> Finding:
    from spo.judge import Judge, TestCase

    try:
        with Judge(num_workers=1) as judge:
            judgement = judge.judge("print(int(input()) * 2)", [TestCase(input="21\n", output="42\n")])
    except JudgeError as error:
        return False, str(error)
    layers = ", ".join(judgement.isolation_layers)
    text = f"isolation tier {judgement.isolation_tier} ({layers}); a right program is judged {judgement.verdict.value}"
    return judgement.verdict.value == "accepted", text


def _judge_memory() -> Finding:
    from spo.judge import Judge, TestCase

    try:
        with Judge(num_workers=1) as judge:
            accounting = judge.judge("print()", [TestCase()]).memory_accounting
    except JudgeError:
        return True, "no sandbox"
    if accounting.startswith("cgroup"):
        name = accounting.replace("_", " ")
        return True, f"{name}: the kernel counts all that a program uses, and ends what exceeds the limit"
    _, _, reason = accounting.partition(" ")
    text = (
        f"resource limits, no cgroup {reason}: a program is found out at its end, when it may have used 320 MB more, "
        "memory of the kernel is not counted, and what a program reserves counts as if it used it"
    )
    return True, text


def _cpp() -> Finding:
    from spo.judge import Judge, TestCase

    program = '#include <cstdio>\nint main() { int n; scanf("%d", &n); printf("%d", 2 * n); }'
    try:
        with Judge(num_workers=1) as judge:
            judgement = judge.judge(program, [TestCase(input="21\n", output="42\n")], language="cpp")
    except JudgeError as error:
        return True, f"cannot be judged: {error}"
    text = f"C++17: a right program is judged {judgement.verdict.value} {judgement.message}".strip()
    return judgement.verdict.value == "accepted", text


_CHECKS: dict[str, Callable[[], Finding]] = {
    "versions": _versions,
    "commit": _commit,
    "processors": _processors,
    "training": _training,
    "CUDA devices": _devices,
    "plots": _plots,
    "judge": _judge,
    "judge, memory": _judge_memory,
    "judge, C++": _cpp,
}
