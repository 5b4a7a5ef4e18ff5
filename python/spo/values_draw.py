"""Views of responses as files: HTML that needs nothing else, and PNG by matplotlib."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spo.errors import ConfigError
from spo.files import replace_file
from spo.values_view import View

_MIN_COLUMNS, _COLUMNS = 60, 100
"""Characters in a line of a picture, at least and at most."""
_CHARACTER_INCHES, _LINE_INCHES = 0.085, 0.2
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>spo values</title><style>
body { font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 60em; color: #222; background: #fff }
pre { font: 14px/1.5 monospace; background: #fafafa; border: 1px solid #ddd; padding: 1em; white-space: pre-wrap }
.pivotal { font-weight: bold; outline: 2px solid #222; border-radius: 2px }
</style></head><body>
"""


def write_html(views: Sequence[View], path: Path) -> None:
    """Writes a page of responses; what is known of a token shows when the mouse is over it."""
    body = "".join(_section(view) for view in views)
    replace_file(path, f"{_HEAD}{body}</body></html>\n".encode())


def write_png(views: Sequence[View], path: Path) -> None:
    """Draws responses below one another.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("--png needs matplotlib; install it by: pip install 'spo-rl[plot]'") from None
    pages = [(view, _lines(view)) for view in views]
    widths = [len(line) for _, lines in pages for line in lines]
    widths += [len(view.about(token)) for view in views for token in view.pivotal]
    columns = max(_MIN_COLUMNS, *widths, *(len(view.title) + 4 for view in views))
    num_lines = sum(len(lines) + len(view.pivotal) + 4 for view, lines in pages)
    figure = Figure(figsize=((columns + 4) * _CHARACTER_INCHES, (num_lines + 1) * _LINE_INCHES), dpi=130)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(-2, columns + 2)
    axes.set_ylim(num_lines + 0.5, -0.5)
    axes.axis("off")
    top = 0
    for view, lines in pages:
        top = _draw(axes, view, lines, top)
    figure.savefig(path, format="png")


def _section(view: View) -> str:
    pivotal = {token.position for token in view.pivotal}
    spans = []
    for place, piece in enumerate(view.pieces):
        color = view.color(place)
        style = f' style="background:rgb{color}"' if color else ""
        marked = ' class="pivotal"' if place in pivotal else ""
        about = f"token {place}: advantage {view.advantages[place]:+.4f}"
        if place in view.counts:
            about += f", success before it {view.counts[place].successes} of {view.counts[place].num_samples}"
        spans.append(f'<span title="{html.escape(about)}"{marked}{style}>{html.escape(piece)}</span>')
    items = "".join(f"<li>{html.escape(view.about(token))}</li>" for token in view.pivotal)
    return f"<h3>{html.escape(view.title)}</h3><pre>{''.join(spans)}</pre><ul>{items}</ul>\n"


def _lines(view: View) -> list[list[tuple[str, int]]]:
    """The response cut into lines of characters, each with its token."""
    lines: list[list[tuple[str, int]]] = [[]]
    for place, piece in enumerate(view.pieces):
        for character in piece.expandtabs(4):
            if character == "\n":
                lines[-1].append(("⏎", place))
            if character == "\n" or len(lines[-1]) >= _COLUMNS:
                lines.append([])
            if character != "\n":
                lines[-1].append((character, place))
    return lines


def _draw(axes: Any, view: View, lines: list[list[tuple[str, int]]], top: int) -> int:
    from matplotlib.patches import Rectangle

    style = {"family": "monospace", "fontsize": 9, "va": "center"}
    axes.text(0, top + 0.5, view.title, fontsize=10, weight="bold", va="center")
    pivotal = {token.position for token in view.pivotal}
    for row, line in enumerate(lines, top + 2):
        for column, (character, place) in enumerate(line):
            color = view.color(place)
            if color:
                fill = tuple(part / 255 for part in color)
                axes.add_patch(Rectangle((column, row - 0.5), 1, 1, facecolor=fill, linewidth=0))
            weight = "bold" if place in pivotal else "normal"
            tone = "#aaaaaa" if character == "⏎" else "black"
            axes.text(column + 0.5, row, _drawable(character), ha="center", weight=weight, color=tone, **style)
            if place in pivotal:
                axes.plot([column, column + 1], [row + 0.42, row + 0.42], color="black", linewidth=1.5)
    end = top + 2 + len(lines)
    for row, token in enumerate(view.pivotal, end):
        axes.text(0, row, _drawable(view.about(token)), **style)
    return end + len(view.pivotal) + 2


def _drawable(text: str) -> str:
    """Dollars would begin mathematics."""
    return text.replace("$", r"\$")
