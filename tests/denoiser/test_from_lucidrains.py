"""Checkpoints of denoising-diffusion-pytorch, read: outputs and images are those of the library itself.

`make test-all` installs it, without its dependencies, into the folder `peers` of the environment.
"""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from alphabar.core.seeds import SeededNoise
from alphabar.denoiser.from_lucidrains import TABLES, read_lucidrains
from alphabar.denoiser.model import load_weights, save_weights
from alphabar.denoiser.wrappers import ClipX0
from alphabar.sampling.sample import sample
from alphabar.sampling.samplers.ddim import ddim
from alphabar.sampling.samplers.ddpm import ddpm
from alphabar.schedule.grid import make_grid
from alphabar.training.checkpoint import home_of, load_model

PEERS = Path(sys.prefix) / "peers"
SIZE, STEPS = 16, 100


@pytest.fixture(scope="module")
def library() -> Iterator[Any]:
    """The library, with an empty torchvision (its dataset alone uses it) where that is missing."""
    added = not importlib.util.find_spec("denoising_diffusion_pytorch")
    if added and not (PEERS / "denoising_diffusion_pytorch").is_dir():
        pytest.skip("the peers are not installed: make test-all")
    lacking = importlib.util.find_spec("torchvision") is None
    if lacking:
        sys.modules["torchvision"] = stub = ModuleType("torchvision")
        stub.transforms, stub.utils = ModuleType("transforms"), ModuleType("utils")  # type: ignore[attr-defined]
    sys.path += [str(PEERS)] * added
    import denoising_diffusion_pytorch

    yield denoising_diffusion_pytorch
    for name in ("torchvision",) * lacking:
        del sys.modules[name]
    if added:
        sys.path.remove(str(PEERS))


def written(library: Any, file: Path, unet: dict[str, Any] | None = None, **options: Any) -> Any:
    """Writes what `Trainer.save` writes. Returns the averaged GaussianDiffusion, whose weights differ from the online ones."""
    from ema_pytorch import EMA

    torch.manual_seed(0)
    unet = {"dim": 16, "dim_mults": (1, 2, 3), "channels": 1} | (unet or {})
    diffusion = library.GaussianDiffusion(library.Unet(**unet), **{"image_size": SIZE, "timesteps": STEPS} | options)
    average = EMA(diffusion, beta=0.9, update_every=1)
    average.update()
    with torch.no_grad():
        for p in average.ema_model.parameters():
            p += 0.02 * torch.randn_like(p)
    optimiser = torch.optim.Adam(diffusion.parameters())
    torch.save(
        {
            "step": 1000, "model": diffusion.state_dict(), "opt": optimiser.state_dict(), "ema": average.state_dict(),
            "scaler": None, "version": "2.3.4",
        },
        file,
    )  # fmt: skip
    return average.ema_model.eval()


CASES = [
    ({}, {}),
    ({"dim_mults": (1, 2), "channels": 3}, {"objective": "pred_noise", "beta_schedule": "linear"}),
    ({"init_dim": 24, "full_attn": (True, False, True)}, {"objective": "pred_x0", "beta_schedule": "cosine"}),
    ({"attn_heads": (2, 3, 4), "attn_dim_head": (8, 16, 12)}, {"min_snr_loss_weight": True}),
    ({"flash_attn": True, "dropout": 0.1}, {"objective": "pred_noise", "min_snr_loss_weight": True, "beta_schedule": "cosine"}),
    ({}, {"objective": "pred_x0", "min_snr_loss_weight": True, "beta_schedule": "linear", "timesteps": 1000}),
]


@pytest.mark.slow(30)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("unet", "options"), CASES)
def test_a_checkpoint_makes_what_the_library_makes(library, tmp_path, monkeypatch, unet, options):
    theirs = written(library, tmp_path / "model-1.pt", unet, **options)
    model = load_model(f"lucidrains:{tmp_path}/model-1.pt@{SIZE}")
    assert model.prediction == {"pred_noise": "eps", "pred_x0": "x0", "pred_v": "v"}[theirs.objective]
    shape = (2, theirs.channels, SIZE, SIZE)
    y, last = torch.randn(shape, generator=torch.Generator().manual_seed(1)), theirs.num_timesteps - 1
    for t in (0, last // 3, last - 5):
        sigma = model.schedule.sigma(torch.full((2,), float(t), dtype=torch.float64))
        with torch.no_grad():
            wanted = theirs.model_predictions(y, torch.full((2,), t)).pred_x_start
            scale = theirs.sqrt_alphas_cumprod[t]
            found = model(y / scale, sigma)
        assert wanted.abs().max() > 0.1
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))

    def drawn(steps: int) -> torch.Tensor:
        """Images of the library in -1..1 from our noise."""
        noises = iter([y, *(SeededNoise(0, [0, 1])(i, y) for i in range(steps))])
        monkeypatch.setattr(torch, "randn", lambda *a, **k: next(noises))
        monkeypatch.setattr(torch, "randn_like", lambda x: next(noises))
        theirs.sampling_timesteps, theirs.is_ddim_sampling, theirs.ddim_sampling_eta = steps, steps < STEPS, 0.5
        found = (theirs.ddim_sample if steps < STEPS else theirs.p_sample_loop)(shape) * 2 - 1
        monkeypatch.undo()
        return found

    for steps, sampler, how in ((10, ddim, {"eta": 0.5}), (STEPS, ddpm, {"variance": "posterior"})):
        if sampler is ddpm and theirs.num_timesteps > STEPS:
            continue
        grid = make_grid(model.schedule, steps, model.defaults.grid)
        start = y * float((1 + grid[0] ** 2).sqrt())  # the library begins with y of variance 1
        with torch.no_grad():
            found = sampler(ClipX0(model), start, grid, noise=SeededNoise(0, [0, 1]), **how)
        torch.testing.assert_close(found, drawn(steps), rtol=0, atol=5e-3)


