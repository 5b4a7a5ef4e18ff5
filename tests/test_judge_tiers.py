"""Isolation tiers: the strongest that a host gives is taken and said, and none weakens silently."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = """
import json, sys
from spo.errors import JudgeError
from spo.judge import Judge, TestCase
found = {}
for tier in (None, "root", "user_namespace", "landlock"):
    try:
        with Judge(num_workers=1, isolation=tier) as judge:
            honest = judge.judge("print(2)", [TestCase(output="2")])
            spy = judge.judge(f"print(open({sys.argv[1]!r}).read())", [TestCase(output="secret")])
            found[str(tier)] = [judge.isolation_tier, honest.verdict, spy.verdict]
    except JudgeError as error:
        found[str(tier)] = str(error)
print(json.dumps(found))
"""
DROP_CAPABILITIES = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
REFUSE_USER_NAMESPACES = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'


def probe(prefix: list[str], secret: Path) -> dict[str, object]:
    secret.write_text("secret")
    command = [*prefix, sys.executable, "-c", PROBE, str(secret)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_the_strongest_tier_is_taken_and_hides_the_callers_files(tmp_path: Path) -> None:
    found = probe([], tmp_path / "secret")
    given = [tier for tier in ("root", "user_namespace", "landlock") if isinstance(found[tier], list)]
    assert found["None"] == [given[0], "accepted", "runtime_error"]
    for tier in given:
        assert found[tier] == [tier, "accepted", "runtime_error"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to drop; the other tests then run without")
def test_without_privileges_the_next_tier_is_taken_and_a_forced_one_is_refused(tmp_path: Path) -> None:
    assert shutil.which("setpriv"), "setpriv (util-linux) is needed to drop privileges"
    found = probe(DROP_CAPABILITIES, tmp_path / "secret")
    assert isinstance(found["root"], str)
    assert 'no sandbox of tier "root"' in found["root"]
    assert "unshare" in found["root"]
    assert found["landlock"] == ["landlock", "accepted", "runtime_error"]
    assert found["None"] in (found["user_namespace"], found["landlock"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take user namespaces away from a process")
def test_where_namespaces_are_refused_landlock_is_taken(tmp_path: Path) -> None:
    prefix = ["unshare", "--user", "--map-root-user", "sh", "-c", REFUSE_USER_NAMESPACES, "sh", *DROP_CAPABILITIES]
    found = probe(prefix, tmp_path / "secret")
    assert isinstance(found["user_namespace"], str)
    assert "unshare" in found["user_namespace"]
    assert found["None"] == found["landlock"] == ["landlock", "accepted", "runtime_error"]


WITHOUT_LANDLOCK = """
import ctypes, os, struct, sys
ENOSYS, ALLOW = 0x5_0000 | 38, 0x7FFF_0000
code = struct.pack("=" + "HBBI" * 4, 0x20, 0, 0, 0, 0x15, 0, 1, 444, 6, 0, 0, ENOSYS, 6, 0, 0, ALLOW)
buffer = ctypes.create_string_buffer(code, len(code))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0
assert prctl(22, 2, ctypes.byref(Program(4, ctypes.addressof(buffer))), 0, 0) == 0
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
LAYERS = """
import json
from spo.errors import JudgeError
from spo.judge import Judge, TestCase
found = {}
for tier in (None, "root", "user_namespace", "landlock"):
    try:
        with Judge(num_workers=1, isolation=tier) as judge:
            judgement = judge.judge("print(2)", [TestCase(output="2")])
            failed = judge.judge("print(", [TestCase(output="2")])
            assert judgement.isolation_layers == failed.isolation_layers
            found[str(tier)] = [judgement.isolation_tier, *judgement.isolation_layers]
    except JudgeError as error:
        found[str(tier)] = str(error)
print(json.dumps(found))
"""


def layers(prefix: list[str]) -> dict[str, object]:
    command = [sys.executable, *prefix, "-c", LAYERS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_each_judgement_names_the_layers_in_force() -> None:
    found = layers([])
    for tier, given in found.items():
        if isinstance(given, list):
            assert {"landlock", "system_call_filter", "resource_limits"} <= set(given[1:]), tier
            assert ("namespaces" in given) == (given[0] != "landlock")
            assert ("own_uid" in given) == (given[0] == "root")


def test_a_missing_layer_is_told_and_no_tier_can_be_forced_without_it() -> None:
    found = layers(["-c", WITHOUT_LANDLOCK])
    for tier in ("root", "user_namespace", "landlock"):
        assert isinstance(found[tier], str), "a forced tier was weakened"
    chosen = found["None"]
    if isinstance(chosen, list):
        assert chosen[0] in ("root", "user_namespace")
        assert "landlock" not in chosen
        assert "landlock" in str(found[chosen[0]])
