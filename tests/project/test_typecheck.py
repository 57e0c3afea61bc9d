"""The tests' own type checker checks, in every test anew."""

import jaxtyping
import pytest
import torch

from alphabar.schedule.noising import add_noise
from tests import typecheck


@pytest.mark.parametrize("turn", [1, 2])
def test_shapes_are_checked_up_to_so_many_calls_in_each_test(turn: int) -> None:
    x, sigma = torch.zeros(2, 1, 4, 4), torch.ones(2)
    with pytest.raises(jaxtyping.TypeCheckError, match="add_noise"):
        add_noise(x, torch.ones(3), x)  # as many levels as images
    for _ in range(typecheck.MOST):
        add_noise(x, sigma, x)
    assert jaxtyping.config.jaxtyping_disable  # and the second turn finds it enabled again
