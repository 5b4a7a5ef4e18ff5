"""Manifests: what verification found in a data set, and how training heeds it.

A manifest is one JSON file: the settings, counts by reason, and an entry a problem. While problems are being verified,
entries are appended to `FILE.part`, so that an interrupted verification goes on where it was, and a later one only
looks at problems that are new or have changed.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from spo.errors import ConfigError, ProblemError
from spo.files import replace_file
from spo.jsonl import Journal, read_lines
from spo.judge import Judge
from spo.problems.collection import Edit, Problems
from spo.problems.dedup import read_duplicates
from spo.problems.info import ProblemInfo, digest, info_of
from spo.problems.schema import Problem
from spo.problems.specs import load_problems
from spo.problems.verify import USUAL, ProblemReport, VerifySettings, verify, without_tests

_SHOWN = 5

_log = logging.getLogger("spo.problems")


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the manifest says of a problem.

    Attributes:
        content: Digest of the problem that was verified, 32 hex digits; of another the entry says nothing.
        left_out: Why training leaves the problem out; empty if it does not.
        report: What came of its solutions.
        tests: Digest of the tests that are not bad, 32 hex digits.
        splits: Their numbers by split.
    """

    content: str
    left_out: str
    report: ProblemReport
    tests: str
    splits: dict[str, int]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A manifest; see the module.

    Attributes:
        settings: What it was made with.
        counts: How many problems are kept, left out for each reason, or kept with something to be said.
        problems: In the order of the data set.
        version: Of this format.
    """

    settings: VerifySettings
    counts: dict[str, int]
    problems: list[Entry]
    version: int = 1


def verify_into(
    path: Path, problems: Problems, judge: Judge, settings: VerifySettings = USUAL
) -> Iterator[ProblemReport]:
    """Verify problems into the manifest at `path`, and yield each report, also those that were there already.

    Raises:
        ConfigError: There is another kind of file at `path`.
    """
    found = _earlier(path, settings)
    part = _part(path)
    journal = Journal(part)
    try:
        known = problems.where(lambda info: _key(info) in found)
        yield from (found[_key(info)].report for info in known.infos)
        due = problems.where(lambda info: _key(info) not in found)
        for index, report in enumerate(verify(due, judge, settings)):
            entry = _entry(due[index], due.infos[index], report)
            journal.append({"settings": settings, "entry": entry}, durable=True)
            found[_key(due.infos[index])] = entry
            yield report
    finally:
        journal.close()
    entries = [found[_key(info)] for info in problems.infos]
    manifest = Manifest(settings, _counts(entries), entries)
    replace_file(path, msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    part.unlink()


def read_manifest(path: Path) -> Manifest:
    """The manifest at `path`.

    Raises:
        ConfigError: There is none.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such manifest; make it by spo problems verify … --manifest {path}") from None
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: no manifest of this version ({error}); verify the problems into another") from None


def load_training_problems(
    specs: Sequence[str], seed: int = 0, without: Sequence[str] = (), manifest: str = ""
) -> tuple[Problems, dict[str, int]]:
    """Load problems, and heed what is known of them.

    Args:
        specs: As for `load_problems`.
        seed: Likewise.
        without: Paths of reports of duplicates, which are left out.
        manifest: Path of a manifest; empty if there is none.

    Returns:
        The problems that are left, without bad tests and with calibrated limits, and how many are not, by reason.

    Raises:
        ConfigError: A spec is wrong, there is no such report or manifest, or it does not know the problems.
        ProblemError: A file has a hole, or no problem is left.
    """
    problems = load_problems(specs, seed)
    duplicates = {one.problem_id for path in without for one in read_duplicates(Path(path).expanduser())}
    kept = problems.where(lambda info: info.id not in duplicates)
    left_out = {"they are duplicates": len(problems) - len(kept)} if len(kept) < len(problems) else {}
    if not kept:
        raise ProblemError(f"problems.without: {', '.join(without)}: no problem is left; train on others")
    if left_out:
        _log.warning("%s: left out %d of %d problems", ", ".join(without), len(problems) - len(kept), len(problems))
    if not manifest:
        return kept, left_out
    kept, bad = apply_manifest(kept, Path(manifest).expanduser())
    return kept, left_out | bad


