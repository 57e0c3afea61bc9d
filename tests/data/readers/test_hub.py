"""The Hugging Face hub, without a network."""

from pathlib import Path

import numpy as np
import pytest

from alphabar.data.image_set import load

from ..conftest import Array


def test_a_set_of_the_hub(hub: list[str], cache: Path, pixels: Array) -> None:
    images = load("hf:someone/pets", "test", cache=cache)
    assert hub == ["someone/pets:test"]
    np.testing.assert_array_equal(images.pixels, pixels)
    assert images.classes == ("cat", "dog")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1] * 4 + [0]
    assert images.source == "hf:someone/pets"


def test_a_failing_hub_is_reported(no_hub: None, cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"hf:someone/pets \(train\) could not be fetched: ConnectionError"):
        load("hf:someone/pets", cache=cache)
