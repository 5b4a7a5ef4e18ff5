"""Settings: what is read back, and what is refused with which words."""

from pathlib import Path

import pytest

from spo.config import load_config, parse_config, preset_names, read_resolved, to_toml, write_resolved
from spo.errors import ConfigError


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_is_valid_and_survives_writing_and_reading(preset: str, tmp_path: Path) -> None:
    config = load_config(preset)
    write_resolved(config, tmp_path)
    assert read_resolved(tmp_path) == config


def test_overrides_reach_their_fields_with_their_types() -> None:
    config = load_config(
        "tiny",
        [
            "trainer.total_steps=7",
            "model.path=/a b/c",
            'problems.train=["x", "y"]',
            "objective.beta=0.5",
            "seed=3",
        ],
    )
    assert config.trainer.total_steps == 7
    assert config.model.path == "/a b/c"
    assert config.problems.train == ("x", "y")
    assert config.objective.beta == 0.5
    assert config.seed == 3


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.total_stps=3", ["trainer", "total_stps", "total_steps"]),
        ("nonsense=1", ["nonsense", "the fields are"]),
        ("trainer.total_steps=many", ["trainer.total_steps", "int"]),
        ("trainer.total_steps=0", ["trainer.total_steps", ">= 1"]),
        ("trainer.total_steps", ["section.field=value"]),
        ("seed.x=1", ["seed"]),
        ("workers.engine=typewriter", ["workers.engine", "typewriter"]),
        ("evaluation.ks=[1, 50]", ["pass@50", "evaluation.num_samples"]),
        ("sampling.temperature_min=2.0", ["sampling.temperature_min", "sampling.temperature_max"]),
        ("replay.max_staleness=0", ["replay.max_staleness", "weights.model_update_interval"]),
        ("sampling.max_new_tokens=4096", ["batch.token_budget", "sampling.max_new_tokens"]),
        ("batch.group_size=3", ["batch.num_trajectories (64)", "batch.group_size (3)"]),
        ("batch.group_size=32", ["sampling.samples_per_problem", "batch.group_size (32)"]),
        ("replay.order=priority", ["replay.order", "oldest", "uniform", "recent"]),
        ("batch.fractions_of=bytes", ["batch.fractions_of", "trajectories", "tokens"]),
    ],
)
def test_a_bad_setting_is_refused_by_name(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config("tiny", [override])
    for word in words:
        assert word in str(refused.value)


def test_groups_of_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch\.group_size is 2, .*batch\.fractions_of"):
        load_config("tiny", ["batch.group_size=2", "batch.fractions_of=tokens"])


def test_a_missing_preset_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"tinny.*tiny"):
        load_config("tinny")


def test_broken_toml_names_the_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("seed = 1\nmodel = = 3\n")
    with pytest.raises(ConfigError, match=r"broken\.toml.*line 2"):
        load_config(str(path))


def test_settings_survive_as_toml_text() -> None:
    config = load_config("tiny", ["seed=5"])
    assert parse_config(to_toml(config), "the orchestrator") == config
    with pytest.raises(ConfigError, match="the orchestrator: not valid TOML"):
        parse_config("seed =", "the orchestrator")
