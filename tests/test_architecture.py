"""The rules of ARCHITECTURE.md that can be read off the tree: who may import, fork, or be unsafe."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "python" / "spo"
HEAVY = ("torch", "transformers", "vllm", "tokenizers", "matplotlib")
PROCESSES = ("trainer", "rollout", "orchestrator")

LIGHT_MODULES = [
    "spo",
    "spo.judge",
    "spo.store",
    "spo.replay",
    "spo.weights",
    "spo.problems",
    "spo.config",
    "spo.types",
    "spo.wire",
    "spo.values",
    "spo.evaluate",
    "spo.metrics",
    "spo.launch",
    "spo.cli",
    "spo.orchestrator",
    "spo.orchestrator.run",
    "spo.rollout.worker",
]


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_importing_brings_in_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not set(result.stdout.split()) & set(HEAVY)


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_imports_no_other_process(process: str) -> None:
    files = sorted((PACKAGE / process).rglob("*.py"))
    assert files, f"no such folder: {process}"
    others = tuple(f"spo.{other}" for other in PROCESSES if other != process)
    for path in files:
        crossing = {name for name in _imports(path) if name.startswith(others)}
        assert not crossing, f"{path.relative_to(ROOT)} imports {crossing}"


def test_nothing_is_unpickled() -> None:
    for path in PACKAGE.rglob("*.py"):
        imported = {name.partition(".")[0] for name in _imports(path)}
        assert not imported & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}, path


def test_only_reward_turns_a_verdict_into_a_number() -> None:
    """Who needs a reward calls `spo.reward`; nobody else writes the numbers beside a verdict."""
    pattern = re.compile(r"ACCEPTED.*(-1\.0|0\.0)|(-1\.0|0\.0).*ACCEPTED")
    offenders = [
        path.relative_to(ROOT)
        for path in PACKAGE.rglob("*.py")
        if path.name != "reward.py" and pattern.search(path.read_text(encoding="utf-8"))
    ]
    assert not offenders


def _rust_code(path: Path) -> str:
    """The source without comments, doc comments and string literals."""
    text = re.sub(r"//[^\n]*", "", path.read_text(encoding="utf-8"))
    return re.sub(r'"(?:\\.|[^"\\])*"', '""', text)


def test_only_the_sandbox_is_unsafe_or_forks() -> None:
    """Exceptions: mapping memory, what only advises about it, and calling what is compiled for AVX2."""
    for path in (ROOT / "rust").rglob("*.rs"):
        if "sandbox" in path.relative_to(ROOT / "rust").parts:
            continue
        code = _rust_code(path)
        assert not re.search(r"\b(fork|vfork|clone3|posix_spawn)\s*\(", code), f"{path} forks"
        blocks = re.findall(r"\bunsafe\b[^;{]*[;{][^;}]*", code)
        allowed = re.compile(r"mmap|map\(|madvise\(|_mm_prefetch|_avx2\(")
        assert all(allowed.search(block.lower()) for block in blocks), f"{path} is unsafe: {blocks}"


def test_the_core_does_not_know_python() -> None:
    tree = subprocess.run(
        ["cargo", "tree", "--locked", "--offline", "-p", "spo-core", "--edges", "normal"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert tree.stdout.startswith("spo-core")
    assert "pyo3" not in tree.stdout


def test_only_the_shard_knows_byte_layout_of_the_store() -> None:
    """Everyone else in the store speaks of frames and records."""
    layout = re.compile(r"\b(to_le_bytes|from_le_bytes|to_be_bytes|from_be_bytes|crc32c)\b")
    for path in (ROOT / "rust" / "store").glob("*.rs"):
        if path.name != "shard.rs":
            assert not layout.search(_rust_code(path)), f"{path} knows the byte layout; it belongs into shard.rs"
