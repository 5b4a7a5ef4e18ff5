"""Finding the program in a response."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spo.problems import extract_code, fenced

FENCED = "Sure:\n```python\nprint(1)\n```\nThat is all.\n"

code_lines = st.lists(
    st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20).filter(
        lambda line: not line.lstrip(" \t").startswith(("```", "~~~"))
    ),
    min_size=1,
    max_size=8,
).filter(lambda lines: any(line.strip() for line in lines))


@given(code_lines, st.sampled_from(["", "python", "Python", "py", "python3"]), st.sampled_from(["```", "~~~~"]))
def test_code_in_a_fence_comes_back_as_it_was(lines: list[str], tag: str, fence: str) -> None:
    code = "\n".join(lines) + "\n"
    assert extract_code(f"Here it is.\n\n{fence}{tag}\n{code}{fence}\nGood luck!") == code


@given(code_lines)
def test_code_without_a_fence_comes_back_as_it_was(lines: list[str]) -> None:
    code = "\n".join(lines) + "\n"
    assert extract_code(code) == code


@given(st.text(alphabet="`~ \n\r\tab:py#", max_size=60).filter(str.strip))
@example("\r\r\n:")
@example("```\ra")
def test_a_program_comes_back_from_the_response_that_it_is_written_as(code: str) -> None:
    assert extract_code(fenced(code)) == code.replace("\r\n", "\n").replace("\r", "\n").rstrip() + "\n"


@given(st.text(alphabet="`~ \n\tab:py", max_size=60))
def test_any_text_gives_code_or_none(text: str) -> None:
    code = extract_code(text)
    assert code is None or code.strip()


@pytest.mark.parametrize("text", ["", " \n\t\n", "```python\n\n```", "```cpp\nint x;\n```", "``` \n"])
def test_a_response_without_a_python_program_gives_none(text: str) -> None:
    assert extract_code(text) is None


def test_the_last_block_is_taken_unless_the_first_is_asked_for() -> None:
    text = FENCED + "Better:\n```python\nprint(2)\n```\n"
    assert extract_code(text) == "print(2)\n"
    assert extract_code(text, prefer="first") == "print(1)\n"


def test_blocks_in_other_languages_are_passed_over() -> None:
    assert extract_code(FENCED + "It prints:\n```text\n1\n```\n") == "print(1)\n"


def test_an_empty_block_is_passed_over() -> None:
    assert extract_code(FENCED + "```python\n\n```\n") == "print(1)\n"


def test_a_block_cut_off_by_the_end_counts_if_it_is_the_only_one() -> None:
    assert extract_code("```python\nprint(1)") == "print(1)\n"
    assert extract_code(FENCED + "```python\nprint(") == "print(1)\n"


def test_a_block_in_a_list_item_loses_its_indentation() -> None:
    assert extract_code("1. Code:\n   ```python\n   if x:\n       y()\n   ```\n") == "if x:\n    y()\n"


def test_a_shorter_fence_inside_does_not_end_a_block() -> None:
    assert extract_code('````python\ns = """\n```\n"""\n````\n') == 's = """\n```\n"""\n'


def test_windows_line_ends_in_a_block_become_newlines() -> None:
    assert extract_code("```python\r\nprint(1)\r\n```\r\n") == "print(1)\n"
