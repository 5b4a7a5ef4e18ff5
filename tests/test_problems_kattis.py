"""The Kattis package loader and its LaTeX rendering."""

from pathlib import Path

import pytest

from spo.errors import ProblemError
from spo.judge import Judge, TestCase
from spo.problems import Problem, load_problems
from spo.problems.latex import latex_title, latex_to_text

STATEMENT = r"""\problemname{Twice the \emph{Fun}}
Read $n$ ($1 \leq n \le 10^{18}$).
\section*{Input}
One integer. % a comment
"""


def make_package(folder: Path, files: dict[str, str] | None = None, name: str = "twice") -> Path:
    """Write a package with these files beside, or instead of, the usual ones."""
    contents = {
        "problem.yaml": "source: Spring Cup\n",
        "problem_statement/problem.en.tex": STATEMENT,
        "data/sample/1.in": "1\n",
        "data/sample/1.ans": "2\n",
        "data/secret/b/2.in": "5\n",
        "data/secret/b/2.ans": "10\n",
        "data/secret/a/1.in": "3\n",
        "data/secret/a/1.ans": "6\n",
    }
    for path, text in {**contents, **(files or {})}.items():
        write(folder / name / path, text)
    return folder / name


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def load(path: Path) -> list[Problem]:
    return load_problems([f"kattis:{path}"])


def test_a_package_gives_a_problem(tmp_path: Path) -> None:
    [problem] = load(make_package(tmp_path))
    assert problem.id == "kattis/twice"
    assert problem.dataset == "kattis"
    assert problem.metadata["name"] == "Twice the Fun"
    assert problem.source == "Spring Cup"
    assert problem.checker == "kattis"
    assert (problem.time_limit_s, problem.memory_limit_bytes) == (2.0, 512 << 20)


def test_tests_are_named_and_ordered_with_the_samples_first(tmp_path: Path) -> None:
    [problem] = load(make_package(tmp_path))
    assert [(test.name, test.split) for test in problem.tests] == [
        ("sample/1", "public"),
        ("secret/a/1", "hidden"),
        ("secret/b/2", "hidden"),
    ]
    assert (problem.tests[2].input, problem.tests[2].output) == ("5\n", "10\n")


def test_the_statement_is_plain_text_with_the_samples_below(tmp_path: Path) -> None:
    [problem] = load(make_package(tmp_path))
    assert problem.statement == (
        "Read n (1 <= n <= 10^18).\n\n## Input\n\nOne integer.\n\n## Sample Input 1\n1\n\n## Sample Output 1\n2"
    )


def test_a_folder_of_packages_is_loaded_by_name(tmp_path: Path) -> None:
    for name in ("zebra", "apple"):
        make_package(tmp_path, name=name)
    (tmp_path / ".git").mkdir()
    assert [problem.id for problem in load(tmp_path)] == ["kattis/apple", "kattis/zebra"]


def test_a_test_given_in_two_groups_is_taken_once(tmp_path: Path) -> None:
    files = {"data/secret/b/3.in": "3\n", "data/secret/b/3.ans": "6\n"}
    [problem] = load(make_package(tmp_path, files))
    assert [test.name for test in problem.tests] == ["sample/1", "secret/a/1", "secret/b/2"]


def test_one_input_with_two_answers_is_refused(tmp_path: Path) -> None:
    files = {"data/secret/b/3.in": "3\n", "data/secret/b/3.ans": "7\n"}
    with pytest.raises(ProblemError, match=r"b/3.ans: differs from the answer of secret/a/1"):
        load(make_package(tmp_path, files))


def test_links_that_were_checked_out_as_text_are_followed(tmp_path: Path) -> None:
    files = {
        "data/secret/c/1.in": "../a/1.in",
        "data/secret/c/1.ans": "../../secret/a/1.ans",
        "data/secret/d/1.in": "../c/1.in",
        "data/secret/d/1.ans": "../c/1.ans",
        "data/secret/c/2.in": "../../sample/1.in",
        "data/secret/c/2.ans": "../../sample/1.ans",
    }
    [problem] = load(make_package(tmp_path, files))
    assert [test.name for test in problem.tests] == ["sample/1", "secret/a/1", "secret/b/2"]


def test_test_data_that_only_looks_like_a_path_is_kept(tmp_path: Path) -> None:
    files = {
        "data/secret/c/1.in": "../a/1.in\n",
        "data/secret/c/1.ans": "../../../../elsewhere.ans",
        "data/secret/c/2.in": "../a/1.ans and more",
        "data/secret/c/2.ans": "../a/1.in",
    }
    [problem] = load(make_package(tmp_path, files))
    assert [(test.input, test.output) for test in problem.tests[3:]] == [
        ("../a/1.in\n", "../../../../elsewhere.ans"),
        ("../a/1.ans and more", "../a/1.in"),
    ]


@pytest.mark.parametrize(
    ("link", "complaint"),
    [("../a/9.in", r"a/9.in: missing; .*c/1.in is a link to it"), ("../c/1.in", r"c/1.in: a link that does not end")],
)
def test_a_link_to_nowhere_is_named(tmp_path: Path, link: str, complaint: str) -> None:
    package = make_package(tmp_path, {"data/secret/c/1.in": link, "data/secret/c/1.ans": "6\n"})
    with pytest.raises(ProblemError, match=complaint):
        load(package)


