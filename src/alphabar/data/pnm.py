"""PNM: grey and RGB images (P2, P3, P5, P6) whose header states the largest value. Pillow would rescale them to 8 or 16 bits."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHANNELS = {b"P2": 1, b"P3": 3, b"P5": 1, b"P6": 3}
_SPACE = rb"(?:\s|#[^\n]*\n)*"  # comments run to the end of the line
_HEADER = re.compile(rb"P[2356]" + 3 * (_SPACE + rb"(\d{1,10})") + rb"\s")


def is_pnm(data: bytes) -> bool:
    return data[:2] in CHANNELS


def pnm_header(data: bytes) -> tuple[int, int, int, int]:
    """(width, height, largest value, offset of the pixels). Raises ValueError for an invalid header."""
    header = _HEADER.match(data)
    if header is None or not 0 < int(header[3]) < 65536:
        raise ValueError(f"its header is {data[:20]!r}")
    return int(header[1]), int(header[2]), int(header[3]), header.end()


def read_pnm(data: bytes) -> NDArray[Any]:
    """Values (h, w, c) as in the file: uint8 if the largest is below 256, else uint16. Raises ValueError for damaged files."""
    w, h, top, start = pnm_header(data)
    c = CHANNELS[data[:2]]
    n = w * h * c
    if data[:2] in (b"P5", b"P6"):
        kind = np.dtype(np.uint8 if top < 256 else ">u2")
        if len(data) < start + n * kind.itemsize:
            raise ValueError(f"{len(data) - start} bytes of pixels where the header announces {n * kind.itemsize}")
        out = np.frombuffer(data, kind, n, start)
    else:
        words = b" ".join(line.split(b"#")[0] for line in data[start:].splitlines()).split()
        if len(words) < n:
            raise ValueError(f"{len(words)} values where the header announces {n}")
        out = np.array([int(word) for word in words[:n]], np.int64)
    if out.max() > top or out.min() < 0:
        raise ValueError(f"a value of {int(out.max())} where the header says that {top} is the largest")
    return out.astype(np.uint8 if top < 256 else np.uint16).reshape(h, w, c)
