"""LaTeX to plain text, for the problem statements of Kattis packages.

Covers what such statements use: headings, lists, tables, inline and display mathematics, verbatim blocks,
figures (only the caption is kept). An unknown command is dropped and its arguments stay. It is no TeX: macros
that a statement defines itself are not expanded.
"""

import re

_COMMENT = re.compile(r"(?<!\\)%[^\n]*\n?")
_VERBATIM = re.compile(r"\\begin\{(verbatim|lstlisting)\}\n?(.*?)\\end\{\1\}", re.DOTALL)
_TOKEN = re.compile(r"\\([a-zA-Z]+)\*?[ \t]*|\\(.)|([{}])", re.DOTALL)
_OPTION = re.compile(r"\s*\[[^\]]*\]")
_WORDS = {
    "le": " <= ", "leq": " <= ", "ge": " >= ", "geq": " >= ", "neq": " != ", "ne": " != ", "lt": " < ",
    "gt": " > ",
    "times": " x ", "cdot": " * ", "dots": "...", "ldots": "...", "cdots": "...", "dotsc": "...",
    "infty": "infinity", "pm": "+-", "to": "->", "rightarrow": "->", "in": " in ", "equiv": " = ",
    "oplus": " xor ", "approx": " ~ ", "pi": "pi", "epsilon": "epsilon", "alpha": "alpha", "beta": "beta",
    "lfloor": "floor(", "rfloor": ")", "lceil": "ceil(", "rceil": ")", "sum": "sum", "prod": "product",
    "min": "min", "max": "max", "log": "log", "ln": "ln", "bmod": " mod ", "mod": " mod ", "quad": " ",
    "textbackslash": "\\", "newline": "\n", "item": "\n- ", "hline": "", "par": "\n\n",
}  # fmt: skip
_ESCAPES = {
    "\\": "\n",
    ",": " ",
    ";": " ",
    ":": " ",
    " ": " ",
    "!": "",
    "[": "\n",
    "]": "\n",
    "(": "",
    ")": "",
}
_HEADINGS = frozenset({"section", "subsection", "subsubsection", "paragraph"})
_DROPPED_ARGUMENTS = {
    "includegraphics": 1, "label": 1, "ref": 1, "vspace": 1, "hspace": 1, "illustration": 3, "problemname": 1,
    "usepackage": 1, "documentclass": 1,
}  # fmt: skip
_TABLES = frozenset({"tabular", "tabularx", "array"})


def latex_title(source: str) -> str:
    r"""The problem's name as `\problemname{…}` gives it; empty if it is not there."""
    match = re.search(r"\\problemname\{([^}]*)\}", _COMMENT.sub("", source))
    return latex_to_text(match[1]) if match else ""


def latex_to_text(source: str) -> str:
    """Render a statement as plain text with `##` headings; blocks are separated by one blank line."""
    rendered: list[str] = []
    end = 0
    for match in _VERBATIM.finditer(source):
        rendered += [_render(source[end : match.start()]), match[2].rstrip("\n")]
        end = match.end()
    rendered.append(_render(source[end:]))
    return "\n\n".join(part for part in rendered if part)


def _render(source: str) -> str:
    text = _Renderer(_COMMENT.sub("", source)).run()
    text = text.replace("``", '"').replace("''", '"')
    lines = [re.sub(r"[ \t]+", " ", line).strip() for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


class _Renderer:
    """One pass over the source; `run` goes on to the end of the text or of the current group."""

    def __init__(self, source: str):
        self.source = source
        self.position = 0
        self.table_depth = 0

    def run(self, in_group: bool = False) -> str:
        parts: list[str] = []
        while match := _TOKEN.search(self.source, self.position):
            parts.append(self._plain(self.source[self.position : match.start()]))
            self.position = match.end()
            if match[3] == "}":
                if in_group:
                    return "".join(parts)
            elif match[3] == "{":
                parts.append(self._script(parts, self.run(in_group=True)))
            elif match[2] is not None:
                parts.append(_ESCAPES.get(match[2], match[2]))
            else:
                parts.append(self._command(match[1]))
        parts.append(self._plain(self.source[self.position :]))
        self.position = len(self.source)
        return "".join(parts)

    def _plain(self, text: str) -> str:
        text = text.replace("$", "").replace("~", " ")
        return text.replace("&", " | ").replace("\n", " ") if self.table_depth else text

    @staticmethod
    def _script(before: list[str], group: str) -> str:
        """Keep brackets around a sub- or superscript of several characters: 10^{18} is not 10^18x."""
        is_script = "".join(before[-1:])[-1:] in ("^", "_")
        return f"({group})" if is_script and not group.isalnum() else group

    def _command(self, name: str) -> str:
        if name in _WORDS:
            return _WORDS[name]
        if name in _HEADINGS:
            return f"\n\n## {self._argument()}\n"
        if name in _DROPPED_ARGUMENTS:
            self._skip_option()
            for _ in range(_DROPPED_ARGUMENTS[name]):
                self._argument()
            return ""
        if name in ("frac", "dfrac", "tfrac"):
            return f"({self._argument()})/({self._argument()})"
        if name == "sqrt":
            return f"sqrt({self._argument()})"
        if name == "caption":
            return f"\n(Figure: {self._argument()})\n"
        if name in ("begin", "end"):
            return self._environment(name, self._argument())
        return ""

    def _environment(self, name: str, environment: str) -> str:
        self._skip_option()
        if environment.rstrip("*") in _TABLES:
            self.table_depth += 1 if name == "begin" else -1
            if name == "begin":
                self._argument()  # The column specification.
        return "\n"

    def _argument(self) -> str:
        """Consume and render the next `{…}`; empty if none follows."""
        opening = re.compile(r"\s*\{").match(self.source, self.position)
        if opening is None:
            return ""
        self.position = opening.end()
        return self.run(in_group=True).strip()

    def _skip_option(self) -> None:
        if option := _OPTION.match(self.source, self.position):
            self.position = option.end()
