"""GIFs of pictures that change: a trajectory, or a way between images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from alphabar.core.outputs import check_output, save_picture
from alphabar.core.types import Pixels
from alphabar.data.contact_sheet import Levels, contact_sheet, levels_of

MILLISECONDS = 80  # a frame is shown
LAST = 1500  # so long stays the last one


def check_animation(path: Path | None, inputs: Sequence[str | Path] = ()) -> None:
    """To be called before the work. Raises ValueError for another suffix than .gif, and what `check_output` raises."""
    if path is None:
        return
    if path.suffix.lower() != ".gif":
        raise ValueError(f"{path} ends in {path.suffix!r}: animations are written as .gif; give a name that ends in .gif")
    check_output(path, "picture", inputs)


def save_animation(
    frames: Sequence[Pixels], path: Path, *, columns: int | None = None, scale: int = 2, back: bool = False,
    milliseconds: int = MILLISECONDS, levels: Levels | None = None,
) -> Path:  # fmt: skip
    """Writes an endless GIF, in which each frame is a contact sheet of images (n, h, w, c), all shown with the same levels.

    Args:
        frames: images of each frame, all of one shape and type.
        path: ending in .gif.
        columns: images in a row; None makes the sheets about square.
        scale: each pixel becomes scale x scale pixels.
        back: show the frames backwards after the last one, in place of a pause there.
        milliseconds: time of a frame; GIF has hundredths of a second.
        levels: as for `contact_sheet`; None: `levels_of` all frames.
    """
    check_animation(path)
    levels = levels or levels_of(*frames)
    sheets = [contact_sheet(np.asarray(frame), columns, scale, levels=levels) for frame in frames]
    sheets = sheets + sheets[-2:0:-1] if back else sheets
    times = [milliseconds] * len(sheets)
    if not back:
        times[-1] = LAST
    # a palette of each picture's own 256 colours; grey ones have theirs
    pictures = [s if s.mode == "L" else s.quantize(256, dither=Image.Dither.NONE) for s in sheets]
    more = {"save_all": True, "append_images": pictures[1:], "duration": times, "loop": 0, "disposal": 1, "optimize": False}
    return save_picture(pictures[0], path, **more)
