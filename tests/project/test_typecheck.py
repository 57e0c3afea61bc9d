"""The type checker of the tests checks shapes, up to a number of calls that starts again with every test."""

import jaxtyping
import pytest
import torch

from alphabar.schedule.noising import add_noise
from tests import typecheck


@pytest.mark.parametrize("turn", [1, 2])
def test_shapes_are_checked_up_to_so_many_calls_in_each_test(turn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not jaxtyping.config.jaxtyping_disable  # the first turn leaves it disabled, the second finds it enabled
    monkeypatch.setattr(typecheck, "MOST", 20)
    typecheck.begin()
    x, sigma = torch.zeros(2, 1, 4, 4), torch.ones(2)
    with pytest.raises(jaxtyping.TypeCheckError, match="add_noise"):
        add_noise(x, torch.ones(3), x)  # as many levels as images
    for _ in range(typecheck.MOST):
        add_noise(x, sigma, x)
    assert jaxtyping.config.jaxtyping_disable
