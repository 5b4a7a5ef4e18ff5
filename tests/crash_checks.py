"""What must be true of a run that was killed and resumed, however often; used by `crash_run.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spo.config import read_resolved
from spo.jsonl import read_lineage, read_lines
from spo.orchestrator.online import WORK_KEY
from spo.store import Trajectory, TrajectoryStore

Seen = dict[int, tuple[bytes, int, float]]
"""Stored trajectories: content hash, seed and reward by id."""
LOSS = "loss/objective"


def look(run_dir: Path) -> Seen:
    """What is in a run's store; nothing before there is one."""
    if not (run_dir / "store" / "store.spo").is_file():
        return {}
    return {id: (one.content_hash, one.seed, one.reward) for id, one in _stored(run_dir / "store")}


def _stored(store: Path, source: str | None = None) -> list[tuple[int, Trajectory]]:
    with TrajectoryStore.open(store, mode="r") as opened:
        ids = opened.scan(source=source)
        return list(zip(ids, opened.read_many(ids), strict=True))


def check_run(run_dir: Path, seen: Seen, steps: int) -> dict[str, int]:
    """Checks a finished run; returns what there was of it.

    Args:
        run_dir: The run.
        seen: What was in its store at any time before.
        steps: How many it had to do.
    """
    now = look(run_dir)
    lost = {id: what for id, what in seen.items() if now.get(id) != what}
    assert not lost, f"were in the store, and are no more or are others: {lost}"
    online = _stored(run_dir / "store", "online")
    _check_work(run_dir, [one for _, one in online])
    _check_values(run_dir)
    _check_batches(run_dir, dict(online), steps)
    _check_journals(run_dir, steps)
    _check_leftovers(run_dir)
    return {"online": len(online), "stored": len(now), "steps": steps}


def _check_work(run_dir: Path, online: Sequence[Trajectory]) -> None:
    """Each number's responses are there, each once."""
    config = read_resolved(run_dir)
    assert max(Counter(one.seed for one in online).values()) == 1, "a rollout was repeated"
    numbers = Counter(int(one.metadata[WORK_KEY]) for one in online)
    assert set(numbers) == set(range(len(numbers))), f"work was lost: {sorted(numbers)}"
    assert set(numbers.values()) == {config.sampling.samples_per_problem}, numbers
    problems = {(one.metadata[WORK_KEY], one.problem_id) for one in online}
    assert len(problems) == len(numbers), "work was done of two problems"


def _check_values(run_dir: Path) -> None:
    config = read_resolved(run_dir)
    (folder,) = Path(config.values.directory).iterdir()
    samples = [one for _, one in _stored(folder / "store")]
    assert max(Counter(one.seed for one in samples).values()) == 1, "a reference sample was repeated"
    assert set(Counter(one.problem_id for one in samples).values()) == {config.values.num_samples}


def _check_batches(run_dir: Path, online: dict[int, Trajectory], steps: int) -> None:
    """Every step has one batch, of stored trajectories that were young and unused enough."""
    config, lines = read_resolved(run_dir), read_lines(run_dir / "consumption.jsonl")
    assert [line.get("step") for line in lines] == list(range(1, steps + 1)), "steps are twice in the log, or undone"
    stored, uses = look(run_dir), Counter[int]()
    for line in lines:
        assert len(set(line["ids"])) == config.batch.num_trajectories
        for id, count in zip(line["ids"], line["uses"], strict=True):
            assert id in stored
            if id not in online:
                continue
            uses[id] += 1
            assert count == uses[id] <= config.replay.max_uses
            staleness = max(0, line["step"] - 1 - online[id].min_policy_version)
            assert staleness <= line["max_staleness"] <= config.replay.max_staleness


def _check_journals(run_dir: Path, steps: int) -> None:
    metrics = read_lineage(run_dir / "metrics.jsonl")
    trained = [line["step"] for line in metrics if LOSS in line]
    assert trained == list(range(1, steps + 1)), trained
    rounds = [line["round"] for line in read_lineage(run_dir / "evaluations.jsonl")]
    assert (rounds[0], rounds[-1]) == ("reference", "final")
    assert len(set(rounds)) == len(rounds)
    evaluated = [one for _, one in _stored(run_dir / "store", "evaluation")]
    for name in ("reference", "final"):
        of_round = [one.seed for one in evaluated if one.metadata["round"] == name]
        # A last round that is begun anew may be of other weights' samples: none of the same.
        assert len(set(of_round)) == len(of_round), f"samples of the {name} evaluation were repeated"


def _check_leftovers(run_dir: Path) -> None:
    names = {path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*")}
    left = [name for name in names if "partial" in name or "tmp" in name or name.endswith(".address")]
    assert not left, f"left behind: {left}"


def losses(run_dir: Path) -> dict[int, dict[str, Any]]:
    """What the trainer told of each step that a replay must repeat."""
    lines = (line for line in read_lineage(run_dir / "metrics.jsonl") if LOSS in line)
    return {
        line["step"]: {name: value for name, value in line.items() if name.startswith(("loss/", "policy/", "grad"))}
        for line in lines
    }


def check_replay(run_dir: Path, replay_dir: Path, steps: int) -> None:
    """Checks that a replay came to the same losses and the same policy, bit for bit."""
    then, now = losses(run_dir), losses(replay_dir)
    assert list(now) == list(range(1, steps + 1))
    assert now == {step: then[step] for step in now}, "losses of the replay are others"
    if steps == len(then):
        policies = [(folder / "policy" / "model.safetensors").read_bytes() for folder in (run_dir, replay_dir)]
        assert policies[0] == policies[1], "the replay's policy is another"
