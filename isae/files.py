"""Files that are either whole or not there: write beside, flush to disk, rename."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

HASH_BLOCK = 1 << 20
_TEMPORARY = re.compile(r"\..*\.\d+-[0-9a-f]{8}\.tmp(\..*)?")


def temporary_beside(path: Path) -> Path:
    """A name for a file that will become `path`: another one at every call, in every thread.

    The suffix of `path` is kept, since some writers choose the format by it.
    """
    token = f"{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.stem}.{token}.tmp{path.suffix}")


def is_temporary(name: str) -> bool:
    """Whether a file's name is one that `temporary_beside` gives; a killed process leaves such."""
    return _TEMPORARY.fullmatch(name) is not None


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is fsynced and renamed.

    If the block raises, the temporary file is removed and `path` is as it was. Usable with any
    writer that takes a file name (Parquet, safetensors, figures). Where threads or processes
    write the same path at once, one of their files stays, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        fsync(temporary)
        temporary.replace(path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused (not JSON)."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors to the safetensors file `path` atomically; they are moved to the CPU.

    Raises OSError with its number and the file's name where the disk is full or the like:
    safetensors has an error class of its own for that, with the number in its text only.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(whole, temporary)
        except SafetensorError as error:
            found = re.search(r"os error (\d+)", str(error))
            if found is None:
                raise
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(path)) from error


def fsync(path: Path) -> None:
    """Flush a file or a folder entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hex, in bounded memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def swap_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Fill a new folder beside `path`, then put it in the place of `path`.

    A kill leaves the old folder, the new one, or none (for the instant between two renames: the
    next call first puts the old one back), never a mixture. Other leftovers of a kill, which are
    named `.NAME.new`, `.NAME.old` and `.NAME.gone`, are removed first. Only a whole folder is ever
    named `.NAME.old`. Where `path` is a link, the folder it leads to is replaced.
    """
    path = path.resolve()
    fresh, old, gone = (path.with_name(f".{path.name}.{end}") for end in ("new", "old", "gone"))
    if old.exists() and not path.exists():
        old.rename(path)
    _discard(old, gone)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        fill(fresh)
        if path.exists():
            path.rename(old)
            fsync(path.parent)
        try:
            fresh.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        fsync(path.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if path.exists():
            _discard(old, gone)


def _discard(old: Path, gone: Path) -> None:
    """Remove both folders; one that is half removed is `gone`, also after a kill."""
    shutil.rmtree(gone, ignore_errors=True)
    if old.exists():
        with contextlib.suppress(OSError):
            old.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
