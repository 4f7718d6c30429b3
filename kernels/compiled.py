"""The compiled loops' decorator, from the foundation."""

from isae.compiled import SUMS, Compiled, compiled, prange

__all__ = ["SUMS", "Compiled", "compiled", "prange"]
