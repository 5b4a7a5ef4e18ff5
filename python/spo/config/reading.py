"""Reading settings from a preset, a TOML file and `section.field=value` overrides; writing them as TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from spo.config.together import check_together
from spo.config.whole import Config
from spo.errors import ConfigError


def preset_names() -> list[str]:
    """The presets that come with the package."""
    folder = resources.files("spo.presets")
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def load_config(preset_or_path: str | None, overrides: Sequence[str] = ()) -> Config:
    """Reads a preset (by name) or a TOML file, applies `section.field=value` overrides and checks the whole.

    None instead of a preset stands for the defaults.

    Raises:
        ConfigError: An unknown preset, a missing file, wrong TOML, an unknown or ill-typed field, values that exclude
            each other. The text names the field and the fix.
    """
    data = {} if preset_or_path is None else _read_toml(preset_or_path)
    for override in overrides:
        _apply_override(data, override)
    return _checked(data, preset_or_path or "settings")


def parse_config(text: str, origin: str) -> Config:
    """Reads settings from TOML text; `origin` says in errors where it came from.

    Raises:
        ConfigError: As for `load_config`.
    """
    return _checked(_parse_toml(text, origin), origin)


def read_resolved(run_dir: str | Path) -> Config:
    """Reads the settings that a run was started with (`RUN_DIR/config.toml`)."""
    return load_config(str(Path(run_dir) / "config.toml"))


def write_resolved(config: Config, run_dir: str | Path) -> None:
    """Writes the settings to `RUN_DIR/config.toml`, every field spelt out."""
    (Path(run_dir) / "config.toml").write_text(to_toml(config), encoding="utf-8")


def to_toml(config: Config) -> str:
    """The settings as TOML text that `load_config` reads back to an equal `Config`."""
    data = msgspec.to_builtins(config)
    lines = [f"{key} = {_toml_value(value)}" for key, value in data.items() if not isinstance(value, dict)]
    for name, section in data.items():
        if isinstance(section, dict):
            lines += ["", f"[{name}]", *(f"{key} = {_toml_value(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def _read_toml(preset_or_path: str) -> dict[str, Any]:
    if preset_or_path in preset_names():
        text = (resources.files("spo.presets") / f"{preset_or_path}.toml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(preset_or_path).read_text(encoding="utf-8")
        except FileNotFoundError:
            names = ", ".join(preset_names())
            raise ConfigError(f"{preset_or_path}: no such preset or TOML file; the presets are {names}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{preset_or_path}: cannot be read: {error}") from None
    return _parse_toml(text, preset_or_path)


def _parse_toml(text: str, origin: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin}: not valid TOML: {error}") from None


def _apply_override(data: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"override {override!r}: write section.field=value, such as trainer.total_steps=500")
    for key in keys[:-1]:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ConfigError(f"override {override!r}: {key!r} is not a section")
    data[keys[-1]] = _parse_value(text.strip())


def _parse_value(text: str) -> Any:
    """A TOML value; what is none (a bare word or path) is taken as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _checked(data: dict[str, Any], origin: str) -> Config:
    try:
        config = msgspec.convert(data, Config)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        field = where.rstrip("`")
        raise ConfigError(f"{origin}: {field + ': ' if field else ''}{what}{_suggestion(what, field)}") from None
    check_together(config)
    return config


def _suggestion(what: str, field: str) -> str:
    """What would have been right, for what msgspec found wrong at `field`."""
    if "unknown field" in what:
        return f"; the fields are {', '.join(_type_at(field).__struct_fields__)}"
    if "Invalid enum value" in what:
        return f"; choose from {', '.join(map(str, get_args(_type_at(field))))}"
    return ""


def _type_at(field: str) -> Any:
    """The type of the setting called `section.field` or `section.field[index].field`."""
    found: Any = Config
    for name in field.split(".") if field else ():
        found = get_type_hints(found)[name.partition("[")[0]]
        if "[" in name:
            found = get_args(found)[0]
    return found


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml_value(item)}" for key, item in value.items()) + "}"
    return repr(value)
