"""`load_extractor`: a feature extractor by name or file, of any kind."""

from pathlib import Path

from alphabar.core.machine import best_device
from alphabar.features.extractor import BUNDLED, FeatureExtractor, read_extractor
from alphabar.features.inception import load_inception


def load_extractor(name_or_path: str | Path = "bundled") -> FeatureExtractor:
    """Read an extractor: "bundled" (Fashion-MNIST's garments), the path of a file that `Extractor.save` wrote, or
    "inception:original" and "inception:clean" (see `alphabar.features.inception.load_inception`). It stands on a GPU where
    there is one.

    Raises FileNotFoundError when there is none, ValueError for a file that is not an extractor, or whose content does
    not match its own fingerprint.
    """
    name = str(name_or_path)
    if name == "inception" or name.startswith("inception:"):
        return load_inception(name)
    return read_extractor(BUNDLED if name == "bundled" else name_or_path).to(best_device())
