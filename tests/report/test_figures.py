"""Sheets of a figure: several sets of images under the same levels."""

import numpy as np
from matplotlib.figure import Figure

from alphabar.report.figures import _sheet


def test_generated_and_real_images_are_shown_with_the_same_levels_and_a_note():
    """16-bit images of low contrast: what is twice as far from black in the files is so on the picture, in both sets."""
    rng = np.random.default_rng(0)
    real = rng.integers(1000, 3000, (5, 8, 8, 1), dtype=np.uint16)
    generated = rng.integers(1000, 2000, (3, 8, 8, 1), dtype=np.uint16)
    axes = Figure().add_subplot()
    _sheet(axes, {"images": generated, "real": real}, 3)
    assert "1000..2994" in axes.get_xlabel() and "shown as 0..255" in axes.get_xlabel()
    assert axes.get_xlabel().count("stretched") == 1
    sheet = np.asarray(axes.images[0].get_array())
    above, below = sheet[1:9, 1:9], sheet[11:19, 1:9]
    assert above.max() < 140 < 230 < below.max()  # each for itself would reach 255
    noise = rng.integers(0, 65536, (3, 8, 8, 1), dtype=np.uint16)  # of a model that learnt nothing: it decides no levels
    _sheet(axes, {"images": noise, "real": real}, 3)
    assert "1000..2994" in axes.get_xlabel()


def test_sets_of_eight_bits_are_shown_unchanged():
    pixels = np.full((2, 4, 4, 3), 100, np.uint8)
    axes = Figure().add_subplot()
    _sheet(axes, {"a": pixels, "b": pixels + 1}, 2)
    sheet = np.asarray(axes.images[0].get_array())
    assert set(np.unique(sheet)) == {100, 101, 255} and not axes.get_xlabel()
