"""Optimisers (which weights Muon updates, its steps are torch's, a run with it can be resumed) and learning rates."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from alphabar.core.files import read_jsonl
from alphabar.denoiser.model import Model
from alphabar.training.config import resolve
from alphabar.training.muon import flattened, matrices, orthogonalized
from alphabar.training.optim import make_optimizer, rate
from tests.fixtures.training import interrupted, small_model, small_recipe, small_training

CPU = torch.device("cpu")


def trained_model() -> Model:
    """A model whose last layers are not 0, so that all parameters have gradients."""
    model, g = small_model(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return model


LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


@LAYOUTS
def test_a_flat_weight_is_the_weight_itself(layout: torch.memory_format) -> None:
    weight = torch.randn(6, 4, 3, 3).contiguous(memory_format=layout)
    flat = flattened(weight, weight)
    assert flat.shape == (6, 36) and flat.data_ptr() == weight.data_ptr()
    flat[2] = 7.0
    assert bool((weight[2] == 7).all())
    other = torch.arange(216.0).reshape(6, 4, 3, 3)  # in the other layout, where the columns stand in the weight's order
    assert torch.equal(flattened(other, weight), other.contiguous(memory_format=layout).as_strided((6, 36), (36, 1)))


def test_orthogonal_matrices_have_the_polynomials_singular_values() -> None:
    """The closed form, in float64: U p(p(p(p(p(S / |X|))))) V^T; also with singular values down to 1e-6, and of tall matrices."""
    g = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(3, n, 8, generator=g, dtype=torch.float64))[0] for n in (8, 72))
    s = torch.stack([torch.logspace(0, -6, 8), torch.linspace(1, 2, 8), torch.tensor([5.0] + 7 * [0.0])]).double()
    x, p = u @ torch.diag_embed(s) @ v.mT, s / s.norm(dim=1, keepdim=True)
    for _ in range(5):
        p = 3.4445 * p - 4.7750 * p**3 + 2.0315 * p**5
    expected = u @ torch.diag_embed(p) @ v.mT
    assert float(p[1].min()) > 0.6 and float(p[1].max()) < 1.3
    for matrix, wanted in ((x, expected), (x.mT, expected.mT)):
        assert torch.allclose(orthogonalized(matrix.float()).double(), wanted, atol=2e-4)
    assert torch.equal(orthogonalized(torch.zeros(1, 3, 5)), torch.zeros(1, 3, 5))


def test_muon_updates_the_inner_matrices() -> None:
    model = small_model()
    updated = {id(p) for p in matrices(model)}
    names = {n: id(p) in updated for n, p in model.named_parameters()}
    assert not names["network.enter.weight"] and not names["network.leave.weight"]
    assert not any(taken for n, taken in names.items() if n.endswith("bias") or "norm" in n)
    assert names["network.middle.conv1.weight"] and names["network.middle.film.weight"]


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has had Muon since version 2.9")
@LAYOUTS
def test_muons_steps_are_torchs(layout: torch.memory_format) -> None:
    """On one convolution written as a matrix, but for torch's rounding to bfloat16; the update's root mean square is 0.2 of the
    learning rate, as AdamW's."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 1, 3)).to(memory_format=layout)  # type: ignore[call-overload]
    middle = net[1].weight
    alone = nn.Parameter(flattened(middle, middle).detach().clone())
    recipe = small_recipe(optimizer="muon", lr=0.01, weight_decay=0.1)
    ours = make_optimizer(recipe, net, CPU)
    theirs = torch.optim.Muon([alone], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.zero_grad()
        (net(torch.randn(16, 1, 8, 8)) ** 2).mean().backward()
        alone.grad = flattened(middle.grad, middle).clone()
        before = middle.detach().clone()
        ours.step()
        theirs.step()  # type: ignore[no-untyped-call]
        step = middle.detach() - before * (1 - 0.01 * 0.1)
        assert float((flattened(middle, middle) - alone).detach().norm()) < 0.1 * float(step.norm())
        with torch.no_grad():
            alone.copy_(flattened(middle, middle))  # so that each step begins at the same weights
    assert float(step.square().mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=0.3)


def test_all_that_is_no_matrix_takes_adamws_steps() -> None:
    ours, theirs = trained_model(), trained_model()
    one, other = make_optimizer(small_recipe(optimizer="muon"), ours, CPU), make_optimizer(small_recipe(), theirs, CPU)
    for model, optimizer in ((ours, one), (theirs, other)):
        (model(torch.ones(2, 1, 8, 8), torch.ones(2)) ** 2).mean().backward()
        optimizer.step()
    updated = {id(p) for p in matrices(ours)}
    same = {id(p): torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)}
    assert all(same[k] for k in same.keys() - updated) and not any(same[k] for k in updated)


def test_a_scaled_loss_gives_the_same_steps() -> None:
    """Of training in float16: the gradients of a scaled loss are divided before Muon gets them."""
    weights = []
    for scale in (1.0, 2.0**16):
        model = trained_model()
        optimizer = make_optimizer(small_recipe(optimizer="muon"), model, CPU)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale > 1)
        for _ in range(2):
            optimizer.zero_grad()
            scaler.scale((model(torch.ones(2, 1, 8, 8), torch.ones(2)) ** 2).mean()).backward()
            scaler.step(optimizer)
            scaler.update()
        weights.append(list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*weights, strict=True))


def test_muon_uses_the_learning_rate_of_each_step() -> None:
    model = small_model()
    optimizer = make_optimizer(small_recipe(optimizer="muon"), model, CPU)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    (model(torch.randn(2, 1, 8, 8), torch.ones(2)) ** 2).mean().backward()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_run_with_muon_and_snapshots_continues_to_the_same_bits(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    options = {"optimizer": "muon", "ema_snapshots": 4}
    whole = small_training(pixels, tmp_path / "whole", **options)  # type: ignore[arg-type]
    interrupted(pixels, tmp_path / "stopped", 320, **options)
    resumed = small_training(pixels, tmp_path / "stopped", resume=True, **options)  # type: ignore[arg-type]
    assert resumed.fingerprint == whole.fingerprint
    for a, b in zip(*(sorted((tmp_path / k / "averages").iterdir()) for k in ("whole", "stopped")), strict=True):
        assert a.name == b.name and a.read_bytes() == b.read_bytes()
    assert len(list((tmp_path / "whole" / "averages").iterdir())) == 8
    losses = [e["loss"] for e in read_jsonl(tmp_path / "whole" / "events.jsonl") if e["event"] == "loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("steps", [10, 97])
def test_one_cycle_is_torchs(steps: int) -> None:
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps, pct_start=0.25)
    for step in range(steps):
        lr, beta1 = rate("one_cycle", step, steps, 1e-2)
        assert lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        assert beta1 == pytest.approx(optimizer.param_groups[0]["betas"][0], rel=1e-9)
        optimizer.step()
        if step < steps - 1:
            scheduler.step()


def test_warm_up_then_constant_or_cosine() -> None:
    assert [rate("constant", k, 100, 1.0, warmup=4)[0] for k in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rate("constant", 0, 100, 1.0)[1] is None
    assert rate("cosine", 0, 101, 1.0)[0] == pytest.approx(1.0)
    assert rate("cosine", 50, 101, 1.0)[0] == pytest.approx((1 + 0.01) / 2)
    assert rate("cosine", 100, 101, 1.0)[0] == pytest.approx(0.01)


def test_an_unknown_policy_is_refused_when_the_recipe_is_read() -> None:
    with pytest.raises(ValueError, match="step"):
        resolve("garments", ["--train.policy", "step"])
