"""CRC-32C of the rows of arrays, against Google's library."""

from __future__ import annotations

import google_crc32c
import numpy as np
import pytest

from isae.store import checksum
from isae.store.checksum import row_checksums


@pytest.mark.parametrize("instructions", [True, False])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (5,), (4, 0), (7, 3), (33, 480), (3, 1, 5)])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "int32", "uint64"])
def test_checksums_of_rows(
    shape: tuple[int, ...], dtype: str, instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not instructions:
        monkeypatch.setattr(checksum, "has_instructions", lambda: False)
    values = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
    found = row_checksums(values)
    assert found.dtype == np.uint32
    assert found.shape == shape[:1]
    if values.size:
        assert found.tolist() == [google_crc32c.value(row.tobytes()) for row in values]
