"""IDX files are hostile until checked."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from alphabar.data.readers.idx import read_idx

from ..conftest import idx_bytes

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("zipped", [False, True])
def test_reads_raw_and_zipped_by_content_not_by_name(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / ("images" if zipped else "images.gz")
    data = idx_bytes(IMAGES)
    file.write_bytes(gzip.compress(data) if zipped else data)
    np.testing.assert_array_equal(read_idx(file, 3), IMAGES)


BAD = {
    "empty": (b"", "not an IDX file"),
    "text": (b"<html>not found</html>", "not an IDX file: it starts with 3c 68 74 6d"),
    "floats": (idx_bytes(IMAGES, kind=0x0D), "float32: only uint8"),
    "unknown type": (idx_bytes(IMAGES, kind=0x55), "type 0x55"),
    "axes": (idx_bytes(IMAGES[0]), "2 axes, wanted 3"),
    "header cut": (idx_bytes(IMAGES)[:9], "ends within its header"),
    "cut": (idx_bytes(IMAGES)[:-1], "24 bytes, but holds only 23"),
    "more": (idx_bytes(IMAGES) + b"\0", "holds more"),
    "nothing": (idx_bytes(IMAGES, shape=(0, 3, 4)), "holds nothing"),
    "huge": (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "truncated"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("fault", BAD)
def test_a_fault_is_named_with_its_file(tmp_path: Path, fault: str, zipped: bool) -> None:
    data, words = BAD[fault]
    file = tmp_path / "hostile"
    file.write_bytes(gzip.compress(data) if zipped else data)
    if fault == "cut" and not zipped:
        words = "holds only 23"
    with pytest.raises(ValueError, match=words) as caught:
        read_idx(file, 3)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("spoil", ["truncate", "flip"])
def test_a_damaged_gzip_is_named(tmp_path: Path, spoil: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 28, 28), dtype=np.uint8)
    data = bytearray(gzip.compress(idx_bytes(noise)))
    if spoil == "truncate":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2] ^= 0xFF
    file = tmp_path / "images.gz"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"images.gz cannot be decompressed"):
        read_idx(file, 3)
