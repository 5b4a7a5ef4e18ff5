"""Collecting offline trajectories: human solutions, samples, other stores; killed and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from run_peers import TOKENIZER, ScriptedWorker, write_problems

from spo.collect.collection import Collection, check_place
from spo.collect.human import collect_human
from spo.collect.samples import collect_samples
from spo.collect.stores import Regrader, collect_store
from spo.config import load_config
from spo.errors import ConfigError, StoreError
from spo.judge import Judge
from spo.orchestrator.sampling import sampling_session
from spo.orchestrator.session import SamplingSession
from spo.problems import Problem, Problems, ProblemTest, Solution, extract_code, load_problems
from spo.rollout.fake import END_TOKEN, FakeCodec
from spo.rollout.grading import Grader
from spo.rundir import ModelInfo
from spo.store import Trajectory, TrajectoryStore

DOUBLE = Problem(
    "p/double",
    "p",
    "Print twice the number.",
    (ProblemTest("2\n", "4\n"), ProblemTest("5\n", "10\n")),
    solutions=(
        Solution("python", "print(int(input()) * 2)\n", True),
        Solution("cpp", "int main() {}", True),
        Solution("python", "print(4)  # ```\n", False),
        Solution("python", 's = """\n```\n"""\nprint(2 * int(input()))', True),
        Solution("python", "print(int(input()) * 2)\n", True),
    ),
)
TRIPLE = Problem(
    "p/triple",
    "p",
    "Print three times the number.",
    (ProblemTest("2\n", "6\n"),),
    solutions=(Solution("python", "print(int(input()) * 2)", True), Solution("python", "print(6)", False)),
)


def problems_of(tmp_path: Path, *problems: Problem) -> Problems:
    (tmp_path / "problems.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(problems))
    return load_problems([f"jsonl:{tmp_path / 'problems.jsonl'}"])


def stored(directory: Path) -> list[Trajectory]:
    with TrajectoryStore.open(directory / "store", "r") as store:
        return list(store.read_many(store.scan()))


@pytest.fixture(scope="module")
def judge() -> Judge:
    with Judge(num_workers=2) as judge:
        yield judge


async def human(
    collection: Collection, problems: Problems, judge: Judge, budget: int = 10_000, most: int = 100
) -> None:
    await collect_human(collection, problems, FakeCodec(), Grader(judge, 1 << 20), budget, most)


async def test_human_solutions_become_what_a_model_would_have_answered_and_are_judged(
    tmp_path: Path, judge: Judge
) -> None:
    collection = Collection(tmp_path / "c", "bytes")
    await human(collection, problems_of(tmp_path, DOUBLE, TRIPLE), judge)
    collection.close()
    items = stored(tmp_path / "c")
    assert sorted((item.problem_id, item.verdict, item.reward, item.metadata["known"]) for item in items) == [
        ("p/double", "accepted", 0.0, "right"),
        ("p/double", "accepted", 0.0, "right"),
        ("p/double", "wrong_answer", -1.0, "wrong"),
        ("p/triple", "accepted", 0.0, "wrong"),
        ("p/triple", "wrong_answer", -1.0, "right"),
    ]
    codec = FakeCodec()
    programs = {one.code.rstrip() for problem in (DOUBLE, TRIPLE) for one in problem.solutions if one.language != "cpp"}
    for item in items:
        assert item.source == "human"
        assert bytes(item.prompt_tokens.tolist()).decode() in (DOUBLE.statement, TRIPLE.statement)
        assert item.response_tokens[-1] == END_TOKEN
        text = codec.decode_response(item.response_tokens.tolist())
        assert text.startswith("```")
        assert (extract_code(text) or "").rstrip() in programs
    assert collection.contradictions == {
        "right solutions that were refused": 1,
        "wrong solutions that were accepted": 1,
    }


async def test_only_accepted_ones_are_stored_on_request_and_the_others_once_they_are_wanted(
    tmp_path: Path, judge: Judge
) -> None:
    problems = problems_of(tmp_path, DOUBLE)
    for accepted_only, counts in ((True, (3, 2, 2, 0, 1)), (True, (0,) * 5), (False, (3, 2, 1, 2, 0))):
        collection = Collection(tmp_path / "c", "bytes", accepted_only)
        await human(collection, problems, judge)
        collection.close()
        tally = collection.tallies["human"]
        assert (tally.done, tally.accepted, tally.stored, tally.duplicates, tally.refused) == counts
    assert sorted(item.reward for item in stored(tmp_path / "c")) == [-1.0, 0.0, 0.0]


