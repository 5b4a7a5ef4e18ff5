"""Responses coloured by advantage: what is shown, in the terminal and in files."""

from __future__ import annotations

import html.parser
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spo.cli import main
from spo.store import Trajectory, TrajectoryStore
from spo.values import soft_value
from spo.values_draw import write_html, write_png
from spo.values_view import View, as_text, make_view, token_texts

BETA = 1 / math.log(100_000)
RESPONSE = "print(<1> & 'ä€')\n"
COUNTS = ([0, 4, 5, 10], [2, 2, 8, 4], [10, 10, 10, 10])


def decode(tokens: list[int]) -> str:
    return bytes(token for token in tokens if token < 256).decode(errors="replace")


def trajectory(counts: object = COUNTS, reward: float = 0.0) -> Trajectory:
    return Trajectory(
        problem_id="test/<one>",
        prompt_tokens=[1, 2],
        response_tokens=[*RESPONSE.encode(), 256],
        reward=reward,
        verdict="accepted",
        source="online",
        mc_successes=counts,
    )


def view() -> View:
    return make_view(7, trajectory(), decode, BETA, threshold=0.2)


@given(st.text(max_size=40))
def test_the_texts_of_tokens_make_up_the_text(text: str) -> None:
    pieces = token_texts(list(text.encode()), decode)
    assert "".join(pieces) == text
    assert len(pieces) == len(text.encode())


def test_advantages_add_up_to_the_change_of_the_value_and_are_shared_in_between() -> None:
    shown = view()
    assert sum(shown.advantages) == pytest.approx(0 - soft_value(0.2, BETA))
    assert shown.advantages[:4] == [0.0] * 4
    assert shown.advantages[4] == pytest.approx(soft_value(0.8, BETA) - soft_value(0.2, BETA))
    assert shown.advantages[5:10] == pytest.approx([(soft_value(0.4, BETA) - soft_value(0.8, BETA)) / 5] * 5)
    assert [token.position for token in shown.pivotal] == [4]


def test_gains_are_green_losses_red_and_nothing_is_colourless() -> None:
    shown = view()
    assert shown.color(0) is None
    red, green, _ = shown.color(4) or (0, 0, 0)
    assert green > red
    red, green, _ = shown.color(6) or (0, 0, 0)
    assert red > green
    text = as_text(shown)
    assert text.plain == RESPONSE
    (pivotal,) = [span for span in text.spans if getattr(span.style, "underline", None)]
    assert text.plain[pivotal.start : pivotal.end] == "t"


def test_a_page_holds_the_response_and_is_whole_by_itself(tmp_path: Path) -> None:
    class Texts(html.parser.HTMLParser):
        text, in_pre = "", False

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.in_pre = self.in_pre or tag == "pre"
            assert not {"src", "href"} & {name for name, _ in attrs}

        def handle_endtag(self, tag: str) -> None:
            self.in_pre = self.in_pre and tag != "pre"

        def handle_data(self, data: str) -> None:
            self.text += data if self.in_pre else ""

    write_html([view()], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    parser = Texts()
    parser.feed(page)
    assert parser.text == RESPONSE
    assert 'class="pivotal"' in page
    assert "test/&lt;one&gt;" in page


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib").use("agg")
    write_png([view(), view()], tmp_path / "view.png")
    assert (tmp_path / "view.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_shows_annotated_responses_and_refuses_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with TrajectoryStore.open(tmp_path / "store", tokenizer="bytes") as store:
        annotated, bare, failed = store.append([trajectory(), trajectory(None), trajectory(reward=-1.0)])
    path = str(tmp_path / "store")
    assert main(["values", "show", path, str(annotated)]) == 0
    output = capsys.readouterr().out
    assert RESPONSE in output
    assert "token 4 't': success 0.20 → 0.80, advantage +0.120" in output
    assert main(["values", "show", path, "--json", "--limit", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["pivotal"] == [{"position": 4, "before": 0.2, "after": 0.8}]
    for id, reason in ((bare, "has no counts"), (failed, "was not accepted")):
        assert main(["values", "show", path, str(id)]) == 2
        assert reason in capsys.readouterr().err
    assert main(["values", "show", path, "12345"]) == 1
    (tmp_path / "empty").mkdir()
    assert main(["values", "show", str(tmp_path / "empty")]) == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "is of no run: give the folder of its model by --model"),
        (["--model", "nowhere"], "--model: nowhere holds no tokenizer"),
        (["--model", "other"], "--model: other has another tokenizer than"),
    ],
)
def test_responses_are_shown_by_the_tokenizer_of_their_store_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokenizer.json").write_text("{}")
    with TrajectoryStore.open(tmp_path / "store", tokenizer="the right one") as store:
        (id,) = store.append([Trajectory("p", [1], [2], 0.0, "accepted", "online")])
    assert main(["values", "show", "store", str(id), *words]) == 2
    assert reason in capsys.readouterr().err
