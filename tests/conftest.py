"""Async tests run under trio, on a virtual clock where they ask for `autojump_clock`."""

import functools
import importlib.util
import inspect
import signal

import hypothesis
import pytest
import trio
from trio.testing import MockClock

# How long an example takes says more about the machine's other users than about the code. Examples are the same each
# time, so that a failure belongs to the change that it shows with; `--hypothesis-profile=explore` draws new ones, more.
hypothesis.settings.register_profile("spo", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("spo")

# `make test-vllm` names these files, and fails without vLLM. `test_vllm_loading.py` is about its absence too.
collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_vllm.py", "test_vllm_[!l]*.py"]

# What a shell starts in the background ignores SIGINT, and so would the children that tests send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def problem_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of problems of the test's own."""
    monkeypatch.setenv("SPO_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def autojump_clock() -> MockClock:
    """A clock that jumps to the next deadline whenever all tasks wait."""
    return MockClock(autojump_threshold=0)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs `async def test_…` in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    test = functools.partial(pyfuncitem.obj, **{name: pyfuncitem.funcargs[name] for name in names})
    trio.run(test, clock=pyfuncitem.funcargs.get("autojump_clock"))
    return True
