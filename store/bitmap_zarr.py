"""The bitmap codec as a codec of Zarr v3: `isae.bitmap`, from arrays to bytes.

```json
{"name": "isae.bitmap", "configuration": {"level": 1, "planes": true}}
```

`level`: zstd level of the parts, 1 to 19, or null: no zstd at all. `planes`: whether planes are
compressed too, or the bitmap alone. Neither matters for reading. Where isae is installed, zarr
finds the codec by its entry point; importing isae.store registers it as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd
from zarr.abc.codec import ArrayBytesCodec
from zarr.registry import register_codec

from isae.config import check
from isae.errors import ConfigError
from isae.store import bitmap

if TYPE_CHECKING:
    from typing import Self

    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

NAME = "isae.bitmap"
LEVELS = range(1, 20)


@dataclass(frozen=True)
class BitmapCodec(ArrayBytesCodec):
    """Codes chunks of elements of 1, 2 or 4 bytes; see isae.store.bitmap for the format."""

    is_fixed_size = False

    level: int | None = 1
    """zstd level, or None: nothing is compressed."""
    planes: bool = True
    """Whether the planes are compressed too."""

    def __post_init__(self) -> None:
        """Check the values; ConfigError."""
        good = self.level is None or (type(self.level) is int and self.level in LEVELS)
        check(good, f"a zstd level of {NAME} from 1 to 19, or null", self.level)
        check(isinstance(self.planes, bool), f"true or false as planes of {NAME}", self.planes)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From its JSON; ConfigError for what it does not know."""
        check(data.get("name") == NAME, f"the codec {NAME}", data.get("name"))
        others = sorted(set(data) - {"name", "configuration"})
        check(not others, f"name and configuration of {NAME}", others)
        values = data.get("configuration", {})
        known = isinstance(values, Mapping) and set(values) <= {"level", "planes"}
        check(known, f"level and planes as configuration of {NAME}", values)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Its JSON."""
        return {"name": NAME, "configuration": {"level": self.level, "planes": self.planes}}

    def validate(self, *, dtype: Any, **others: Any) -> None:
        """Refuse types that it cannot code; ConfigError."""
        check_dtype(dtype.to_native_dtype())

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raise NotImplementedError: zarr's word for a size that depends on the values."""
        raise NotImplementedError

    def encode_values(self, values: npt.NDArray[Any]) -> bytes:
        """A chunk's bytes."""
        compressor = None if self.level is None else Zstd(level=self.level)
        return bitmap.encode(np.ascontiguousarray(values), compressor, self.planes)

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        values = chunk_array.as_numpy_array()
        return chunk_spec.prototype.buffer.from_bytes(
            self.encode_values(values.astype(values.dtype.newbyteorder("="), copy=False))
        )

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        out = np.empty(chunk_spec.shape, chunk_spec.dtype.to_native_dtype().newbyteorder("="))
        bitmap.decode(np.frombuffer(chunk_bytes.as_numpy_array(), np.uint8), out)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(out)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)


def check_dtype(dtype: np.dtype[Any]) -> None:
    """ConfigError unless elements are floats or integers of 1, 2 or 4 bytes."""
    if dtype.kind not in "fiu" or dtype.itemsize not in (1, 2, 4):
        raise ConfigError(
            f"expected elements of 1, 2 or 4 bytes for the codec {NAME}, found {dtype}; "
            "choose another codec or type"
        )


register_codec(NAME, BitmapCodec)
