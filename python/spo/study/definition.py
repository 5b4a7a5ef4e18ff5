"""What a study is made of: arms (settings that are compared), figures (arms drawn together) and claims (to be judged).

Studies come with the package as TOML files beside this module. An arm is run once for each seed. Nothing is run here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from typing import Literal

import msgspec

from spo.config import load_config
from spo.errors import ConfigError


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all parts: frozen, unknown fields refused."""


class Arm(_Part, frozen=True):
    """Settings whose runs are compared with those of other arms.

    Attributes:
        label: How reports call it.
        settings: `section.field=value`, on top of the study's.
        searched: Whether its runs are given what the pivotal token search left; see `Study.search`.
    """

    label: str
    settings: tuple[str, ...] = ()
    searched: bool = False


class Figure(_Part, frozen=True):
    """Arms that are drawn and listed together, after a figure of the paper where there is one."""

    name: str
    title: str
    arms: tuple[str, ...]


class Claim(_Part, frozen=True):
    """Something that the paper found, in terms of arms.

    Attributes:
        text: The finding, with its place in the paper.
        kind: `better` (`arm` is above `than`), `alike` (they differ by less than `margin`), `rises` or `falls` (`arm`
            against the reference before training), `faster` or `smaller` (training time, or memory, of `arm` is less
            than that of `than`).
        arm: The arm that it is about.
        than: The arm that it is compared with.
        k: Of pass@k, for those kinds that are about it.
        over: `final` compares the last versions, `curve` the area under pass@k over the steps.
        margin: How far apart two arms may be and still be called alike.
        paper: What the paper measured, where it gives a number.
    """

    text: str
    kind: Literal["better", "alike", "rises", "falls", "faster", "smaller"]
    arm: str
    than: str = ""
    k: int = 10
    over: Literal["final", "curve"] = "final"
    margin: float = 0.05
    paper: str = ""


class Quick(_Part, frozen=True):
    """The short form of a study: fewer seeds, settings on top of those of every arm, a search of its own."""

    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    search: tuple[str, ...] = ()


class Study(_Part, frozen=True):
    """A whole study.

    Attributes:
        base: The preset that all arms start from.
        seeds: Each arm is run with each.
        settings: Of all arms, on top of the preset.
        search: Options of `spo values pivotal`, for the search on the reference's accepted samples of each seed.
        quick: The short form.
        arms: By name; the name is also that of the folder with its runs.
        figures: In the order of the report.
        claims: In the order of the report.
    """

    base: str
    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    quick: Quick
    arms: dict[str, Arm]
    figures: tuple[Figure, ...]
    claims: tuple[Claim, ...]
    search: tuple[str, ...] = ()

    def settings_of(self, arm: str) -> list[str]:
        """The settings of an arm's runs, later ones winning."""
        return [*self.settings, *self.arms[arm].settings]


def study_names() -> list[str]:
    """The studies that come with the package."""
    folder = resources.files("spo.study")
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load_study(name: str, *, quick: bool = False, seeds: Sequence[int] = (), arms: Sequence[str] = ()) -> Study:
    """Reads a study and checks it whole.

    Args:
        name: One of `study_names()`.
        quick: Whether the short form is wanted.
        seeds: Instead of the study's own.
        arms: Only these; figures and claims that need others lose them. None: all.

    Raises:
        ConfigError: There is no such study or arm, or the file is wrong; names the field.
    """
    if name not in study_names():
        raise ConfigError(f"study {name!r}: there is none; the studies are {', '.join(study_names())}")
    text = (resources.files("spo.study") / f"{name}.toml").read_text(encoding="utf-8")
    study = parse_study(text, f"{name}.toml")
    if quick:
        settings = (*study.settings, *study.quick.settings)
        short = study.quick
        study = msgspec.structs.replace(study, seeds=short.seeds, settings=settings, search=short.search)
    if seeds:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ConfigError(f"--seeds: {' '.join(map(str, seeds))}: give different numbers from 0 on")
        study = msgspec.structs.replace(study, seeds=tuple(seeds))
    return _only(study, arms) if arms else study


def parse_study(text: str, origin: str) -> Study:
    """Reads a study from TOML text; `origin` says in errors where it came from.

    Raises:
        ConfigError: The text is wrong, names an arm that there is none of, or an arm's settings are impossible.
    """
    try:
        study = msgspec.convert(tomllib.loads(text), Study)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{origin}: {error}") from None
    for place, names in (
        *((f"figures {figure.name!r}", figure.arms) for figure in study.figures),
        *((f"claims {claim.text!r}", (claim.arm, *([claim.than] if claim.than else []))) for claim in study.claims),
    ):
        for name in names:
            if name not in study.arms:
                raise ConfigError(f"{origin}: {place}: no arm {name!r}; the arms are {', '.join(study.arms)}")
    for name in study.arms:
        try:
            load_config(study.base, study.settings_of(name))
        except ConfigError as error:
            raise ConfigError(f"{origin}: arms.{name}: {error}") from None
    return study


def _only(study: Study, arms: Sequence[str]) -> Study:
    if unknown := [name for name in arms if name not in study.arms]:
        raise ConfigError(f"--arms: no arm {unknown[0]!r}; the arms are {', '.join(study.arms)}")
    figures = [
        msgspec.structs.replace(figure, arms=tuple(name for name in figure.arms if name in arms))
        for figure in study.figures
    ]
    return msgspec.structs.replace(
        study,
        arms={name: arm for name, arm in study.arms.items() if name in arms},
        figures=tuple(figure for figure in figures if figure.arms),
        claims=tuple(claim for claim in study.claims if {claim.arm, claim.than} - {""} <= set(arms)),
    )