@pytest.mark.slow(10)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_checkpoint_is_sampled_stored_and_read_again(library, tmp_path):
    written(library, tmp_path / "model-7.pt")
    run = f"lucidrains:{tmp_path}/model-7.pt@16x8"
    model = load_model(run)
    samples = sample(model, 2, steps=2, out=tmp_path / "two.npz")
    assert samples.images.shape == (2, 16, 8, 1)
    assert home_of(run) == tmp_path / "alphabar" / "model-7"
    with pytest.raises(ValueError, match="multiples of 4, and the size given is 16x10"):
        load_model(run.replace("16x8", "16x10"))
    save_weights(tmp_path / "kept.safetensors", model)
    assert load_weights(tmp_path / "kept.safetensors").fingerprint == model.fingerprint


@pytest.mark.slow(10)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda ema: ema.pop("ema_model.model.mid_attn.to_qkv.weight"), "'mid_attn.to_qkv.weight' is missing"),
        (lambda ema: ema.update({"ema_model.model.classes_emb.weight": torch.zeros(2, 2)}), "'classes_emb.weight' is unknown"),
        (lambda ema: ema.update({"ema_model.model.final_conv.bias": torch.full((1,), torch.nan)}), "NaN"),
        (lambda ema: ema["ema_model.loss_weight"].mul_(torch.rand(STEPS)), "pred_v, pred_noise and pred_x0"),
        (lambda ema: ema["ema_model.betas"].fill_(0), "beta 0 is 0"),
    ],
)
def test_every_tensor_is_accounted_for(library, tmp_path, edit, message):
    written(library, tmp_path / "model-1.pt")
    stored = torch.load(tmp_path / "model-1.pt", weights_only=True)
    edit(stored["ema"])
    torch.save(stored, tmp_path / "model-1.pt")
    with pytest.raises(ValueError, match=message) as refused:
        read_lucidrains(str(tmp_path / "model-1.pt"), "16")
    assert "model-1.pt" in str(refused.value)


def crafted(**tensors: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """The averaged weights of a checkpoint that holds little of a network."""
    network = {"init_conv.weight": (8, 3, 7, 7), "final_conv.weight": (3, 8, 1, 1), "time_mlp.1.weight": (32, 8)} | tensors
    return {f"ema_model.{k}": torch.ones(10) for k in TABLES} | {
        f"ema_model.model.{k}": torch.zeros(shape) for k, shape in network.items() if shape
    }


@pytest.mark.parametrize(
    ("ema", "size", "message"),
    [
        (crafted(**{"time_mlp.0.weights": (4,)}), "16", "random_fourier_features cannot be read"),
        (crafted(**{"init_conv.weight": (8, 6, 7, 7)}), "16", "self_condition"),
        (crafted(**{"final_conv.weight": (6, 8, 1, 1)}), "16", "learned_variance"),
        (crafted(**{"init_conv.weight": ()}), "16", "'init_conv.weight' is missing"),
        (crafted(), "", "@64"),
        (crafted(), "big", "size 'big'"),
        ({"ema_model.net.weight": torch.zeros(2)}, "16", "not of a GaussianDiffusion"),
        (crafted() | {"shadow.weight": torch.zeros(2)}, "16", "differs in shadow.weight"),
    ],
)
def test_other_networks_are_refused_by_name(tmp_path, ema, size, message):
    torch.save({"step": 1, "ema": ema}, tmp_path / "model-1.pt")
    with pytest.raises(ValueError, match=message):
        load_model(f"lucidrains:{tmp_path}/model-1.pt{'@' * bool(size)}{size}")


def test_what_is_no_checkpoint_is_named(tmp_path):
    torch.save({"step": 1, "model": {}}, tmp_path / "model-1.pt")
    with pytest.raises(ValueError, match="no dict under part='ema'"):
        load_model(f"lucidrains:{tmp_path}/model-1.pt@16")
    with pytest.raises(ValueError, match=r"lucidrains:.*model-1\.pt@SIZE"):
        load_model(tmp_path / "model-1.pt")
    with pytest.raises(FileNotFoundError, match=r"model-2\.pt"):
        load_model(f"lucidrains:{tmp_path}/model-2.pt@16")