def apply_manifest(problems: Problems, path: Path) -> tuple[Problems, dict[str, int]]:
    """Heed the manifest at `path`; see `load_training_problems`."""
    entries = {entry.report.problem_id: entry for entry in read_manifest(path).problems}
    unknown = [info.id for info in problems.infos if info.id not in entries or entries[info.id].content != _key(info)]
    if unknown:
        shown = ", ".join(unknown[:_SHOWN]) + (", …" if len(unknown) > _SHOWN else "")
        raise ConfigError(
            f"problems.manifest: {path} does not know {len(unknown)} of {len(problems)} problems as they are now "
            f"({shown}); verify them into it: spo problems verify … --manifest {path}"
        )
    left_out = Counter(entries[info.id].left_out for info in problems.infos if entries[info.id].left_out)
    kept = problems.where(lambda info: not entries[info.id].left_out)
    if not kept:
        raise ProblemError(f"{path}: no problem is left ({dict(left_out)}); train on others, or on all of them")
    edits = {info.id: _edit(info, entries[info.id]) for info in kept.infos if _needs_edit(entries[info.id])}
    for reason, count in left_out.items():
        _log.warning("%s: left out %d of %d problems: %s", path, count, len(problems), reason)
    _log.info("%s: %d problems have fewer tests or another time limit", path, len(edits))
    return kept.edited(edits), dict(left_out)


def _earlier(path: Path, settings: VerifySettings) -> dict[str, Entry]:
    """The entries that are there already, by content; those of other settings do not count."""
    entries: list[Entry] = []
    if path.exists() and (manifest := read_manifest(path)).settings == settings:
        entries += manifest.problems
    for line in read_lines(_part(path)):
        if line.get("settings") == msgspec.to_builtins(settings):
            entries.append(msgspec.convert(line["entry"], Entry))
    return {entry.content: entry for entry in entries}


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _key(info: ProblemInfo) -> str:
    return info.content_digest.hex()


def _entry(problem: Problem, info: ProblemInfo, report: ProblemReport) -> Entry:
    kept = info_of(without_tests(problem, report.bad_tests))
    return Entry(_key(info), _why_left_out(report, kept), report, kept.tests_digest.hex(), kept.splits)


def _why_left_out(report: ProblemReport, kept: ProblemInfo) -> str:
    if report.has_several_answers:
        return "they have several right answers"
    if not kept.num_tests:
        return "all their tests are bad"
    if report.num_right and not report.right_accepted_after:
        return "no right solution is accepted"
    return ""


def _counts(entries: list[Entry]) -> dict[str, int]:
    reports = [entry.report for entry in entries if not entry.left_out]
    return {
        "kept": len(reports),
        "kept without a known right solution": sum(not report.num_right for report in reports),
        "kept without their bad tests": sum(bool(report.bad_tests) for report in reports),
        "kept with another time limit": sum(report.time_factor != 1 for report in reports),
        "kept though wrong solutions are accepted": sum(report.num_wrong > report.wrong_refused for report in reports),
        "bad tests": sum(len(report.bad_tests) for report in reports),
        **{
            f"left out: {reason}": count
            for reason, count in Counter(entry.left_out for entry in entries).items()
            if reason
        },
    }


def _needs_edit(entry: Entry) -> bool:
    return bool(entry.report.bad_tests) or entry.report.time_factor != 1


def _edit(info: ProblemInfo, entry: Entry) -> tuple[ProblemInfo, Edit]:
    time_limit_s = info.time_limit_s * entry.report.time_factor

    def edit(problem: Problem) -> Problem:
        return msgspec.structs.replace(without_tests(problem, entry.report.bad_tests), time_limit_s=time_limit_s)

    edited = msgspec.structs.replace(
        info,
        time_limit_s=time_limit_s,
        splits=entry.splits,
        tests_digest=bytes.fromhex(entry.tests),
        content_digest=digest(info.content_digest + msgspec.msgpack.encode((entry.tests, time_limit_s))),
    )
    return edited, edit
