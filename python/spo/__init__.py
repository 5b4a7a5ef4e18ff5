"""Soft Policy Optimization: online off-policy RL that trains language models to write programs (arXiv 2503.05453)."""

from spo._native import __version__

__all__ = ["__version__"]
