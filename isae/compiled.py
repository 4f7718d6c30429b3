"""Loops compiled by numba on their first call, so that numba is imported only where it is used.

A loop is an ordinary typed function under `@compiled`. It may call other compiled
functions, of other files too, and use `prange`, which this module replaces by numba's when it
compiles. Compiled code is kept in numba's cache (beside the file, or in the user's cache folder
where that cannot be written; NUMBA_CACHE_DIR moves it), keyed by processor, by the text of every
file that it came from, by the constants that it names and by how it is compiled.
"""

from __future__ import annotations

import functools
import hashlib
import threading
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast

import numpy as np
import torch

P = ParamSpec("P")
R = TypeVar("R")

prange = range
"""Stands for numba.prange: iterations run in parallel once compiled."""

SUMS = frozenset({"reassoc", "contract", "nsz"})
"""Lets a sum run in several lanes: another order than written, but always the same order."""

_ONE_AT_A_TIME = threading.Lock()
"""numba's workqueue ends the process when two threads start parallel loops at once."""


class Compiled(Generic[P, R]):
    """A function that is compiled when first called."""

    def __init__(
        self,
        function: Callable[P, R],
        parallel: bool,
        fastmath: frozenset[str],
        nogil: bool = False,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function, self.parallel, self.fastmath = function, parallel, fastmath
        self.nogil = nogil
        self._dispatcher: Any = None

    def dispatcher(self) -> Any:
        """The compiled function, made on the first request."""
        if self._dispatcher is None:
            self._dispatcher = self._compile()
        return self._dispatcher

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the compiled function, on as many threads as torch uses."""
        dispatcher = self.dispatcher()
        if not self.parallel:
            return cast(R, dispatcher(*args, **kwargs))
        with _ONE_AT_A_TIME:
            _follow_torch_threads()
            return cast(R, dispatcher(*args, **kwargs))

    def _files(self, seen: set[int]) -> set[str]:
        """Files of this function and of all that it calls."""
        files = {cast(Any, self.function).__code__.co_filename}
        for one in self._called(seen):
            files |= one._files(seen)
        return files

    def _constants(self, seen: set[int]) -> set[str]:
        """Numbers, texts and tuples that this function and all that it calls name, as text."""
        source: Any = self.function
        named = {name: source.__globals__.get(name) for name in source.__code__.co_names}
        found = {
            f"{source.__module__}.{name} = {value!r}"
            for name, value in named.items()
            if isinstance(value, int | float | str | tuple | np.generic)
        }
        for one in self._called(seen):
            found |= one._constants(seen)
        return found

    def _called(self, seen: set[int]) -> list[Compiled[Any, Any]]:
        """Compiled functions that this one calls, but for those in `seen`; adds itself there."""
        seen.add(id(self))
        source: Any = self.function
        named = (source.__globals__.get(name) for name in source.__code__.co_names)
        return [one for one in named if isinstance(one, Compiled) and id(one) not in seen]

    def _compile(self) -> Any:
        import numba

        _choose_threading_layer(numba.config)
        source: Any = self.function
        scope = dict(source.__globals__, prange=numba.prange)
        for name in source.__code__.co_names:
            if isinstance(scope.get(name), Compiled):
                scope[name] = scope[name].dispatcher()
        function = types.FunctionType(
            source.__code__, scope, source.__name__, source.__defaults__, source.__closure__
        )
        options: dict[str, Any] = {
            "parallel": self.parallel,
            "fastmath": set(self.fastmath),
            "error_model": "numpy",
            "nogil": self.nogil,
        }
        # numba looks at this file alone; what is called from others is compiled into the same code.
        # Nor does it look at the options.
        function.__qualname__ = (
            f"{source.__qualname__}_{_digest(self._files(set()), self._constants(set()), options)}"
        )
        function.__module__ = source.__module__
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no folder that a cache could be written to
            return numba.njit(**options)(function)


def compiled(
    *, parallel: bool = False, fastmath: frozenset[str] = frozenset(), nogil: bool = False
) -> Callable[[Callable[P, R]], Compiled[P, R]]:
    """Mark a function to be compiled by numba on its first call.

    With `nogil` other Python threads run while the function does.
    """
    return lambda function: Compiled(function, parallel, fastmath, nogil)


def _digest(files: set[str], constants: set[str], options: Mapping[str, Any]) -> str:
    chosen = [
        f"{name}={sorted(one) if isinstance(one, set) else one}" for name, one in options.items()
    ]
    digest = hashlib.sha256("\n".join([*chosen, *sorted(constants)]).encode())
    for file in sorted(files):
        digest.update(Path(file).read_bytes() if Path(file).is_file() else file.encode())
    return digest.hexdigest()[:16]


def _choose_threading_layer(config: Any) -> None:
    # numba's OpenMP layer loads the system's libgomp beside the one that torch ships. Each pool
    # keeps spinning for a while after its loops and takes the processor from the other one.
    if config.THREADING_LAYER == "default":
        config.THREADING_LAYER = "workqueue"


def _follow_torch_threads() -> None:
    import numba

    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
