"""Which shard files a pattern names: braces as in bash, then globs; or a list file."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from isae.errors import ImageError

SHARD_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


def is_shards(spec: str) -> bool:
    """True where `spec` has the form of tar shards, whether or not they exist."""
    return spec.startswith("@") or spec.lower().endswith(SHARD_ENDINGS)


def shard_paths(spec: str) -> list[Path]:
    """The shards that `spec` names, in order.

    A tar file; a pattern with braces (`{0000..0009}`, `{train,val}`) or globs (`*`, `?`, `[ab]`,
    whose matches are sorted); `@list.txt`: such a path or pattern per line, relative to the list,
    empty lines and lines after `#` left out. Raises ImageError where there is none.
    """
    if spec.startswith("@"):
        return _listed(Path(spec[1:]))
    return _matching(spec)


def _matching(pattern: str) -> list[Path]:
    if Path(pattern).exists():
        return [Path(pattern)]
    paths: list[Path] = []
    for text in expand_braces(pattern):
        if glob.has_magic(text):
            found = sorted(glob.glob(text))  # noqa: PTH207 (absolute patterns, too)
            if not found:
                raise ImageError(
                    f"expected tar shards matching '{text}', found none; check the pattern"
                )
            paths.extend(map(Path, found))
        else:
            paths.append(Path(text))
    return paths


def _listed(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ImageError(
            f"expected a text file of shard paths in '{path}', found: {reason}; check the path"
        ) from None
    wanted = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not wanted:
        raise ImageError(f"expected shard paths in '{path}', one per line, found none; add some")
    return [shard for line in wanted for shard in _matching(str(path.parent / line))]


def expand_braces(pattern: str) -> list[str]:
    """`a{1..3}` and `a{x,y}` as bash expands them, leftmost slowest; other braces stay.

    A range goes up or down, and is padded with zeros where either end starts with one.
    """
    for match in _BRACES.finditer(pattern):
        choices = _choices(match.group(1))
        if choices is None:
            continue
        head = pattern[: match.start()]
        tails = expand_braces(pattern[match.end() :])
        return [head + choice + tail for choice in choices for tail in tails]
    return [pattern]


def _choices(body: str) -> list[str] | None:
    match = _RANGE.fullmatch(body)
    if match is None:
        return body.split(",") if "," in body else None
    first, last = match.groups()
    start, stop = int(first), int(last)
    padded = any(re.match(r"-?0\d", end) for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if start <= stop else -1
    return [f"{number:0{width}d}" for number in range(start, stop + step, step)]
