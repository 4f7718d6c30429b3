"""Stand-ins for packages that a training step does not use but its package imports.

On a machine that has only torch, triton and numpy, `isae.train` cannot be imported: its loop
imports rich for progress and safetensors for files. Importing this module puts empty modules in
their place where they are absent. Names of rich do nothing; those of safetensors raise.
"""

from __future__ import annotations

import importlib.util
import sys
import types

from isae.errors import ConfigError

UNUSED = {
    "rich": ("rich", "rich.console", "rich.progress", "rich.text"),
    "safetensors": ("safetensors", "safetensors.torch"),
}
SILENT = ("rich",)


class _Absent(types.ModuleType):
    """A module whose every name is a class, so that it can be caught and derived from."""

    def __getattr__(self, name: str) -> type:
        """A class of that name."""
        if name.startswith("__"):
            raise AttributeError(name)
        package = self.__name__.partition(".")[0]

        def make(*args: object, **kwargs: object) -> None:
            if package not in SILENT:
                raise ConfigError(f"{package} is not installed, and {name} is needed; install it")

        return type(name, (Exception,), {"__init__": make})


def stand_in() -> list[str]:
    """Put empty modules where these are absent -> the names of the absent packages."""
    absent = [package for package in UNUSED if importlib.util.find_spec(package) is None]
    for package in absent:
        for name in UNUSED[package]:
            sys.modules[name] = _Absent(name)
    return absent


ABSENT = stand_in()
