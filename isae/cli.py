"""What every command line of isae shares: options, one JSON object at the end, errors in one line.

A command collects its results in a dict and hands it to `finish`; `main` runs the typer app and
turns user errors into one line on stderr and exit code 2. Standard output carries results only,
progress goes to stderr.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from isae import __version__
from isae.errors import IsaeError
from isae.progress import Reporter

JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object with the results on stdout."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything that is random.")]
UnusedSeedOption = Annotated[
    int, typer.Option("--seed", help="Taken as by every command; nothing here is random.")
]

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder, then run again",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EACCES: "permission denied; mend its permissions, or choose another path",
    errno.EPERM: "not permitted; mend its permissions, or choose another path",
    errno.EFBIG: "the file grew beyond the limit set for files (ulimit -f); raise it and run again",
    errno.EISDIR: "a folder stands where a file was expected; choose another path",
    errno.EEXIST: "something is there already; choose another path",
    errno.EBUSY: "it is in use; choose another path",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n) and run again",
    errno.EIO: "the disk reported an input/output error; check the disk, then run again",
    errno.ENOTDIR: "a file stands where a folder was expected; choose another path",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter one",
}


def new_app(summary: str, *, single: bool = False) -> typer.Typer:
    """A typer app with isae's defaults: help without arguments, plain tracebacks for defects.

    `single`: the app has one command and no sub-command names; that command then takes
    `version: VersionOption` itself.
    """
    app = typer.Typer(
        help=summary,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    if not single:
        app.callback()(_root)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option(
        "--version", is_eager=True, callback=_print_version, help="Print the version and leave."
    ),
]


def _root(version: VersionOption = False) -> None:
    """Hold the options that stand before a command's name."""


def finish(results: Mapping[str, Any], *, as_json: bool, lines: Callable[[], str] | str) -> None:
    """End a command: `results` as one JSON object on stdout, or `lines` for a person."""
    if as_json:
        print(json.dumps(json_safe(results), ensure_ascii=False, allow_nan=False))
    else:
        print(lines if isinstance(lines, str) else lines())


def reporter(quiet: bool) -> Reporter:
    """The reporter of a command."""
    return Reporter(quiet=quiet)


def main(app: typer.Typer) -> None:
    """Run `app`: a user error is one line and exit code 2, an interrupt is exit code 130."""
    _quiet_libraries()
    try:
        code = app(standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # typer turns an interrupt into this exit code, without a word
            print("interrupted", file=sys.stderr)
        raise SystemExit(code if isinstance(code, int) else 0)
    except IsaeError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        name = f"'{error.filename}': " if error.filename else ""
        _fail(f"{name}{os.strerror(error.errno)}: {_REMEDIES[error.errno]}")
    except MemoryError:
        _fail("not enough memory; use a smaller --batch-size, or a machine with more")
    except Exception as error:
        _fail_usage(error)


def _fail_usage(error: Exception) -> None:
    """End with one line for wrong options and for a full GPU; raise anything else again."""
    kind = type(error).__name__
    if kind == "OutOfMemoryError":
        _fail("the GPU has not enough memory; use a smaller --batch-size")
    if kind == "NoArgsIsHelpError":
        print(getattr(error, "message", error), file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR)
    explain = getattr(error, "format_message", None)
    if explain is None:
        raise error
    path = getattr(getattr(error, "ctx", None), "command_path", "")
    _fail(f"{explain()}; see {path} --help" if path else explain())


def _fail(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(EXIT_USER_ERROR)


def _quiet_libraries() -> None:
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)


def json_safe(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if hasattr(value, "item") and callable(value.item):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
