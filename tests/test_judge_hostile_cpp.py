"""C++ that means harm, each program in every tier: its verdict, and nothing left; what is slow to compile, once."""

import os
import shutil
from collections.abc import Iterator

import pytest
from judge_hostile_cpp import CPP_HONEST, CPP_PROGRAMS, CPP_SLOW_SOURCES, CPP_SOURCES
from judge_hostile_programs import ACCEPTED, LIMITS, TEST
from test_judge_hostile import at_rest, left_behind, num_descriptors, settled

from spo.errors import JudgeError
from spo.judge import Judge, Limits, Verdict

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="this host has no C++ compiler"
)
RUN_LIMITS = Limits(cpu_time_s=0.2, wall_time_s=2.0, memory_bytes=64 << 20, output_bytes=1 << 20)
MEMORY_LIMITS = Limits(cpu_time_s=5.0, wall_time_s=30.0, memory_bytes=64 << 20, output_bytes=1 << 20)


@pytest.fixture(scope="module", params=["root", "user_namespace", "landlock"])
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    try:
        judge = Judge(num_workers=1, limits=LIMITS, isolation=request.param)
    except JudgeError as refusal:
        pytest.skip(f"this host does not give the tier: {refusal}")
    with judge:
        assert judge.judge(CPP_HONEST, [TEST], language="cpp").verdict is ACCEPTED
        yield judge


def check_what_is_left(judge: Judge, helpers: int, descriptors: int) -> None:
    assert judge.judge(CPP_HONEST, [TEST], language="cpp").verdict is ACCEPTED
    assert settled(helpers), "a process was left"
    assert num_descriptors(os.getpid()) == descriptors
    assert left_behind() == []


@pytest.mark.parametrize("name", CPP_PROGRAMS)
def test_a_hostile_program_gets_its_verdict_and_leaves_nothing(judge: Judge, name: str) -> None:
    source, fitting = CPP_PROGRAMS[name]
    before = at_rest(), num_descriptors(os.getpid())
    limits = MEMORY_LIMITS if Verdict.MEMORY_LIMIT in fitting and Verdict.TIME_LIMIT not in fitting else RUN_LIMITS
    judgement = judge.judge(source, [TEST], language="cpp", limits=limits)
    assert judgement.verdict in fitting, judgement
    check_what_is_left(judge, *before)


@pytest.mark.parametrize("name", CPP_SOURCES)
def test_a_hostile_source_does_not_compile_and_leaves_nothing(judge: Judge, name: str) -> None:
    check_source(judge, CPP_SOURCES[name])


@pytest.mark.parametrize("name", CPP_SLOW_SOURCES)
def test_a_source_that_is_slow_to_compile_is_given_up(name: str) -> None:
    with Judge(num_workers=1, limits=LIMITS) as judge:
        judge.judge(CPP_HONEST, [TEST], language="cpp")
        check_source(judge, CPP_SLOW_SOURCES[name])


def check_source(judge: Judge, source: str) -> None:
    before = at_rest(), num_descriptors(os.getpid())
    judgement = judge.judge(source, [TEST], language="cpp")
    assert judgement.verdict is Verdict.COMPILE_ERROR, judgement
    assert 0 < len(judgement.message) < 20_000
    assert "root:" not in judgement.message
    check_what_is_left(judge, *before)