async def test_solutions_that_are_too_long_or_too_many_are_left_out_with_a_count(tmp_path: Path, judge: Judge) -> None:
    long = msgspec.structs.replace(DOUBLE, solutions=(*DOUBLE.solutions, Solution("python", "x = 1\n" * 200, True)))
    collection = Collection(tmp_path / "c", "bytes")
    await human(collection, problems_of(tmp_path, long), judge, budget=300)
    collection.close()
    assert collection.left_out == {"solutions that exceed batch.token_budget with their prompt": 1}
    assert len(stored(tmp_path / "c")) == 3
    collection = Collection(tmp_path / "d", "bytes")
    await human(collection, problems_of(tmp_path, long), judge, most=1)
    collection.close()
    assert sorted(item.metadata["known"] for item in stored(tmp_path / "d")) == ["right", "wrong"]


@asynccontextmanager
async def session(tmp_path: Path, *overrides: str, **worker: object) -> AsyncIterator[SamplingSession]:
    """A session with two scripted workers on six problems."""
    settings = ("model.path=anything", "workers.num_workers=0", "sampling.max_new_tokens=24", "batch.token_budget=64")
    config = load_config(None, [*settings, *overrides])
    write_problems(tmp_path / "six.jsonl", "problem", 6)
    model = ModelInfo(str(tmp_path), "test-reference", TOKENIZER)
    where = tmp_path / f"session-{len(list(tmp_path.glob('session-*')))}"
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for index in range(2):
                nursery.start_soon(ScriptedWorker(where, name=f"w{index}", **worker).run)  # type: ignore[arg-type]
            async with sampling_session(config, model, load_problems([f"jsonl:{tmp_path / 'six.jsonl'}"]), where) as it:
                while it.status("", 0, 1).num_workers < 2:  # One alone may do it all before the other has come.
                    await trio.sleep(0.01)
                yield it
            nursery.cancel_scope.cancel()


async def sampled(tmp_path: Path, name: str, num_samples: int, *overrides: str, **worker: object) -> Collection:
    async with session(tmp_path, *overrides, **worker) as it:
        collection = Collection(tmp_path / name, TOKENIZER)
        problems = load_problems([f"jsonl:{tmp_path / 'six.jsonl'}"])
        done: list[int] = []
        await collect_samples(collection, it, problems, num_samples, done.append)
        collection.close()
        assert sum(done) == 6 * num_samples
        return collection


async def test_samples_go_on_where_a_smaller_collection_ended_and_are_those_of_a_larger_one(tmp_path: Path) -> None:
    first = await sampled(tmp_path, "c", 10)
    assert first.tallies["collected"].done == 60
    again = await sampled(tmp_path, "c", 10)
    assert again.tallies["collected"].done == 0
    more = await sampled(tmp_path, "c", 40)
    assert more.tallies["collected"].done == 180
    await sampled(tmp_path, "d", 40)
    piecewise, whole = stored(tmp_path / "c"), stored(tmp_path / "d")
    assert sorted(item.seed for item in piecewise) == sorted(item.seed for item in whole)
    assert Counter(item.problem_id for item in whole) == {f"problem{index}": 40 for index in range(6)}
    assert {item.source for item in whole} == {"collected"}
    assert {item.metadata["policy"] for item in whole} == {"test-reference"}


async def test_temperatures_are_drawn_from_the_range_and_other_settings_are_other_samples(tmp_path: Path) -> None:
    await sampled(tmp_path, "c", 20, "sampling.temperature_min=0.3", "sampling.temperature_max=0.9")
    items = stored(tmp_path / "c")
    temperatures = [item.temperature for item in items]
    assert 0.3 <= min(temperatures) < 0.35
    assert 0.85 < max(temperatures) <= 0.9
    assert {round(item.top_p, 6) for item in items} == {0.95}
    other = await sampled(tmp_path, "c", 20, "sampling.top_p=0.5")
    assert other.tallies["collected"].done == 120


