"""Pivotal Token Search through worker processes, from the command to the batches that carry its counts.

The fake engine knows the solutions: a quarter of its answers are right, and right ones part from wrong ones at one
byte. So it is known which token is pivotal.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import trio
from run_peers import ScriptedTrainer, make_run, orchestrate

from spo.cli import main
from spo.config import Config, read_resolved
from spo.consumption import ConsumptionLog
from spo.errors import RunFailed
from spo.orchestrator.bisection import SearchSettings
from spo.orchestrator.pivotal import Continuations, Searched, search_trajectories
from spo.orchestrator.records import changed
from spo.orchestrator.sampling import run_sampling, sampling_session
from spo.orchestrator.session import SamplingSession
from spo.problems import Problems
from spo.rundir import read_model
from spo.sampling_setup import training_problems
from spo.store import Trajectory, TrajectoryStore
from spo.types import PREFIX_KEY

FAKE = (
    *("workers.engine=fake", "workers.max_batch_size=16", "workers.num_workers=1"),
    *("batch.token_budget=4096", "sampling.max_new_tokens=2000", "values.num_samples=16", "problems.evaluation=[]"),
    *("evaluation.interval=0", "network.stall_timeout_s=120", "trainer.total_steps=3"),
)
PIVOTAL_BYTE = len(b"```python\nprint(")
"""The next byte tells `print(3)` from `print(-1 - 3)`."""
SEARCH = SearchSettings(num_rollouts=24, threshold=0.4, budget=480)


@pytest.fixture(autouse=True)
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spo.plots.draw_plots", lambda run_dir, directory: [])


def fake_run(folder: Path) -> tuple[Path, Config, Problems]:
    run_dir = make_run(folder, *FAKE, tokenizer="bytes")
    config = read_resolved(run_dir)
    return run_dir, config, training_problems(config)


async def sampled(session: SamplingSession, problems: Problems, source: str = "online") -> list[Trajectory]:
    """A few responses to each problem."""
    found: list[Trajectory] = []
    for number, problem_id in enumerate(problems.ids):
        seeds = [1000 * number + index for index in range(32)]
        found += [item for item in await session.sample(problem_id, seeds=seeds, source=source) if item]
    return found


def control_has_rollouts_instead(tmp_path: Path, mixed: tuple[str, ...]) -> None:
    """The control has the search's rollouts in the place of the trajectories with targets."""
    settings = ("batch.online_fraction=0.75", "experience.annotated=rollouts")
    control = make_run(tmp_path, *FAKE, *mixed, *settings, tokenizer="bytes", name="control")
    trainer = ScriptedTrainer(control, total_steps=3)
    orchestrate(control, trainer)
    log = ConsumptionLog(control)
    with TrajectoryStore.open(control / "store", "r") as store:
        for step in (1, 2, 3):
            names = [name for name, count in log[step].sources for _ in range(count)]
            assert Counter(names) == {"online": 6, "annotated": 2}
            for id, name in zip(log[step].ids, names, strict=True):
                assert store[id].source == ("pivotal" if name == "annotated" else "online")
    assert all(not batch.mc_rollouts for batch in trainer.batches.values())


