"""Code extraction: the program in a model's response, which may be prose around fenced blocks or bare code.

Only the text is looked at, in one pass over its lines; whether it is valid Python is the judge's to say.
"""

import re
import textwrap
from typing import Literal, NamedTuple

_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^`\s]*)[^`]*$")
_PYTHON_TAGS = frozenset({"", "python", "python3", "py", "py3"})


class _Block(NamedTuple):
    tag: str
    code: str
    closed: bool


def extract_code(response_text: str, prefer: Literal["last", "first"] = "last") -> str | None:
    """Return the program in a response, or None if there is none.

    Fenced Markdown blocks tagged as Python, or not tagged, are candidates; one that was never closed (a
    response that ended early) counts only if no block was. Without any fence the whole text is the program.

    Args:
        response_text: The decoded response.
        prefer: Which of several blocks to take.
    """
    blocks = _fenced_blocks(response_text)
    if blocks is None:
        return response_text if response_text.strip() else None
    candidates = [block for block in blocks if block.tag in _PYTHON_TAGS and block.code.strip()]
    candidates = [block for block in candidates if block.closed] or candidates
    if not candidates:
        return None
    return candidates[-1 if prefer == "last" else 0].code


def fenced(code: str) -> str:
    """A response that consists of a program: one fenced block, which `extract_code` takes the program from again.

    Line ends are written as Python reads them: a carriage return is one, alone or before a line feed.
    """
    lines = code.replace("\r\n", "\n").replace("\r", "\n").rstrip()
    longest = max((len(run) for run in re.findall(r"`+", lines)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}python\n{lines}\n{fence}"


def _fenced_blocks(text: str) -> list[_Block] | None:
    """The fenced blocks of a text; None if no line opens one."""
    blocks: list[_Block] = []
    opening: re.Match[str] | None = None
    body: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        match = _FENCE.match(line)
        if opening is None:
            if match:
                opening, body = match, []
        elif match and _closes(match, opening):
            blocks.append(_block(opening, body, closed=True))
            opening = None
        else:
            body.append(line)
    if opening is not None:
        blocks.append(_block(opening, body, closed=False))
    return blocks or None


def _closes(match: re.Match[str], opening: re.Match[str]) -> bool:
    """Whether a fence line ends the block: the same mark, at least as long, and nothing behind it."""
    mark = match[2]
    return mark.startswith(opening[2]) and match.string.strip() == mark


def _block(opening: re.Match[str], body: list[str], closed: bool) -> _Block:
    code = "\n".join(body) + "\n"
    if opening[1]:  # A fence inside a list item is indented, and its code with it.
        code = textwrap.dedent(code)
    return _Block(opening[3].lower(), code, closed)
