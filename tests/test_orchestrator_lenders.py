"""Q̂_0 of problems that another set of problems, or a run elsewhere, has samples of: they are not sampled again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest
from run_peers import TOKENIZER, ScriptedTrainer, ScriptedWorker, make_run, orchestrate

from spo.errors import RunFailed
from spo.orchestrator.lenders import CONTENT_FILE
from spo.store import TrajectoryStore
from spo.values import ValueCounts, key_folders

NO_SAMPLING = ("batch.online_fraction=0.0", "workers.num_workers=0", "problems.evaluation=[]")


@pytest.fixture(autouse=True)
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take seconds and are tested in test_report.py."""
    monkeypatch.setattr("spo.plots.draw_plots", lambda run_dir, directory: [])


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A finished run, with its six problems and 72 reference samples."""
    run_dir = make_run(tmp_path, "problems.evaluation=[]", "trainer.total_steps=4")
    orchestrate(run_dir, ScriptedTrainer(run_dir, total_steps=4), ScriptedWorker(run_dir))
    return run_dir


def problem_file(earlier: Path, name: str, lines: slice, change: str = "") -> str:
    """Some of the run's problems as another set."""
    kept = (earlier.parent / "train.jsonl").read_text().splitlines()[lines]
    path = earlier.parent / name
    path.write_text("\n".join(kept).replace("Print 4.", change or "Print 4."))
    return f'problems.train=["jsonl:{path}"]'


def counts_in(directory: Path) -> dict[str, tuple[int, int]]:
    """Successes and samples by problem, of the one key there."""
    (folder,) = key_folders(directory)
    counts = ValueCounts.load(folder / "counts.json").as_dict()
    return {id: (one.successes, one.num_samples) for id, one in counts.items()}


def num_sampled(worker: ScriptedWorker) -> Counter[str]:
    """Reference samples that a worker was asked for, by problem."""
    asked = ((work.problem_id, len(work.seeds)) for work in worker.done if work.source == "reference")
    return sum((Counter({problem: count}) for problem, count in asked), Counter())


def test_a_subset_of_an_earlier_runs_problems_is_trained_on_without_any_sampling(earlier: Path) -> None:
    settings = (problem_file(earlier, "some.jsonl", slice(1, 4)), f'experience.stores=["{earlier}"]', *NO_SAMPLING)
    elsewhere = f"values.directory={earlier.parent / 'elsewhere'}"
    run_dir = make_run(earlier.parent, *settings, elsewhere, "trainer.total_steps=4", name="second")
    trainer = ScriptedTrainer(run_dir, total_steps=4)
    orchestrate(run_dir, trainer)
    assert trainer.finished
    first = counts_in(earlier.parent / "values")
    assert counts_in(earlier.parent / "elsewhere") == {id: first[id] for id in ("train1", "train2", "train3")}


def test_only_what_is_new_in_a_larger_set_is_sampled_and_what_was_taken_over_can_be_taken_over_again(
    earlier: Path,
) -> None:
    settings = [problem_file(earlier, "some.jsonl", slice(0, 5)), "problems.evaluation=[]", "trainer.total_steps=2"]
    for name in ("second", "third"):
        directory = f"values.directory={earlier.parent / name}-values"
        stores = f'experience.stores=["{earlier if name == "second" else earlier.parent / "second"}"]'
        run_dir = make_run(earlier.parent, *settings, directory, stores, name=name)
        worker = ScriptedWorker(run_dir)
        orchestrate(run_dir, ScriptedTrainer(run_dir, total_steps=2), worker)
        assert num_sampled(worker) == Counter()
    larger = make_run(
        earlier.parent,
        f'problems.train=["jsonl:{earlier.parent / "train.jsonl"}"]',
        "problems.evaluation=[]",
        "trainer.total_steps=2",
        f"values.directory={earlier.parent / 'third'}-values",
        name="larger",
    )
    worker = ScriptedWorker(larger)
    orchestrate(larger, ScriptedTrainer(larger, total_steps=2), worker)
    assert num_sampled(worker) == Counter({"train5": 12})


def test_a_problem_whose_text_has_changed_is_sampled_anew(earlier: Path) -> None:
    changed = problem_file(earlier, "changed.jsonl", slice(3, 6), change="Print four.")
    run_dir = make_run(earlier.parent, changed, "problems.evaluation=[]", "trainer.total_steps=2", name="second")
    worker = ScriptedWorker(run_dir)
    orchestrate(run_dir, ScriptedTrainer(run_dir, total_steps=2), worker)
    assert num_sampled(worker) == Counter({"train4": 12})


@pytest.mark.parametrize("change", ["sampling.max_new_tokens=40", "workers.dtype=bfloat16", "another template"])
def test_samples_of_another_sampler_or_template_are_not_taken_over(earlier: Path, change: str) -> None:
    settings = (problem_file(earlier, "some.jsonl", slice(1, 4)), "problems.evaluation=[]", "trainer.total_steps=2")
    run_dir = make_run(earlier.parent, *settings, *([change] if "=" in change else []), name="second")
    worker = ScriptedWorker(run_dir, prompt_template="plain" if "=" in change else "other")
    orchestrate(run_dir, ScriptedTrainer(run_dir, total_steps=2), worker)
    assert num_sampled(worker) == Counter({"train1": 12, "train2": 12, "train3": 12})


def test_too_few_samples_of_an_earlier_run_are_counted_where_there_is_no_worker(earlier: Path) -> None:
    settings = (problem_file(earlier, "some.jsonl", slice(0, 2)), f'experience.stores=["{earlier}"]', *NO_SAMPLING)
    run_dir = make_run(earlier.parent, *settings, "values.num_samples=20", name="second")
    with pytest.raises(RunFailed, match=r"has 24 of 40 samples; lower values\.num_samples"):
        orchestrate(run_dir)


def test_samples_of_a_text_that_changed_under_the_same_tests_are_lent_to_nobody(earlier: Path) -> None:
    (folder,) = key_folders(earlier.parent / "values")
    changed = problem_file(earlier, "changed.jsonl", slice(0, 6), change="Print four.")
    run_dir = make_run(earlier.parent, changed, *NO_SAMPLING, "trainer.total_steps=2", name="second")
    orchestrate(run_dir, ScriptedTrainer(run_dir, total_steps=2))
    digests = msgspec.json.decode((folder / CONTENT_FILE).read_bytes(), type=dict[str, str])
    assert [id for id, digest in digests.items() if not digest] == ["train4"]
    with TrajectoryStore.open(folder / "store", mode="r", tokenizer=TOKENIZER) as store:
        assert len(store) == 72
