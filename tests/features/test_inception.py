"""The Inception of FID against torch-fidelity's, layer by layer on random weights, and both resizes against their originals.

`make test-all` installs torch-fidelity and clean-fid, without their dependencies, into the folder `peers` of the environment.
The modules needed here do not import torchvision; they are imported without the packages' __init__, which does.
"""

import hashlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from alphabar.features import inception
from alphabar.features.extractor import FeatureExtractor
from alphabar.features.inception import InceptionExtractor, InceptionV3
from alphabar.features.load import load_extractor
from alphabar.features.module_extractor import ModuleExtractor
from alphabar.features.resize import resize, resize_matrix
from tests.features.test_read_pth import served

PEERS = Path(sys.prefix) / "peers"


@pytest.fixture(scope="session")
def peers() -> Iterator[None]:
    """Makes `torch_fidelity.X` and `cleanfid.X` importable; skips the test where they are not installed."""
    names = ("torch_fidelity", "cleanfid")
    if not all((PEERS / name).is_dir() for name in names):
        pytest.skip("the peers are not installed: make test-all")
    for name in names:
        package = ModuleType(name)
        package.__path__ = [str(PEERS / name)]
        sys.modules[name] = package
    yield
    for name in [m for m in sys.modules if m.split(".")[0] in names]:
        del sys.modules[name]


def random_weights() -> dict[str, Tensor]:
    """Weights with which every layer's output has a standard deviation of about 1, so that an error in any layer is visible."""
    g = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        state = InceptionV3().state_dict()
    for name, value in state.items():
        if name.endswith("conv.weight"):
            value.copy_(torch.randn(value.shape, generator=g) * (2 / value[0].numel()) ** 0.5)
        elif name.endswith(("running_var", "bn.weight")):
            value.copy_(0.5 + torch.rand(value.shape, generator=g))
        elif value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=g) * 0.1)
    return dict(state)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_weights()


@pytest.fixture(scope="module")
def extractor(weights: dict[str, Tensor]) -> InceptionExtractor:
    return InceptionExtractor(weights, "original", device="cpu")


@pytest.fixture(scope="module")
def weights_file(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=False)  # the format of the public file
    return path


def images(n: int, h: int, w: int, c: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, c), dtype=np.uint8)


