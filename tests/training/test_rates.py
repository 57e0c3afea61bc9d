"""Learning rates, and that an unknown policy is refused."""

import pytest
import torch

from alphabar.training.config import resolve
from alphabar.training.rates import rate


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
