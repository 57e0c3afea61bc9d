"""GIFs: frames, times, colours, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphabar.core.outputs import written_by_alphabar
from alphabar.data.animation import check_animation, save_animation


def test_frames_have_their_pixels_and_times(tmp_path: Path) -> None:
    frames = [np.full((1, 3, 4, 1), 40 * k, np.uint8) for k in range(4)]
    path = save_animation(frames, tmp_path / "a.gif", scale=1)
    with Image.open(path) as gif:
        assert gif.n_frames == 4 and gif.info["loop"] == 0 and gif.size == (6, 5)
        for k in range(4):
            gif.seek(k)
            assert np.asarray(gif.convert("L"))[2, 2] == 40 * k
            assert gif.info["duration"] == (80 if k < 3 else 1500)
    assert written_by_alphabar(path, "picture")
    with Image.open(save_animation(frames, path, back=True)) as gif:
        assert gif.n_frames == 6  # 0 1 2 3 2 1


def test_colours_and_sixteen_bits_are_shown_alike_in_all_frames(tmp_path: Path) -> None:
    colours = [np.full((1, 4, 4, 3), (250, 10 * k, 0), np.uint8) for k in range(3)]
    with Image.open(save_animation(colours, tmp_path / "c.gif", scale=1)) as gif:
        gif.seek(2)
        assert np.abs(np.asarray(gif.convert("RGB"))[2, 2].astype(int) - (250, 20, 0)).max() <= 2
    deep = [np.full((1, 4, 4, 1), 1000 + 100 * k, np.uint16) for k in range(3)]
    with Image.open(save_animation(deep, tmp_path / "d.gif", scale=1)) as gif:
        first = np.asarray(gif.convert("L"))[2, 2]
        gif.seek(2)
        assert first < 5 and np.asarray(gif.convert("L"))[2, 2] > 250


def test_other_suffixes_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a.mp4 ends in '.mp4': animations are written as .gif"):
        check_animation(tmp_path / "a.mp4")
    (tmp_path / "mine.gif").write_bytes(b"GIF89a")
    with pytest.raises(FileExistsError, match="is no picture that alphabar wrote"):
        check_animation(tmp_path / "mine.gif")
    check_animation(None)