def relative(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    assert float(theirs.std()) > 1e-3  # the output is not constant
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.slow(12)
def test_every_layer_equals_that_of_torch_fidelity(peers: None, weights: dict[str, Tensor], weights_file: Path) -> None:
    theirs = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3(
        "layers", ["64", "192", "768", "2048", "logits_unbiased", "logits"], feature_extractor_weights_path=str(weights_file)
    )  # it loads our file strictly, so the names and shapes are theirs
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _module, _inputs, output: outputs.__setitem__(name, output.detach().clone())

    blocks = [n for n, m in theirs.named_modules() if n and n.count(".") <= 1 and not n.startswith(("AvgPool", "fc"))]
    for name in blocks:
        if not name.endswith((".conv", ".bn")):
            theirs.get_submodule(name).register_forward_hook(keep(name))
    pixels = images(2, 28, 28)
    with torch.inference_mode():
        features = [f.float() for f in theirs(torch.from_numpy(pixels).permute(0, 3, 1, 2))]

        extractor = InceptionExtractor(weights, "original", device="cpu")
        network = InceptionV3().eval()
        network.load(weights)
        mine: dict[str, Tensor] = {}
        for name, module in network.named_modules():
            if name in outputs and "." in name:  # the branches inside the blocks
                module.register_forward_hook(lambda _m, _i, o, n=name: mine.__setitem__(n, o.detach().clone()))
        layers = network.layers(extractor.prepared(pixels))
        mine |= layers
        assert set(mine) == set(outputs)
        assert len(mine) > 90
        worst = {name: relative(mine[name], outputs[name]) for name in outputs}
        assert max(worst.values()) < 1e-5, max(worst, key=lambda name: worst[name])

        for dim, theirs_of_dim in zip((64, 192, 768, 2048), features, strict=False):
            folded = InceptionExtractor(weights, "original", dim=dim, device="cpu")
            assert folded.dim == dim
            assert relative(folded.features(pixels), theirs_of_dim) < 1e-5
        plain = features[3] @ network.fc.weight.T
        assert relative(plain, features[4]) < 1e-5
        assert relative(network.fc(layers["Mixed_7c"].mean((2, 3))), features[5]) < 1e-5


@pytest.mark.slow(1)
@pytest.mark.parametrize("size", [(28, 28), (23, 40), (299, 299), (298, 300), (400, 350), (1, 1), (1000, 7)])
def test_the_original_resize_equals_that_of_tensorflow(peers: None, size: tuple[int, int]) -> None:
    theirs = importlib.import_module("torch_fidelity.interpolate_compat_tensorflow")
    pixels = torch.from_numpy(images(1, *size)).permute(0, 3, 1, 2).float()
    want = theirs.interpolate_bilinear_2d_like_tensorflow1x(pixels, size=(299, 299), align_corners=False)
    got = (resize(pixels / 127.5 - 1, (299, 299), "original") + 1) * 127.5
    assert (
        float((got - want).abs().max()) < 2e-2 / 255 * max(size) ** 0.5
    )  # rounding of the position in float32: 1e-7 of the size


@pytest.mark.slow(1)
@pytest.mark.parametrize("size", [(28, 28), (23, 40), (299, 299), (298, 300), (400, 350), (1, 1), (1000, 7)])
def test_the_clean_resize_equals_that_of_clean_fid(peers: None, size: tuple[int, int]) -> None:
    theirs = importlib.import_module("cleanfid.resize").build_resizer("clean")
    pixels = images(1, *size)
    got = (resize(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1, (299, 299), "clean") + 1) * 127.5
    np.testing.assert_allclose(got[0].permute(1, 2, 0), theirs(pixels[0]), atol=2e-4)


@pytest.mark.parametrize("size", [(28, 28), (23, 40), (640, 350)])
def test_the_clean_resize_equals_that_of_pillow(size: tuple[int, int]) -> None:
    pixels = images(1, *size, c=1)[0, :, :, 0].astype(np.float32)
    want = np.asarray(Image.fromarray(pixels).resize((50, 60), Image.Resampling.BICUBIC)).clip(0, 255)
    got = (resize(torch.from_numpy(pixels)[None, None] / 127.5 - 1, (60, 50), "clean") + 1) * 127.5
    np.testing.assert_allclose(got[0, 0], want, atol=1e-4)


def test_the_resize_matrices() -> None:
    """2 -> 4 by hand: TensorFlow 1 reads at 0, 1/2, 1, 3/2 and repeats the edge, so its grid is not symmetric."""
    want = torch.tensor([[1, 0], [0.5, 0.5], [0, 1], [0, 1]])
    torch.testing.assert_close(resize_matrix(2, 4, "original"), want)
    clean = resize_matrix(9, 4, "clean")
    torch.testing.assert_close(clean, clean.flip(0, 1))  # a half-pixel grid is symmetric
    for how in ("original", "clean"):
        torch.testing.assert_close(resize_matrix(50, 13, how).sum(1), torch.ones(13))
        torch.testing.assert_close(resize_matrix(8, 8, how), torch.diag(torch.ones(8)))
    with pytest.raises(ValueError, match="use one of original, clean"):
        resize(torch.zeros(1, 1, 2, 2), (3, 3), "bilinear")


def test_features_do_not_depend_on_the_batch(extractor: InceptionExtractor) -> None:
    assert isinstance(extractor, FeatureExtractor)
    pixels = images(5, 12, 20)
    whole = extractor.features(pixels)
    assert whole.shape == (5, 2048)
    assert whole.dtype == torch.float32
    assert float(whole.std(0).mean()) > 0.01  # the images have different features
    single = torch.cat([extractor.features(pixels[k : k + 1]) for k in reversed(range(5))]).flip(0)
    torch.testing.assert_close(single, whole, rtol=1e-6, atol=1e-6)
    assert extractor.features(pixels[:0]).shape == (0, 2048)


def test_channels_and_depth(extractor: InceptionExtractor) -> None:
    grey = images(2, 16, 16, 1)
    repeated = extractor.features(np.repeat(grey, 3, axis=3))
    torch.testing.assert_close(extractor.features(grey), repeated, rtol=1e-6, atol=1e-6)
    assert "grey is repeated" in extractor.preprocessing["channels"]
    for c in (2, 4):
        with pytest.raises(ValueError, match=rf"shape \(2, 16, 16, {c}\).*1 channel .* or 3.*alphabar extractor train"):
            extractor.features(images(2, 16, 16, c))
    # values of 16 bit that 8 bit can represent give the same; those between two levels of 8 bit are not rounded
    wide = grey.astype(np.uint16) * 257
    torch.testing.assert_close(extractor.features(wide), repeated, rtol=1e-5, atol=1e-5)
    between = np.where(wide < 60000, wide + 100, wide).astype(np.uint16)
    assert float((extractor.prepared(between) - extractor.prepared(grey)).abs().max()) > 1e-3
    floats = (grey / 255).astype(np.float32)
    torch.testing.assert_close(extractor.features(floats), repeated, rtol=1e-5, atol=1e-5)


def test_the_input_of_the_network_is_the_pixel_minus_128_over_128(extractor: InceptionExtractor) -> None:
    pixels = images(1, 299, 299)
    want = (torch.from_numpy(pixels).permute(0, 3, 1, 2).double() - 128) / 128
    torch.testing.assert_close(extractor.prepared(pixels).double(), want, rtol=0, atol=1e-6)


@pytest.mark.slow(4)
def test_the_fingerprint_depends_on_weights_resize_and_layer(weights: dict[str, Tensor], extractor: InceptionExtractor) -> None:
    clean = InceptionExtractor(weights, "clean", device="cpu")
    assert (extractor.name, clean.name) == ("inception:original", "inception:clean")
    other = {**weights, "Mixed_7c.branch_pool.bn.bias": weights["Mixed_7c.branch_pool.bn.bias"] + 1e-3}
    prints = {e.fingerprint for e in (extractor, clean, InceptionExtractor(other, "clean", device="cpu"))}
    prints.add(InceptionExtractor(weights, "clean", dim=768, device="cpu").fingerprint)
    assert len(prints) == 4
    # no feature depends on the batch norms' counts of batches, which the public file may lack
    few = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    assert InceptionExtractor(few, "clean", device="cpu", batch=3).fingerprint == clean.fingerprint
    pixels = images(1, 28, 28)
    assert float((clean.features(pixels) - extractor.features(pixels)).abs().max()) > 1e-3


def test_weights_that_do_not_fit_are_refused(weights: dict[str, Tensor]) -> None:
    network = InceptionV3()
    for change, words in (
        ({"fc.weight": None}, r"w\.pth: not those of the Inception.*: 'fc\.weight' is missing"),
        ({"AuxLogits.fc.weight": torch.zeros(2)}, r"'AuxLogits\.fc\.weight' is unknown"),
        (
            {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)},
            r"'fc\.weight' is float32 of shape \(1000, 2048\), wanted float32 of shape \(1008, 2048\)",
        ),
    ):
        bad = {k: v for k, v in {**weights, **change}.items() if v is not None}
        with pytest.raises(ValueError, match=words):
            network.load(bad, "w.pth")
    with pytest.raises(ValueError, match="64, 192, 768, 2048"):
        InceptionV3(512)