@pytest.mark.parametrize(
    ("yaml", "name"),
    [
        ("name: Doubling", "Doubling"),
        ("name: {sv: Dubbla, en: Doubling}", "Doubling"),
        ("name: {sv: Dubbla}", "Dubbla"),
        ("", "Twice the Fun"),
    ],
)
def test_the_name_is_text_or_a_map_of_languages_or_the_title(tmp_path: Path, yaml: str, name: str) -> None:
    [problem] = load(make_package(tmp_path, {"problem.yaml": yaml}))
    assert problem.metadata["name"] == name


def test_limits_come_from_the_package(tmp_path: Path) -> None:
    [problem] = load(make_package(tmp_path, {"problem.yaml": "limits: {memory: 64, time_limit: 1.5}"}))
    assert (problem.time_limit_s, problem.memory_limit_bytes) == (1.5, 64 << 20)


def test_the_time_limit_file_is_read(tmp_path: Path) -> None:
    [problem] = load(make_package(tmp_path, {".timelimit": "7\n"}))
    assert problem.time_limit_s == 7.0


@pytest.mark.parametrize(
    ("path", "line", "checker"),
    [
        ("problem.yaml", "validator_flags: float_tolerance 1e-6", "kattis float_tolerance 1e-06"),
        (
            "problem.yaml",
            "validator_flags: case_sensitive  space_change_sensitive",
            "kattis case_sensitive space_change_sensitive",
        ),
        (
            "data/testdata.yaml",
            "output_validator_flags: float_absolute_tolerance 0.1",
            "kattis float_absolute_tolerance 0.1",
        ),
    ],
)
def test_validator_flags_become_options_of_the_checker(tmp_path: Path, path: str, line: str, checker: str) -> None:
    [problem] = load(make_package(tmp_path, {path: line}))
    assert problem.checker == checker


@pytest.mark.parametrize(
    ("flags", "verdict"),
    [("", "wrong_answer"), ("float_tolerance 0.1", "accepted"), ("float_tolerance 0.1 case_sensitive", "wrong_answer")],
)
def test_the_judge_compares_as_the_package_asks(tmp_path: Path, flags: str, verdict: str) -> None:
    files = {"problem.yaml": f"validator_flags: {flags}", "data/secret/b/2.ans": "10 Yes\n"}
    [problem] = load(make_package(tmp_path, files))
    tests = [TestCase(input=test.input, output=test.output) for test in problem.tests[2:]]
    with Judge(num_workers=1) as judge:
        assert judge.judge("print(10.05, 'yes')", tests, checker=problem.checker).verdict == verdict


def test_a_markdown_statement_is_taken_as_it_is(tmp_path: Path) -> None:
    package = make_package(tmp_path, {"problem_statement/problem.en.md": "Print `2n`.\n"})
    (package / "problem_statement/problem.en.tex").unlink()
    [problem] = load(package)
    assert problem.statement.startswith("Print `2n`.\n\n## Sample Input 1")


def test_the_english_statement_is_preferred(tmp_path: Path) -> None:
    [problem] = load(make_package(tmp_path, {"problem_statement/problem.da.tex": "Skriv."}))
    assert problem.statement.startswith("Read n")


@pytest.mark.parametrize(
    ("removed", "complaint"),
    [
        ("problem.yaml", r"problem.yaml: missing"),
        ("problem_statement/problem.en.tex", r"add the statement"),
        ("data/secret/a/1.ans", r"a/1.ans: missing; write the expected output of 1.in"),
        ("data/secret/a/1.in", r"a/1.in: missing; write the input of 1.ans"),
    ],
)
def test_a_missing_file_is_named_with_the_fix(tmp_path: Path, removed: str, complaint: str) -> None:
    package = make_package(tmp_path)
    (package / removed).unlink()
    with pytest.raises(ProblemError, match=complaint):
        load(tmp_path)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"problem.yaml": "a: [1"}, r"problem.yaml: not valid YAML"),
        ({"problem.yaml": "- 1"}, r"problem.yaml: holds a list"),
        ({"problem.yaml": "name: 5"}, r"problem.yaml: name: "),
        ({"problem.yaml": "limits: 3"}, r"problem.yaml: limits: "),
        ({"problem.yaml": "limits: {memory: much}"}, r"problem.yaml: limits.memory: "),
        ({"problem.yaml": "limits: {time_limit: 0}"}, r"problem.yaml: limits.time_limit: "),
        ({"problem.yaml": "[" * 500}, r"problem.yaml: not valid YAML"),
        ({"problem.yaml": "type: [scoring, interactive]"}, r"problem.yaml: type 'interactive' is not supported"),
        ({"problem.yaml": "validator_flags: float_tolerance -1"}, r"needs a number of at least 0 behind it, got '-1'"),
        ({"problem.yaml": "validator_flags: float_tolerance nan"}, r"needs a number of at least 0 behind it"),
        ({"problem_statement/problem.en.tex": "{" * 9999}, r"problem.en.tex: braces are nested too deeply"),
        ({"problem.yaml": "validation: custom"}, r"problem.yaml: validation 'custom' is not supported"),
        ({"problem.yaml": "validator_flags: fuzzy"}, r"problem.yaml: validator flag 'fuzzy' is unknown"),
        ({"problem.yaml": "validator_flags: float_tolerance"}, r"float_tolerance needs a number"),
        ({".timelimit": "soon"}, r".timelimit: expected one number"),
        (
            {
                "data/secret/a/testdata.yaml": "output_validator_flags: case_sensitive",
                "problem.yaml": "validator_flags: float_tolerance 0.1",
            },
            r"the validator flags differ",
        ),
    ],
)
def test_a_malformed_part_is_named(tmp_path: Path, files: dict[str, str], complaint: str) -> None:
    package = make_package(tmp_path, files)
    with pytest.raises(ProblemError, match=complaint):
        load(package)


