"""`load_extractor`: a feature extractor of any kind, by name or file."""

from pathlib import Path

from alphabar.core.machine import best_device
from alphabar.denoiser.from_hub import EXTRACTOR, HUB, local_run
from alphabar.features.dinov2 import PREFIX, load_dinov2
from alphabar.features.extractor import BUNDLED, FeatureExtractor, read_extractor
from alphabar.features.inception import load_inception


def load_extractor(name_or_path: str | Path = "bundled") -> FeatureExtractor:
    """Load a feature extractor, onto the GPU where there is one.

    Args:
        name_or_path: "bundled" (trained on Fashion-MNIST), the path of a file that `alphabar extractor train` wrote,
            "inception:original" or "inception:clean" (see `alphabar.features.inception.load_inception`), "dinov2:FOLDER"
            (`alphabar.features.dinov2.load_dinov2`), or "hf:OWNER/NAME", the extractor that was pushed with a run.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a file that is no extractor, or whose content does not match its fingerprint.

    >>> import numpy as np
    >>> extractor = load_extractor("bundled")
    >>> extractor.features(np.zeros((2, 28, 28, 1), dtype=np.uint8)).shape
    torch.Size([2, 512])
    """
    name = str(name_or_path)
    if name == "inception" or name.startswith("inception:"):
        return load_inception(name)
    if name.startswith(PREFIX):
        return load_dinov2(name)
    if name.startswith(HUB):
        return read_extractor(Path(local_run(name)) / EXTRACTOR).to(best_device())
    return read_extractor(BUNDLED if name == "bundled" else name_or_path).to(best_device())