# Where the weights come from


@pytest.mark.slow(5)
def test_loading_by_name_from_a_path_a_variable_the_cache_or_the_network(
    weights_file: Path, extractor: InceptionExtractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ALPHABAR_INCEPTION", raising=False)
    data = weights_file.read_bytes()
    named = load_extractor(f"inception:original@{weights_file}")
    assert (named.name, named.fingerprint) == ("inception:original", extractor.fingerprint)
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nowhere\.pth, which the name of the extractor gives"):
        load_extractor("inception:original@nowhere.pth")
    with pytest.raises(ValueError, match="inception:original or inception:clean"):
        load_extractor("inception")
    with pytest.raises(ValueError, match="inception:original or inception:clean"):
        load_extractor("inception:legacy")

    # without a file it is downloaded, checked and cached
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(data).hexdigest())
    with served(data) as url:
        monkeypatch.setattr(inception, "URL", url)
        fetched = load_extractor("inception:original")
    assert fetched.fingerprint == extractor.fingerprint
    kept = tmp_path / "cache" / "weights" / "w.pth"
    assert [p.name for p in kept.parent.iterdir()] == ["w.pth"]
    assert inception.weights_path() == kept  # the server is gone
    kept.write_bytes(data[:-1])
    with pytest.raises(OSError, match=r"cannot be downloaded.*curl -L -o w\.pth .*set ALPHABAR_INCEPTION to its path"):
        inception.weights_path()
    with served(data) as url:
        monkeypatch.setattr(inception, "URL", url)
        assert inception.weights_path(show=False).read_bytes() == data
    with served(data[::-1]) as url:
        monkeypatch.setattr(inception, "URL", url)
        kept.unlink()
        with pytest.raises(ValueError, match="did not give the published file"):
            inception.weights_path(show=False)
    assert not kept.exists()

    monkeypatch.setenv("ALPHABAR_INCEPTION", str(weights_file))
    assert inception.weights_path() == weights_file
    assert load_extractor("inception:clean:192").name == "inception:clean:192"
    monkeypatch.setenv("ALPHABAR_INCEPTION", str(tmp_path / "no.pth"))
    with pytest.raises(FileNotFoundError, match="which the variable ALPHABAR_INCEPTION gives"):
        load_extractor("inception:clean")


