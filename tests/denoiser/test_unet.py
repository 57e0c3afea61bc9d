import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from alphabar.denoiser.unet import UNet


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (12, 20)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_divisible_by_the_levels(size: tuple[int, int], channels: int) -> None:
    network = UNet(channels, patch=2, channels=(16, 16), blocks=1, attention=(1,), embedding=16)
    y = torch.randn(2, channels, *size)
    assert network(y, torch.rand(2)).shape == y.shape


def test_the_default_network_takes_28_by_28_without_padding() -> None:
    UNet().check_size(28, 28)


@pytest.mark.parametrize(("size", "words"), [((30, 28), "28 or 32"), ((28, 2), "a width of 4"), ((27, 27), "24 or 28")])
def test_another_size_is_refused_with_sizes_that_fit(size: tuple[int, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UNet()(torch.zeros(1, 1, *size), torch.zeros(1))


def test_attention_at_a_missing_level_is_refused() -> None:
    with pytest.raises(ValueError, match="levels run from 0 to 1"):
        UNet(attention=(2,))


def test_the_initial_output_is_zero_and_every_weight_gets_a_gradient() -> None:
    torch.random.manual_seed(0)
    network = UNet(1, 2, (16, 16), 1, (1,), 16, dropout=0.0)
    y, t = torch.randn(4, 1, 8, 8), torch.rand(4)
    assert network(y, t).abs().max() == 0
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for _ in range(8):  # layers initialised to zero let gradients through one after another
        optimizer.zero_grad()
        (network(y, t) - y).square().mean().backward()
        optimizer.step()
    without_gradient = [name for name, p in network.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    # The biases of the keys, a third of the qkv bias, have none: softmax ignores a constant added to all its inputs.
    assert without_gradient == []


def test_the_output_depends_on_the_time() -> None:
    torch.random.manual_seed(0)
    network = UNet(1, 2, (16,), 1, (), 16)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    y = torch.randn(1, 1, 8, 8)
    assert not torch.allclose(network(y, torch.tensor([0.1])), network(y, torch.tensor([0.9])), atol=1e-3)


def test_flops_are_those_of_convolutions_and_linear_layers() -> None:
    network = UNet(1, 2, (16,), 1, (), 16)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, 8, 8), torch.zeros(1))
    pixels = 4 * 4
    c = 16
    entry_and_exit = 2 * (2 * 9 * 4 * c * pixels)
    down_and_middle = 2 * (2 * (2 * 9 * c * c * pixels))
    up = 2 * (2 * 9 * 2 * c * c * pixels + 2 * 9 * c * c * pixels + 2 * 2 * c * c * pixels)
    linear = 2 * (128 * 16 + 16 * 16) + 4 * 2 * 16 * 32
    assert counter.get_total_flops() == entry_and_exit + down_and_middle + up + linear
