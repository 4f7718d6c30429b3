"""Packages whose public names are imported when they are first used (PEP 562).

`isae-store --help` would else wait for torch, numba and zarr.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of `package`; `modules` tells in which module each name is.

    The first raises AttributeError for other names, and ImportError where a module cannot be
    imported.
    """

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = f"{package}.{modules[name]}"
        try:
            imported = importlib.import_module(module)
        except AttributeError as error:
            # Python would take it for an answer: that the package has no such name.
            raise ImportError(
                f"expected {module} to be imported, found {error}; check the versions of the "
                "packages that are installed"
            ) from error
        return getattr(imported, name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return find, names
