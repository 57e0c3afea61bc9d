"""The fast path: the same output by every method, and a model that is not changed by it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from alphabar.core.seeds import starting_noise
from alphabar.data.images import to_pixels
from alphabar.denoiser.adaptive import AdaptiveCalls
from alphabar.denoiser.model import build
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.denoiser.precondition import Preconditioned
from alphabar.denoiser.runtime import methods
from alphabar.denoiser.runtime.fast_model import FastModel, speed_up
from alphabar.denoiser.runtime.job import FixedBatch, Job
from alphabar.denoiser.runtime.methods import METHODS
from alphabar.sampling.samplers.ddim import ddim
from alphabar.schedule.continuous import Cosine
from alphabar.schedule.grid import even_time
from tests.denoiser.runtime.conftest import ALL, BATCH, CPU, FAST, INSTALLED, SHAPE
from tests.fixtures.exact import GaussianDenoiser
from tests.fixtures.toy import Gaussian

GetFastModel = Callable[[str], FastModel]
Noisy = tuple[Tensor, Tensor]


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("n", [1, 3, BATCH, 11])
def test_every_method_has_the_output_of_the_model(
    fast_model: GetFastModel, model: Preconditioned, noisy: Noisy, method: str, n: int
) -> None:
    x, sigma = noisy[0][:n], noisy[1][:n]
    fast = fast_model(method)
    compilations = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with torch.inference_mode():
        wanted = model(x, sigma)
        assert torch.allclose(fast(x.clone(), sigma.clone()), wanted, rtol=0, atol=1e-5)
    assert torch.allclose(fast(x, sigma), wanted, rtol=0, atol=1e-5)  # tensors that are not of inference mode
    assert fast.method == method and fast.deviation < 1e-5
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compilations  # compiled once


@pytest.mark.slow
def test_compiling_leaves_no_setting_behind(fast_model: GetFastModel) -> None:
    import torch._inductor.config as settings

    fast_model("compile")
    assert settings.freezing is False


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("steps", [10, 50])
def test_finished_images_differ_by_one_level_in_few_pixels(
    fast_model: GetFastModel, model: Preconditioned, method: str, steps: int
) -> None:
    grid = even_time(Cosine(), steps)
    x = grid[0].float() * starting_noise(0, range(6), SHAPE)
    got, wanted = ddim(fast_model(method), x, grid), ddim(model, x, grid)
    assert (got - wanted).abs().max() < 1e-4
    a, b = (to_pixels(v, np.uint8).astype(int) for v in (got, wanted))
    assert np.abs(a - b).max() <= 1 and (a != b).mean() < 0.01


@pytest.mark.parametrize("method", ALL)
def test_an_output_is_not_overwritten_by_the_next_call(fast_model: GetFastModel, noisy: Noisy, method: str) -> None:
    y, t = noisy[0][:BATCH], torch.linspace(0.1, 0.9, BATCH)
    network = fast_model(method).network
    with torch.no_grad():
        out = network(y, t)
        kept = out.clone()
        network(-y, t)
    assert torch.equal(out, kept)


def test_a_fixed_batch_splits_pads_and_falls_back(job: Job) -> None:
    sizes: list[tuple[str, int]] = []

    def run(kind: str) -> Callable[[Tensor, Tensor], Tensor]:
        def call(y: Tensor, t: Tensor) -> Tensor:
            sizes.append((kind, len(y)))
            return y + t.reshape(-1, 1, 1, 1)

        return call

    fixed = FixedBatch(run("run"), job, run("fallback"))
    y, t = starting_noise(0, range(11), SHAPE), torch.linspace(0, 1, 11)
    for n in (1, 3, 11):  # 11 = 4 + 4 + 3
        assert torch.equal(fixed(y[:n], t[:n]), y[:n] + t[:n].reshape(-1, 1, 1, 1))
    assert sizes == [("fallback", 1), ("run", 4), ("run", 4), ("run", 4), ("run", 4)]


@pytest.mark.parametrize("method", FAST)
def test_the_model_is_not_changed(model: Preconditioned, noisy: Noisy, method: str) -> None:
    model.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    model.network.train()
    before = {k: (v.clone(), v.stride(), v.data_ptr()) for k, v in model.state_dict().items()}
    fast = speed_up(model, method, batch=BATCH)
    model.network.train()
    with torch.no_grad():
        out = fast(*noisy)
        again = fast(*noisy)
    assert torch.equal(out, again)  # no dropout, in whatever mode the model is
    assert all(m.training for m in model.network.modules())
    assert all(p.requires_grad for p in model.parameters())
    for k, v in model.state_dict().items():
        value, stride, address = before[k]
        assert torch.equal(v, value) and v.stride() == stride and v.data_ptr() == address
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
        assert torch.equal(fast(*noisy), out)  # later training does not change the copy


def test_other_attributes_are_those_of_the_model() -> None:
    model = build(ModelRecipe("unet", (8,), groups=4, embedding=8), {"kind": "cosine"}, (1, 8, 8), crop=2, pixels="uint16")
    fast = speed_up(model, "eager", batch=2)
    for name in ("schedule", "own_schedule", "image_shape", "crop", "pixels", "value_range", "data_range", "prediction", "spec"):
        assert getattr(fast, name) == getattr(model, name)
    fingerprint = fast.fingerprint
    assert fingerprint == model.fingerprint
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert fast.fingerprint == fingerprint != model.fingerprint
    assert fast.device == CPU and "eager" in repr(fast)
    assert speed_up(fast, "channels_last", batch=2).model is model
    record = fast.record()
    assert record.pop("prepare_seconds") > 0
    assert record == {"method": "eager", "precision": "float32", "deviation": 0.0}
    with pytest.raises(AttributeError):
        fast.nonsense  # noqa: B018


def test_a_model_that_training_has_compiled_is_copied_with_its_present_weights(model: Preconditioned, noisy: Noisy) -> None:
    """Training replaces the network's forward by a compiled one, which is bound to the original's weights."""
    plain = model.network.forward
    model.network.forward = lambda y, t: plain(y, t)  # type: ignore[method-assign]
    fast = speed_up(model, "channels_last", batch=BATCH)
    with torch.no_grad():
        wanted = model(*noisy)
        for p in model.parameters():
            p.mul_(0.5)
        assert torch.allclose(fast(*noisy), wanted, atol=1e-5)


def test_bf16_changes_the_output_and_is_recorded(model: Preconditioned, noisy: Noisy) -> None:
    fast = speed_up(model, "channels_last", batch=BATCH, precision="bf16")
    difference = (fast(*noisy) - model(*noisy)).abs().max()
    assert fast.precision == "bf16" and fast(*noisy).dtype == torch.float32
    assert 1e-4 < difference < 0.2 and fast.deviation > 1e-4
    if "onnxruntime" in INSTALLED:
        with pytest.raises(ValueError, match="onnxruntime: it runs in float32 only"):
            speed_up(model, "onnxruntime", batch=BATCH, precision="bf16")


def test_an_adaptive_plan_calls_for_part_of_a_batch(model: Preconditioned) -> None:
    grid = even_time(Cosine(), 40)
    x = grid[0].float() * starting_noise(0, range(6), SHAPE)
    wanted, fast = AdaptiveCalls(model, 0.05, grid), AdaptiveCalls(speed_up(model, "channels_last", batch=6), 0.05, grid)
    assert torch.allclose(ddim(fast, x, grid), ddim(wanted, x, grid), atol=1e-3)
    assert torch.equal(fast.calls, wanted.calls)


def test_invalid_arguments_are_refused(model: Preconditioned) -> None:
    with pytest.raises(ValueError, match="method 'complie' is unknown: did you mean 'compile'"):
        speed_up(model, "complie", batch=4)
    with pytest.raises(ValueError, match="precision 'fp8' is unknown"):
        speed_up(model, precision="fp8", batch=4)
    with pytest.raises(ValueError, match="batch = 0: give 1 or more"):
        speed_up(model, batch=0)
    with pytest.raises(ValueError, match="GaussianDenoiser has no network"):
        speed_up(GaussianDenoiser(Gaussian(torch.zeros(SHAPE).double(), torch.ones(SHAPE).double())), batch=4)
    with pytest.raises(ValueError, match="the model is on cpu and not on meta: move it there first"):
        speed_up(model, "eager", batch=4, device="meta")
    with pytest.raises(ValueError, match="CUDA graphs need a CUDA device"):
        speed_up(model, "cuda_graphs", batch=4)


def test_a_missing_package_is_named_with_the_command(model: Preconditioned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"onnxruntime: onnx, .*, onnxruntime not installed: pip install 'alphabar\[fast\]'"):
        speed_up(model, "onnxruntime", batch=4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device; this machine has none")
@pytest.mark.parametrize("n", [1, 3, BATCH, 11])
def test_cuda_graphs_have_the_output_of_the_model(model: Preconditioned, noisy: Noisy, n: int) -> None:
    model = model.to("cuda")
    x, sigma = noisy[0][:n].to("cuda"), noisy[1][:n].to("cuda")
    fast = speed_up(model, "cuda_graphs", batch=BATCH)
    with torch.inference_mode():
        assert torch.allclose(fast(x, sigma), model(x, sigma), rtol=0, atol=1e-3)  # TF32 may be on
        assert torch.equal(fast(x, sigma), fast(x, sigma))
    assert isinstance(fast, FastModel) and fast.device.type == "cuda" and set(METHODS) > {"cuda_graphs"}
