"""The submissions of a Kattis package: programs in `submissions/VERDICT/`, known to be right or wrong.

Those of several files are left out, and those of verdicts that say neither (`partially_accepted`).
"""

from pathlib import Path

from spo.problems.schema import Solution

_VERDICTS = {"accepted": True, "wrong_answer": False, "time_limit_exceeded": False, "run_time_error": False}
_LANGUAGES = {
    ".py": "python", ".py3": "python", ".py2": "python2", ".c": "c", ".cc": "cpp", ".cpp": "cpp", ".cxx": "cpp",
    ".java": "java", ".kt": "kotlin", ".rs": "rust", ".go": "go", ".cs": "csharp", ".js": "javascript",
}  # fmt: skip


def read_submissions(package: Path) -> tuple[Solution, ...]:
    """The programs, right ones first; the note of one says its verdict and file."""
    return tuple(
        Solution(_language(file, code), code, correct, f"{verdict}/{file.name}")
        for verdict, correct in _VERDICTS.items()
        for file in sorted((package / "submissions" / verdict).glob("*"))
        if file.is_file() and file.suffix.lower() in _LANGUAGES
        for code in [file.read_bytes().decode(errors="replace")]
    )


def _language(file: Path, code: str) -> str:
    first_line = code.partition("\n")[0]
    if file.suffix == ".py" and first_line.startswith("#!") and first_line.rstrip().endswith(("python2", "python2.7")):
        return "python2"
    return _LANGUAGES[file.suffix.lower()]