def test_a_test_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    package = make_package(tmp_path)
    (package / "data/secret/a/1.in").write_bytes(b"ab\xff")
    with pytest.raises(ProblemError, match=r"a/1.in: not UTF-8 at byte 2"):
        load(package)


def test_a_folder_in_place_of_a_test_is_named(tmp_path: Path) -> None:
    package = make_package(tmp_path)
    (package / "data/secret/a/1.ans").unlink()
    (package / "data/secret/a/1.ans").mkdir()
    with pytest.raises(ProblemError, match=r"a/1.ans: not readable \(Is a directory\)"):
        load(package)


def test_a_package_that_lost_its_settings_is_no_folder_of_packages(tmp_path: Path) -> None:
    package = make_package(tmp_path)
    (package / "problem.yaml").unlink()
    with pytest.raises(ProblemError, match=r"twice/problem.yaml: missing"):
        load(package)


def test_a_package_without_tests_is_refused(tmp_path: Path) -> None:
    package = make_package(tmp_path)
    for file in [*package.rglob("*.in"), *package.rglob("*.ans")]:
        file.unlink()
    with pytest.raises(ProblemError, match=r"no tests; add NAME.in and NAME.ans"):
        load(package)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_packages_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProblemError, match=f"{name}: .*Kattis package"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"$a \times b \neq \frac{a}{2}$", "a x b != (a)/(2)"),
        (r"$x_{ij}$, $2^{k}$, $2^{k+1}$ and $\lfloor x \rfloor$", "x_ij, 2^k, 2^(k+1) and floor(x )"),
        (r"say ``\texttt{hi\_there}'' 50\% \& more~now", 'say "hi_there" 50% & more now'),
        (r"\begin{itemize}\item one \item \textbf{two}\end{itemize}", "- one\n- two"),
        (
            "\\begin{tabular}{|l|p{1cm}|}\\hline\n\\textbf{A} & B \\\\ \\hline\n1\n& 2 \\\\ \\end{tabular}",
            "A | B\n1 | 2",
        ),
        (
            r"\begin{figure}[h]\includegraphics[width=1\textwidth]{a.png}\caption{So.}\label{x}\end{figure}",
            "(Figure: So.)",
        ),
        ("before\n\\begin{verbatim}\n  a   %b\\c\n\\end{verbatim}\nafter", "before\n\n  a   %b\\c\n\nafter"),
        (r"\unknown{kept} and \illustration{0.4}{a}{b} end", "kept and end"),
        ("unbalanced } and { open", "unbalanced and open"),
        (r"costs \$5, not $5$", "costs $5, not 5"),
        ("ends in \\", "ends in \\"),
    ],
)
def test_latex_becomes_plain_text(source: str, text: str) -> None:
    assert latex_to_text(source) == text


def test_the_title_is_empty_where_there_is_none() -> None:
    assert latex_title("no title") == ""
    assert latex_title("\\problemname{A \\& B} text") == "A & B"


def test_submissions_are_known_solutions(tmp_path: Path) -> None:
    files = {
        "submissions/accepted/b.py": "print(2 * int(input()))\n",
        "submissions/accepted/a.cpp": "int main() {}\n",
        "submissions/accepted/old.py": "#!/usr/bin/env python2\nprint input()\n",
        "submissions/accepted/several/main.py": "",
        "submissions/accepted/README.md": "",
        "submissions/wrong_answer/square.py": "print(int(input()) ** 2)\n",
        "submissions/time_limit_exceeded/slow.PY": "while True: pass\n",
        "submissions/run_time_error/crash.java": "\xff",
        "submissions/partially_accepted/some.py": "print(2)\n",
    }
    [problem] = load(make_package(tmp_path, files))
    assert [(one.language, one.correct, one.note) for one in problem.solutions] == [
        ("cpp", True, "accepted/a.cpp"),
        ("python", True, "accepted/b.py"),
        ("python2", True, "accepted/old.py"),
        ("python", False, "wrong_answer/square.py"),
        ("python", False, "time_limit_exceeded/slow.PY"),
        ("java", False, "run_time_error/crash.java"),
    ]