async def test_problems_without_room_and_what_the_judge_fails_on_are_counted(tmp_path: Path) -> None:
    collection = await sampled(
        tmp_path, "c", 5,
        prompt_length=lambda problem_id: 41 if problem_id == "problem2" else 40,
        exclude=lambda work: int(work.problem_id == "problem4"),
    )  # fmt: skip
    assert collection.left_out == {"problems whose prompt and sampling.max_new_tokens exceed batch.token_budget": 1}
    tally = collection.tallies["collected"]
    assert (tally.done, tally.judge_failed) == (24, 1)
    assert "problem2" not in {item.problem_id for item in stored(tmp_path / "c")}


KILLED = """
import sys
from pathlib import Path
from spo.collect.collection import Collection
from spo.collect.samples import collect_samples
from spo.config import load_config
from spo.orchestrator.sampling import run_sampling, sampling_session
from spo.problems import load_problems
from spo.rundir import ModelInfo

async def main():
    config = load_config(None, ["model.path=x", "workers.engine=fake", "workers.num_workers=2",
                                "workers.max_batch_size=4", "sampling.max_new_tokens=2000"])
    problems = load_problems([f"jsonl:{sys.argv[1]}"])
    model = ModelInfo(".", "fake", "bytes")
    collection = Collection(Path(sys.argv[2]), "bytes")
    async with sampling_session(config, model, problems, Path(sys.argv[2])) as session:
        await collect_samples(collection, session, problems, 100, lambda count: print(count, flush=True))
    collection.close()

run_sampling(main)
"""


