"""The errors of isae: one root, one class per thing a user can mend.

Every message says what was expected, what was found and what to do about it. Command lines print
the message as one line and leave with exit code 2; a traceback means a defect in isae.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IsaeError(Exception):
    """Root of every error that isae raises on purpose."""


class ConfigError(IsaeError, ValueError):
    """An option or configuration value is out of range, or values contradict each other."""


class UnknownNameError(IsaeError, KeyError):
    """A layer, model, codec or other name is not one of the known ones."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ImageError(IsaeError):
    """An image source is missing, empty, or holds too many pictures that cannot be read."""


class WeightsError(IsaeError):
    """Network weights are missing, of the wrong shape, or of an unknown format."""


class StoreError(IsaeError):
    """An activation store is missing, already there, or not usable as asked."""


class StoreIncompleteError(StoreError):
    """A store was never finished: its completion mark is missing."""


class StoreCorruptError(StoreError):
    """A file of a store is missing or is not what was written."""


class CodecError(StoreCorruptError, ValueError):
    """A coded chunk is not what its codec writes."""


class DataError(IsaeError, ValueError):
    """Numbers that must be finite are not, or arrays do not fit together."""


class KernelError(IsaeError, ValueError):
    """A kernel was asked for shapes, dtypes, devices or sizes that it cannot serve."""


class RunError(IsaeError):
    """A training run folder is missing, unfinished, already there, or of another configuration."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that is not in `known`, with the nearest names first."""
    names = list(known)
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}; " if near else ""
    return UnknownNameError(f"unknown {kind} '{name}': {hint}known: {', '.join(names)}")