# Any module


class Means(nn.Module):
    """Means of the channels, times a weight, with a batch norm and a dropout, which eval mode must switch off."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, channels + 1))
        self.norm = nn.BatchNorm1d(channels, affine=False)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.drop(self.norm(x.mean((2, 3)) * self.weight))
        return out


def test_any_module_as_an_extractor() -> None:
    module = Means()
    wrapped = ModuleExtractor(
        module, "means", 3, size=(8, 6), resize="clean", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0), device="cpu", batch=2
    )
    assert isinstance(wrapped, FeatureExtractor)
    assert module.training  # the given module is not changed
    assert module.weight.requires_grad
    pixels = np.full((3, 5, 7, 3), 51, dtype=np.uint8)  # 0.2 of the scale
    want = torch.tensor([0.1, 0.0, -0.1]) / torch.tensor([1.0, 2.0, 4.0]) * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(wrapped.features(pixels), want.expand(3, 3), rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        module.weight.mul_(2)
    torch.testing.assert_close(wrapped.features(pixels), want.expand(3, 3), rtol=1e-4, atol=1e-6)  # it is a copy


def test_the_fingerprint_covers_everything_on_which_features_depend() -> None:
    same: dict[str, Any] = {"size": (8, 6), "resize": "clean", "device": "cpu"}
    prints = {ModuleExtractor(Means(), name, 3, **same, batch=b).fingerprint for name, b in (("a", 2), ("b", 5))}
    assert len(prints) == 1
    for change in (
        {"size": (6, 8)}, {"resize": "original"}, {"size": None, "resize": None}, {"mean": 0.4}, {"std": 0.4},
        {"preprocessing": {"layer": 3}},
    ):  # fmt: skip
        prints.add(ModuleExtractor(Means(), "a", 3, **{**same, **change}).fingerprint)
    heavier = Means()
    with torch.no_grad():
        heavier.weight.add_(1e-6)
    prints.add(ModuleExtractor(heavier, "a", 3, **same).fingerprint)
    prints.add(ModuleExtractor(Means().bfloat16(), "a", 3, **same).fingerprint)
    assert len(prints) == 9


def test_modules_that_do_not_fit_are_refused() -> None:
    four = ModuleExtractor(Means(4), "four", 4, channels=4, device="cpu")
    assert four.features(images(2, 5, 5, 4)).shape == (2, 4)
    with pytest.raises(ValueError, match=r"with c = 4\."):
        four.features(images(2, 5, 5, 1))
    with pytest.raises(ValueError, match=r"gave \(2, 3\) for 2 images; wanted a tensor of shape \(2, 5\)"):
        ModuleExtractor(Means(), "m", 5, device="cpu").features(images(2, 5, 5))
    with pytest.raises(ValueError, match="give both"):
        ModuleExtractor(Means(), "m", 3, resize="clean")
    with pytest.raises(ValueError, match="the resizes are original, clean"):
        ModuleExtractor(Means(), "m", 3, resize="nearest", size=(3, 3))
    with pytest.raises(ValueError, match="mean has 2 numbers for 3 channels"):
        ModuleExtractor(Means(), "m", 3, mean=(0.1, 0.2))
