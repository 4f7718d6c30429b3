"""Photos in tar shards (the WebDataset layout): members of one key are one sample.

The key of a member is its path up to the first dot of its last part. 'n01/cat.jpg' and
'n01/cat.cls' belong together: the label of the photo is the text of `.cls`, else 'label' or 'cls'
in `.json`, else the photo's first folder in the shard, else ''. Only plain tar can be read at any
place, so compressed shards are refused.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isae.errors import ImageError
from isae.images.base import I64, U8, ImageSource, Names, UnreadableError, digest
from isae.images.folder import EXTENSIONS
from isae.images.pixels import decode_rgb

COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_BLOCK = 512


class ShardReader:
    """Reads photos by (shard number, offset, bytes): one seek and one read each."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self.shards = tuple(shards)

    def read(self, address: tuple[int, int, int]) -> U8:
        """Pixels uint8 [H, W, 3] of one member; raises UnreadableError with the reason."""
        shard, offset, size = address
        try:
            with self.shards[shard].open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise UnreadableError(f"{self.shards[shard].name}: {error.strerror}") from error
        if len(data) < size:
            raise UnreadableError(f"{self.shards[shard].name} has become shorter")
        return decode_rgb(data)


class ShardSource(ImageSource):
    """The photos of tar shards, in the order of the shards and of their members.

    The shards' headers are read once, when the source is opened. Memory: the length of the name
    plus 32 bytes a photo. Raises ImageError for shards that are missing, compressed or truncated,
    and where they hold no photo.
    """

    kind = "shards"

    def __init__(self, shards: Sequence[Path], spec: str) -> None:
        self.spec = spec
        self.columns = {}
        self.reader: ShardReader = ShardReader(shards)
        _check_shards(shards, spec)
        prefixes = _prefixes(shards)
        self.times: I64 = np.array([shard.stat().st_mtime_ns for shard in shards], dtype=np.int64)
        index = _Index()
        for number, shard in enumerate(shards):
            _index_shard(index, number, shard, prefixes[number])
        if not index.names:
            raise ImageError(
                f"expected photos ({', '.join(EXTENSIONS[:5])}, ...) in the tar shards '{spec}', "
                f"found none among their {index.others:,} other members; give shards with photos"
            )
        self.names = Names(index.names)
        self.places: I64 = np.array(index.places, dtype=np.int64)
        self.labels = list(index.labels)
        self.codes: npt.NDArray[np.int32] = np.array(index.codes, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.names)

    def row(self, index: int) -> dict[str, Any]:
        """'name' is the member's path (below its shard's, if there are several), and 'label'."""
        position = self.checked(index)
        return {"name": self.names.text(position), "label": self.labels[self.codes[position]]}

    def address(self, index: int) -> tuple[int, int, int]:
        """Shard number, offset of the data and bytes."""
        shard, offset, size = self.places[self.checked(index)].tolist()
        return shard, offset, size

    def fingerprint(self) -> str:
        """Hash of names, sizes and labels."""
        ends, sizes = self.names.ends.astype("<i8"), self.places[:, 2].astype("<i8")
        codes = self.codes.astype("<i4")
        arrays = (ends.tobytes(), sizes.tobytes(), codes.tobytes())
        return digest([self.kind, self.names.blob, *arrays, *self.labels])

    def file_times(self) -> I64:
        """Of every shard."""
        return self.times

    def file_name(self, number: int) -> str:
        """The path of a shard."""
        return str(self.reader.shards[number])


@dataclass
class _Index:
    names: list[bytes] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    others: int = 0


def _check_shards(shards: Sequence[Path], spec: str) -> None:
    missing = [str(shard) for shard in shards if not shard.is_file()]
    if missing:
        raise ImageError(
            f"expected the {len(shards):,} tar shards of '{spec}', found {len(missing):,} of them "
            f"missing: {', '.join(missing[:5])}; check the pattern or restore the files"
        )
    if len({shard.resolve() for shard in shards}) < len(shards):
        raise ImageError(f"expected each tar shard of '{spec}' once, found one twice; remove it")


def _prefixes(shards: Sequence[Path]) -> list[str]:
    """What makes member names unique over shards: the shards' paths, less what is common."""
    if len(shards) == 1:
        return [""]
    paths = [shard.absolute() for shard in shards]
    common = 0
    for parts in zip(*(path.parts[:-1] for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        common += 1
    return ["/".join(path.parts[common:]) + "/" for path in paths]


def _index_shard(index: _Index, number: int, shard: Path, prefix: str) -> None:
    photos: dict[str, tuple[int, int, int]] = {}
    texts: dict[str, str] = {}
    for member, content in _members(shard):
        if member.name.lower().endswith(EXTENSIONS):
            # A name that comes twice means an appended newer version: the last one counts.
            photos[member.name] = (number, member.offset_data, member.size)
        elif content is None:
            index.others += 1
        else:
            _read_label(texts, member.name, content)
    for name, place in photos.items():
        folders = name.removeprefix("./").split("/")[:-1]
        label = texts.get(_key(name), folders[0] if folders else "")
        index.names.append((prefix + name).encode("utf-8", "surrogateescape"))
        index.places.append(place)
        index.codes.append(index.labels.setdefault(label, len(index.labels)))


def _members(shard: Path) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """The files of a shard; with their content where it is a label."""
    _refuse_compressed(shard)
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                # tarfile keeps every header it has seen; dropping them bounds the memory.
                tar.members = []  # type: ignore[attr-defined]
                if not member.isfile():
                    continue
                is_label = member.name.endswith((".cls", ".json"))
                file = tar.extractfile(member) if is_label else None
                yield member, file.read() if file else None
            end = tar.offset
    except (tarfile.TarError, EOFError) as error:
        raise ImageError(
            f"expected a whole tar file in '{shard}', found: {error}; restore the shard"
        ) from None
    with shard.open("rb") as raw:
        raw.seek(end)
        if raw.read(_BLOCK) != bytes(_BLOCK):
            raise ImageError(
                f"expected a whole tar file in '{shard}', found no end mark after its last member: "
                "it is truncated; restore the shard"
            )


def _refuse_compressed(shard: Path) -> None:
    with shard.open("rb") as file:
        head = file.read(8)
    for magic, name in COMPRESSED.items():
        if head.startswith(magic):
            raise ImageError(
                f"expected a plain tar file, found '{shard}' compressed by {name}; decompress it "
                "first (photos are compressed already, and a compressed shard cannot be read at "
                "any place)"
            )


def _read_label(texts: dict[str, str], name: str, content: bytes) -> None:
    key = _key(name)
    if name.endswith(".cls"):
        texts[key] = content.decode("utf-8", "backslashreplace").strip()
        return
    try:
        values = json.loads(content)
    except ValueError:
        return
    if isinstance(values, dict):
        label = values.get("label", values.get("cls"))
        if label is not None:
            texts.setdefault(key, str(label))


def _key(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".", 1)[0]
