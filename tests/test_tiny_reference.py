"""The reference model of the tiny family: training, saving, reuse."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from spo.errors import ConfigError
from spo.tiny.__main__ import main
from spo.tiny.problems import pairs
from spo.tiny.programs import OPERATORS
from spo.tiny.reference import (
    CONFUSED_SHARES,
    IGNORED,
    ReferenceSettings,
    deal_shares,
    encode_batch,
    learning_rate,
    make_model,
    make_reference,
    programs,
    train,
)
from spo.tiny.tokenizer import make_tokenizer

SMALL = ReferenceSettings(hidden_size=32, num_layers=1, num_heads=2, num_steps=12, batch_size=8)


def test_training_lowers_the_loss_and_repeats_bit_for_bit() -> None:
    tokenizer = make_tokenizer()
    models = [make_model(tokenizer, SMALL, seed=1) for _ in range(2)]
    losses = [train(model, tokenizer, SMALL, seed=1) for model in models]
    assert losses[0][-1] < 0.9 * losses[0][0]
    assert losses[0] == losses[1]
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_saved_reference_loads_bit_for_bit(tmp_path: Path) -> None:
    directory = make_reference(tmp_path / "model", seed=2, num_threads=1, settings=SMALL)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, SMALL, seed=2)
    train(model, tokenizer, SMALL, seed=2)
    loaded = AutoModelForCausalLM.from_pretrained(directory)
    assert AutoTokenizer.from_pretrained(directory).get_vocab() == tokenizer.get_vocab()
    for name, parameter in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], parameter), name
    assert loaded.config.eos_token_id == tokenizer.eos_token_id


def test_a_complete_directory_is_reused_and_another_recipe_is_refused(tmp_path: Path) -> None:
    directory = make_reference(tmp_path / "model", seed=2, num_threads=1, settings=SMALL)
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    steps: list[int] = []
    make_reference(directory, seed=2, settings=SMALL, progress=lambda done, total, loss: steps.append(done))
    assert not steps
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before
    with pytest.raises(ConfigError, match="seed = 2, not 3"):
        make_reference(directory, seed=3, settings=SMALL)


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="empty directory"):
        make_reference(tmp_path, seed=0, settings=SMALL)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_interrupted_training_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(done: int, total: int, loss: float) -> None:
        raise KeyboardInterrupt

    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        make_reference(tmp_path / "model", seed=0, num_threads=1, settings=SMALL, progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == threads


def test_the_reference_never_sees_a_held_out_pair() -> None:
    held_out = set(pairs("evaluation"))
    for words, _ in islice(programs(0), 3000):
        assert tuple(part.split()[0] for part in words.split(" then ")) not in held_out


def test_the_seed_deals_the_shares_of_confusion() -> None:
    assert sorted(deal_shares(5).values()) == sorted(CONFUSED_SHARES)
    assert set(deal_shares(5)) == set(OPERATORS)
    assert deal_shares(5) == deal_shares(5) != deal_shares(6)


def test_only_the_response_is_learned() -> None:
    tokenizer = make_tokenizer()
    tokens, labels = encode_batch(tokenizer, list(islice(programs(0), 16)))
    for row, label in zip(tokens.tolist(), labels.tolist(), strict=True):
        learned = [token for token in label if token != IGNORED]
        assert learned[-1] == tokenizer.eos_token_id
        text = tokenizer.decode(learned, skip_special_tokens=True)
        assert tokenizer.decode(row, skip_special_tokens=True).endswith(text)
        assert text.splitlines()[0].endswith("= int(input())")


def test_the_rate_warms_up_to_its_peak_and_decays() -> None:
    settings = ReferenceSettings(num_steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == 1.0
    assert min(rates) > 0


def test_the_command_makes_a_reference_and_reports_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "model"
    assert main([str(directory), "--seed", "4", "--steps", "2", "--threads", "1"]) == 0
    assert json.loads((directory / "recipe.json").read_text())["seed"] == 4
    assert main([str(directory), "--seed", "5", "--steps", "2"]) == 2
    assert "seed = 4, not 5" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--steps", "--threads"])
def test_the_command_refuses_counts_below_one(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "model"), option, "0"])
    assert f"{option}: must be at least 1" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