def test_from_the_command_to_batches_with_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, config, problems = fake_run(tmp_path)

    async def fill_store() -> None:
        async with sampling_session(config, read_model(run_dir), problems) as session:
            with TrajectoryStore.open(run_dir / "store", tokenizer="bytes") as store:
                store.append(await sampled(session, problems))

    run_sampling(fill_store)
    options = ["--rollouts", "24", "--threshold", "0.4", "--per-problem", "1"]
    command = ["values", "pivotal", str(run_dir), *options, "--json"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["searched"] == 6
    for row in report["trajectories"]:
        (token,) = row["pivotal"]
        assert token["position"] == PIVOTAL_BYTE
        assert token["after"] == 1.0
        assert 0.0 <= token["before"] < 0.7
        assert row["is_complete"]
    with TrajectoryStore.open(run_dir / "store", "r") as store:
        rollouts = store.read_many(store.scan(source="pivotal"))
        annotated = store.scan(has=["mc_successes"])
        assert sorted(annotated) == [row["id"] for row in report["trajectories"]]
        positions, successes, trials = store[annotated[0]].mc_successes or ([], [], [])
    assert (positions[0], set(trials)) == (0, {24})
    assert successes[list(positions).index(PIVOTAL_BYTE + 1)] == 24
    assert len(rollouts) == report["rollouts_sampled"]
    assert len({item.seed for item in rollouts}) == len(rollouts)
    assert {int(item.metadata[PREFIX_KEY]) for item in rollouts} >= {0, PIVOTAL_BYTE, PIVOTAL_BYTE + 1}
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["searched"] == 0

    mixed = ("batch.annotated_fraction=0.25", f'experience.stores=["{run_dir}"]', "objective.name=mc_q")
    trained = make_run(tmp_path, *FAKE, *mixed, "batch.online_fraction=0.5", tokenizer="bytes", name="trained")
    trainer = ScriptedTrainer(trained, total_steps=3)
    orchestrate(trained, trainer)
    assert trainer.finished
    for batch in trainer.batches.values():
        assert Counter(batch.sources) == {"online": 4, "offline": 2, "annotated": 2}
        shape = (batch.num_rows, batch.num_tokens)
        successes_RT, trials_RT = (
            np.frombuffer(column, "<u2").reshape(shape) for column in (batch.mc_successes, batch.mc_rollouts)
        )
        segments_RT = np.frombuffer(batch.segment_ids, "<i4").reshape(shape)
        assert {batch.sources[index] for index in segments_RT[trials_RT > 0]} == {"annotated"}
        assert set(trials_RT[trials_RT > 0]) == {24}
        assert (successes_RT <= trials_RT).all()

    control_has_rollouts_instead(tmp_path, mixed)


def test_a_search_is_repeatable_and_goes_on_with_what_an_interrupted_one_has_sampled(tmp_path: Path) -> None:
    run_dir, config, problems = fake_run(tmp_path)
    model = read_model(run_dir)
    found: list[list[Searched]] = []
    numbers: list[tuple[int, int]] = []

    async def search_in(session: SamplingSession, folder: str, items: list[Trajectory]) -> list[Trajectory]:
        done: list[Searched] = []
        with TrajectoryStore.open(tmp_path / folder, tokenizer="bytes") as store:
            ids = store.append(items)
            chosen = [id for id in ids if store[id].source == "online" and store[id].reward == 0.0]
            continuations = Continuations(session, store, SEARCH.num_rollouts)
            await trio.to_thread.run_sync(continuations.scan, problems.ids)
            await search_trajectories(store, chosen, continuations, SEARCH, 4, done.append)
            found.append(sorted(done, key=lambda one: one.id))
            numbers.append((continuations.num_sampled, continuations.num_reused))
            return list(store.read_many(store.scan(source="pivotal")))

    async def main() -> None:
        async with sampling_session(config, model, problems) as session:
            items = await sampled(session, problems)
            rollouts = await search_in(session, "first", items)
            half = len(rollouts) // 2
            foreign = [changed(one, seed=one.seed ^ 1) for one in rollouts[half:]]  # Of another reference, say.
            await search_in(session, "second", [*items, *rollouts[:half]])
            await search_in(session, "third", [*items, *foreign])

    run_sampling(main)
    assert [(one.id, one.result.counts) for one in found[0]] == [(one.id, one.result.counts) for one in found[1]]
    assert all([token.position for token in one.result.pivotal] == [PIVOTAL_BYTE] for one in found[0])
    (sampled_first, shared), (sampled_second, _), (sampled_third, _) = numbers
    assert sampled_second == sampled_first - sampled_first // 2
    assert sampled_third == sampled_first
    # Trajectories of a problem begin alike: what they share is sampled once.
    assert shared > 0
    total = sum(one.num_samples for each in found[0] for one in each.result.counts.values())
    assert sampled_first + shared == total
    assert all(len(one.result.counts) * SEARCH.num_rollouts <= SEARCH.budget for one in found[0])


def test_another_prompt_than_the_stored_one_is_refused(tmp_path: Path) -> None:
    run_dir, config, problems = fake_run(tmp_path)

    async def main() -> None:
        async with sampling_session(config, read_model(run_dir), problems) as session:
            (item, *_) = [one for one in await sampled(session, problems) if one.reward == 0.0]
            other = Trajectory(
                problem_id=item.problem_id,
                prompt_tokens=[1, 2, 3],
                response_tokens=item.response_tokens,
                reward=0.0,
                verdict="accepted",
                source="online",
            )
            with TrajectoryStore.open(tmp_path / "other", tokenizer="bytes") as store:
                continuations = Continuations(session, store, 2)
                await search_trajectories(store, store.append([other]), continuations, SEARCH, 1, lambda _: None)

    with pytest.raises(RunFailed, match="has another prompt than the workers give"):
        run_sampling(main)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["estimate"], "give one preset, TOML file or run directory"),
        (["estimate", "tiny", "values.interval_width=2"], "values.interval_width"),
        (["estimate", "tiny", "problems.train=[]"], "problems.train: there are none"),
        (["pivotal", "nowhere"], "nowhere is neither a run directory nor a trajectory store"),
        (["pivotal", "store"], "is of no run: also name the preset"),
        (["pivotal", "store", "tiny", "--budget", "3"], "--budget 3 is less than --rollouts 10"),
        (["show", "store", "0"], "has no counts; search it by `spo values pivotal`"),
        (["show"], "there is no run in runs/"),
    ],
)
def test_bad_input_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with TrajectoryStore.open(tmp_path / "store", tokenizer="bytes") as store:
        (first,) = store.append([Trajectory("p", [1], [2], 0.0, "accepted", "online")])
    assert main(["values", *(str(first) if word == "0" else word for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("spo: error: ")
    assert reason in line
