"""Stub of the compiled core; checked against it by `mypy.stubtest`. One section a core module."""

__version__: str

# --- trajectory ---

# --- store ---

# --- replay ---

# --- judge ---

# --- weights ---
