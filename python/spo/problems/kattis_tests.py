"""The tests of a Kattis package: pairs of `.in` and `.ans` files below `data/sample` and `data/secret`.

Packages share tests between groups by symbolic links. Where those were checked out as plain files that hold the path
of their target (as Git does on some systems), they are followed all the same: as test data they would make the
problem impossible.
"""

import re
from pathlib import Path

from spo.errors import ProblemError
from spo.problems.schema import HIDDEN, PUBLIC, ProblemTest

_SPLITS = {"sample": PUBLIC, "secret": HIDDEN}
_LINK = re.compile(r"(\.\./)+[^\n\0]+\.(in|ans)")
_LINK_BYTES = 4096
_LINK_DEPTH = 8


def read_tests(package: Path) -> tuple[ProblemTest, ...]:
    """All tests, samples first, each group in name order; a test that repeats an earlier one is left out.

    Raises:
        ProblemError: There are no tests, one lacks its other half, or one input has two answers.
    """
    data = package / "data"
    seen: dict[str, ProblemTest] = {}
    for folder, split in _SPLITS.items():
        _refuse_answers_without_input(data / folder)
        for file in sorted((data / folder).rglob("*.in")):
            answer = file.with_suffix(".ans")
            test = ProblemTest(
                input=_read_data(file, data, "it is a broken link"),
                output=_read_data(answer, data, f"write the expected output of {file.name} there"),
                split=split,
                name=file.relative_to(data).with_suffix("").as_posix(),
            )
            earlier = seen.setdefault(test.input, test)
            if earlier.output != test.output:
                raise ProblemError(f"{answer}: differs from the answer of {earlier.name}, which has the same input")
    if not seen:
        raise ProblemError(f"{data}: no tests; add NAME.in and NAME.ans below data/secret")
    return tuple(seen.values())


def read_text(path: Path, fix: str) -> str:
    """The UTF-8 text of a file.

    Raises:
        ProblemError: It is missing (then `fix` says what to do), not readable or not UTF-8.
    """
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise ProblemError(f"{path}: missing; {fix}") from None
    except OSError as error:
        raise ProblemError(f"{path}: not readable ({error.strerror}); make it a file that you may read") from None
    except UnicodeDecodeError as error:
        raise ProblemError(f"{path}: not UTF-8 at byte {error.start}; convert the file to UTF-8") from None


def _read_data(path: Path, data: Path, fix: str) -> str:
    """The text of a test file, or of the one that it stands for."""
    text = read_text(path, fix)
    target = path
    for _ in range(_LINK_DEPTH):
        if len(text) > _LINK_BYTES or not _LINK.fullmatch(text):
            return text
        link = target
        target = (link.parent / text).resolve()
        if target.suffix != path.suffix or not target.is_relative_to(data.resolve()):
            return text
        text = read_text(target, f"{link} is a link to it, checked out as text: restore the target")
    raise ProblemError(f"{path}: a link that does not end; replace it by the test data")


def _refuse_answers_without_input(root: Path) -> None:
    for answer in sorted(root.rglob("*.ans")):
        if not answer.with_suffix(".in").is_file():
            raise ProblemError(f"{answer.with_suffix('.in')}: missing; write the input of {answer.name} there")