def test_a_collection_that_is_killed_with_all_its_workers_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """Every program is another, so that every sample is another content."""
    problems = [
        Problem(
            f"p{index}", "p", f"Print {index}.", (ProblemTest("", f"{index}\n"),),
            solutions=tuple(Solution("python", f"print({index if right else -1})  # {note}", right)
                for note in range(1000) for right in (True, False)),
        )
        for index in range(4)
    ]  # fmt: skip
    (tmp_path / "p.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(problems))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "p.jsonl")]
    whole = subprocess.run([*command, str(tmp_path / "whole")], capture_output=True, text=True, timeout=300)
    assert whole.returncode == 0, whole.stderr
    for number in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen([*command, str(tmp_path / "c")], stdout=subprocess.PIPE, start_new_session=True)
        assert process.stdout is not None
        for _ in range(6):
            process.stdout.readline()
        os.kill(process.pid, number)
        process.wait(60)
        process.stdout.close()
    done = subprocess.run([*command, str(tmp_path / "c")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    killed = stored(tmp_path / "c")
    assert sorted(item.content_hash for item in killed) == sorted(
        item.content_hash for item in stored(tmp_path / "whole")
    )
    assert len({item.content_hash for item in killed}) == len(killed) > 300
    workers = {item.metadata["worker"] for item in killed}
    assert workers == {"worker-0", "worker-1"}


def make_store(path: Path, *items: Trajectory, tokenizer: str = "bytes") -> Path:
    with TrajectoryStore.open(path, "a", tokenizer=tokenizer) as store:
        store.append(list(items))
    return path


def answer(code: str, source: str = "online", problem: str = "p/double", reward: float = -1.0) -> Trajectory:
    tokens = FakeCodec().encode_response(code)
    verdict = "accepted" if reward == 0.0 else "wrong_answer"
    return Trajectory(problem, [1, 2], list(tokens), reward, verdict, source, behavior_logprobs=[-0.5] * len(tokens))


async def test_other_stores_are_taken_over_with_their_sources_each_content_once(tmp_path: Path) -> None:
    first = make_store(tmp_path / "a", answer("x", reward=0.0), answer("y", "human"), answer("z", "evaluation"))
    second = make_store(tmp_path / "b", answer("x", "reference", reward=0.0), answer("w", problem="q"))
    collection = Collection(tmp_path / "c", "bytes")
    for store in (first, second, first):
        await collect_store(collection, store)
    collection.close()
    items = stored(tmp_path / "c")
    assert [(item.source, item.problem_id) for item in items] == [
        ("online", "p/double"), ("human", "p/double"), ("online", "q"),
    ]  # fmt: skip
    assert items[0].behavior_logprobs is not None
    assert len({item.metadata["from_store"] for item in items}) == 2
    assert collection.left_out["evaluations"] == 1
    assert collection.tallies["reference"].duplicates == 1


async def test_of_a_store_that_has_grown_only_the_new_is_looked_at(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a", answer("x"))
    for code, done in (("y", 1), ("z", 1)):
        collection = Collection(tmp_path / "c", "bytes")
        await collect_store(collection, store)
        collection.close()
        assert collection.tallies["online"].done == done
        make_store(store, answer(code))
    assert len(stored(tmp_path / "c")) == 2


async def test_trajectories_of_other_problems_are_not_wanted_where_problems_are_named(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a", answer("x"), answer("y", problem="q"))
    collection = Collection(tmp_path / "c", "bytes")
    await collect_store(collection, store, problems_of(tmp_path, DOUBLE))
    collection.close()
    assert [item.problem_id for item in stored(tmp_path / "c")] == ["p/double"]
    assert collection.left_out["trajectories of other problems"] == 1


async def test_responses_are_judged_again_by_the_tests_of_today(tmp_path: Path, judge: Judge) -> None:
    right, wrong = "```python\nprint(2 * int(input()))\n```", "```python\nprint(0)\n```"
    endless = Trajectory("p/double", [1], list(right.encode()), 0.0, "accepted", "online")
    store = make_store(tmp_path / "a", answer(right), answer(wrong, reward=0.0), answer("```\n```"), endless)
    problems = problems_of(tmp_path, DOUBLE)
    collection = Collection(tmp_path / "c", "bytes")
    regrader = Regrader(problems, FakeCodec(), Grader(judge, 1 << 20))
    await collect_store(collection, store, problems, regrader)
    collection.close()
    verdicts = [(item.verdict, item.reward) for item in stored(tmp_path / "c")]
    assert verdicts == [("accepted", 0.0), ("wrong_answer", -1.0), ("no_code", -1.0), ("truncated", -1.0)]
    assert collection.contradictions == {"verdicts that are others now": 4}


async def test_stores_that_cannot_be_taken_are_refused_by_name(tmp_path: Path) -> None:
    collection = Collection(tmp_path / "c", "bytes")
    with pytest.raises(StoreError, match="is of the tokenizer other"):
        await collect_store(collection, make_store(tmp_path / "a", answer("x"), tokenizer="other"))
    (tmp_path / "link").symlink_to(tmp_path / "c")
    for name in ("c", "link"):
        with pytest.raises(StoreError, match="is the collection's own store"):
            await collect_store(collection, tmp_path / name / "store")
    with pytest.raises(ConfigError, match="is in use, its collect runs as process"):
        Collection(tmp_path / "c", "bytes")
    collection.close()
    with pytest.raises(StoreError):
        Collection(tmp_path / "c", "other")


def test_a_collection_is_not_made_where_something_else_is(tmp_path: Path) -> None:
    for name, complaint in (("config.toml", "is a run"), ("store.spo", "is a store"), ("notes", "holds other things")):
        (tmp_path / name / name).parent.mkdir()
        (tmp_path / name / name).touch()
        with pytest.raises(ConfigError, match=complaint):
            check_place(tmp_path / name)
    with pytest.raises(ConfigError, match="holds other things"):
        check_place(tmp_path / "notes" / "notes")
    check_place(tmp_path / "new")


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12))), st.integers(0, 60), st.integers(1, 20))
def test_missing_items_are_exactly_those_that_are_not_done(done: list[tuple[int, int]], total: int, most: int) -> None:
    collection = Collection.__new__(Collection)
    collection.accepted_only = False
    collection._done = {"task": done}  # type: ignore[assignment]
    pieces = list(collection.missing("task", total, most))
    found = [item for piece in pieces for item in piece]
    assert found == sorted(set(range(total)) - {item for first, count in done for item in range(first, first + count)})
    assert all(1 <= len(piece) <= most for piece in pieces)


async def test_the_journal_says_what_is_done_only_after_it_is_durable(tmp_path: Path) -> None:
    collection = Collection(tmp_path / "c", "bytes")
    collection.add("task", range(0, 1), [answer("x")])
    assert not (tmp_path / "c" / "collect.jsonl").read_text()
    collection.commit()
    [line] = (tmp_path / "c" / "collect.jsonl").read_text().splitlines()
    assert json.loads(line) == {"task": "task", "first": 0, "count": 1}
    collection.add("task", range(1, 2), [answer("y")])
    collection._journal.close()
    collection.store.close()  # As if it had been killed between the two: the second is in the store alone.
    collection._lock.release()
    again = Collection(tmp_path / "c", "bytes")
    assert list(again.missing("task", 2, 10)) == [range(1, 2)]
    again.add("task", range(1, 2), [answer("y")])
    again.close()
    assert again.tallies["online"].duplicates == 1
    assert len(stored(tmp_path / "c")) == 2
