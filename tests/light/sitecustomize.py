"""Runs whose steps cost nothing: with this folder on PYTHONPATH, `spo.train` trains as `light_loop.py` says.

All else of a run is real: launcher, orchestrator, worker, judge, store and the connections between them. The worker's
engine has to be the fake one, whose tokens are bytes, whatever tokenizer the model has. No torch is needed.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType

_REPLACED = {"spo.trainer.loop": "light_loop", "spo.trainer.parallel": "light_loop"}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name in _REPLACED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update(vars(importlib.import_module(_REPLACED[module.__name__])))


class _Models(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets `spo.models` say that every tokenizer is the fake engine's."""

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != "spo.models":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        self._loader = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        module.tokenizer_fingerprint = lambda path: "bytes"


sys.meta_path[:0] = [_Finder(), _Models()]
