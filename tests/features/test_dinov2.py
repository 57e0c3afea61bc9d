"""DINOv2 from a folder: the features are those of transformers, and what is not whole is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from alphabar.data.images import to_model
from alphabar.features.load import load_extractor
from alphabar.features.resize import resize

pytestmark = pytest.mark.slow(12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small DINOv2 with random weights, as its library writes it."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path_factory.mktemp("dino"))
    return tmp_path_factory.getbasetemp() / "dino0"


def test_features_are_the_class_token_of_the_library(folder):
    from transformers import Dinov2Model

    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 33, 3), dtype=np.uint8)
    extractor = load_extractor(f"dinov2:{folder}")
    x = resize(to_model(pixels), (28, 28), "clean") / 2 + 0.5
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        wanted = Dinov2Model.from_pretrained(folder)(pixel_values=(x - mean) / std).pooler_output
    torch.testing.assert_close(extractor.features(pixels), wanted, atol=1e-5, rtol=1e-4)
    assert extractor.dim == 32 and extractor.fingerprint == load_extractor(f"dinov2:{folder}").fingerprint
    grey = np.repeat(pixels[..., :1], 3, -1)
    torch.testing.assert_close(extractor.features(pixels[..., :1]), extractor.features(grey), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "bert"}, "describes a 'bert'"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": 3}, "lacks "),
        ({"hidden_size": 48}, "lacks |cannot be read"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(folder, tmp_path, change, words):
    (tmp_path / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | change))
    save_file(load_file(folder / "model.safetensors"), tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=words):
        load_extractor(f"dinov2:{tmp_path}")


def test_damaged_weights_and_an_empty_folder_are_refused_by_name(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="hf download facebook/dinov2-base"):
        load_extractor(f"dinov2:{tmp_path}")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:2000])
    with pytest.raises(ValueError, match="cannot be read as a DINOv2 model"):
        load_extractor(f"dinov2:{tmp_path}")
