"""Autoencoders: shapes, locality, stored form, folders of diffusers, damaged files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from alphabar.denoiser.autoencoder import CONFIG, MARK, WEIGHTS, Autoencoder, ConvAutoencoder, read_autoencoder
from alphabar.training.options import AutoencoderOptions
from tests.fixtures.mutations import faults_of, mutations

ARGUMENTS = {"channels": 2, "latent": 3, "factor": 4, "width": 8, "blocks": 1}


def autoencoder(**changes: int) -> Autoencoder:
    """An untrained one, whose blocks do something."""
    arguments = ARGUMENTS | changes
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        network = ConvAutoencoder(**arguments)
        for p in network.parameters():
            torch.nn.init.normal_(p, std=0.2) if p.ndim > 1 else None
    c = arguments["channels"]
    return Autoencoder({"format": 1, "arguments": arguments, "mean": [0.1] * c, "std": [0.5] * c}, network, {"set": "toy"})


def images(n: int, h: int, w: int, c: int = 2, dtype: Any = np.uint8) -> Any:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (n, h, w, c), dtype)


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_latents_are_smaller_by_the_factor_and_odd_sides_come_back(factor: int) -> None:
    found = autoencoder(factor=factor)
    z = found.encode(images(3, 21, 32))
    assert found.factor == factor
    assert z.shape == (3, 3, -(-21 // factor), -(-32 // factor))
    assert found.decode(z, (2, 21, 32)).shape == (3, 2, 21, 32)
    assert found.reconstruct(images(3, 21, 32, dtype=np.uint16)).dtype == np.uint16


def test_a_part_of_an_image_has_the_latents_that_it_has_in_the_whole() -> None:
    """Training on squares that are cut out of large images is right for the whole images."""
    found, whole = autoencoder(), images(1, 128, 128)
    inner, outer = found.encode(whole[:, 32:96, 32:96]), found.encode(whole)
    assert torch.allclose(inner[..., 6:-6, 6:-6], outer[..., 14:-14, 14:-14], atol=1e-4)
    assert not torch.allclose(inner[..., 6:-6, 6:-6], outer[..., 13:-15, 14:-14], atol=1e-4)


def test_a_file_and_a_folder_hold_the_same_autoencoder(tmp_path: Path) -> None:
    made = autoencoder()
    for path in (made.save(tmp_path / "a.safetensors"), made.save(tmp_path / "folder").parent):
        found = read_autoencoder(path)
        assert (found.fingerprint, found.spec, found.record) == (made.fingerprint, made.spec, made.record)
        assert torch.equal(found.encode(images(2, 16, 16)), made.encode(images(2, 16, 16)))


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="images of 3 channels, and the autoencoder takes 2: train one"):
        autoencoder().encode(images(1, 16, 16, 3))


def test_options_and_stored_arguments_agree() -> None:
    for factor in (2, 4, 8, 16):
        AutoencoderOptions(factor=factor)
    with pytest.raises(ValueError, match="factor = 3"):
        AutoencoderOptions(factor=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"factor": 3}, "factor = 3"),
        ({"width": 10**9}, "width is 1000000000"),
        ({"latent": 2}, "wanted"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, int], reason: str) -> None:
    path = autoencoder().save(tmp_path / "a.safetensors")
    spec = {**autoencoder().spec, "arguments": ARGUMENTS | change, "record": {}, "fingerprint": "0" * 16}
    save_file(load_file(path), path, metadata={MARK: json.dumps(spec)})
    with pytest.raises(ValueError, match=reason) as e:
        read_autoencoder(path)
    assert str(path) in str(e.value)


def test_a_changed_weight_is_noticed(tmp_path: Path) -> None:
    path = autoencoder().save(tmp_path / "a.safetensors")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="another fingerprint"):
        read_autoencoder(path)


def test_damaged_files_end_in_one_error(tmp_path: Path) -> None:
    path = autoencoder(width=8).save(tmp_path / "a.safetensors")
    assert faults_of(mutations(path.read_bytes(), 60), path, lambda: read_autoencoder(path)) == []


KINDS: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {"block_out_channels": [8, 16], "latent_channels": 4, "norm_num_groups": 4,
                      "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2},
    "AutoencoderTiny": {"encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8],
                        "num_encoder_blocks": [1, 1], "num_decoder_blocks": [1, 1]},
    "AutoencoderDC": {"latent_channels": 4, "attention_head_dim": 8, "encoder_block_out_channels": [8, 16],
                      "decoder_block_out_channels": [8, 16], "encoder_layers_per_block": [1, 1],
                      "decoder_layers_per_block": [1, 1],
                      "encoder_block_types": "ResBlock", "decoder_block_types": "ResBlock", "encoder_qkv_multiscales": [[], []],
                      "decoder_qkv_multiscales": [[], []], "decoder_norm_types": "rms_norm", "decoder_act_fns": "silu"},
}  # fmt: skip


@pytest.mark.slow(12)  # the import of diffusers
@pytest.mark.parametrize("kind", KINDS)
def test_an_autoencoder_of_diffusers_gives_what_diffusers_gives(kind: str, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = getattr(diffusers, kind)(**KINDS[kind]).eval()
    theirs.save_pretrained(tmp_path / "vae")
    ours = read_autoencoder(tmp_path)
    pixels = images(2, 32, 32, 3)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        out = theirs.encode(x)
        z = out.latent_dist.mean if kind == "AutoencoderKL" else out[0]
        restored = theirs.decode(z).sample
    assert torch.allclose(ours.encode(pixels), z, atol=1e-5)
    assert torch.allclose(ours.decode(z, (3, 32, 32)), restored, atol=1e-5)
    ours.save(tmp_path / "copy")
    assert read_autoencoder(tmp_path / "copy").fingerprint == ours.fingerprint


@pytest.mark.slow(5)
def test_configurations_of_diffusers_are_not_trusted(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    (tmp_path / WEIGHTS).write_bytes(b"")
    for config, reason in (
        ({"_class_name": "UNet2DModel"}, "wanted AutoencoderKL, AutoencoderTiny, AutoencoderDC"),
        ({"_class_name": "AutoencoderKL", "latent_channels": 10**9}, "autoencoder that can be read"),
        ({"_class_name": "AutoencoderKL", "layers_per_block": [[[[[1]]]]]}, "autoencoder that can be read"),
        ({"_class_name": "AutoencoderTiny"}, "is not a safetensors file"),
    ):
        (tmp_path / CONFIG).write_text(json.dumps(config))
        with pytest.raises(ValueError, match=reason) as e:
            read_autoencoder(tmp_path)
        assert str(tmp_path) in str(e.value)
