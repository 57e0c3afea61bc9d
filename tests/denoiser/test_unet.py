import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from alphabar.denoiser.unet import UNet


def trained_a_little(channels: int) -> UNet:
    """A network with random weights everywhere: that of a new one gives zero."""
    torch.random.manual_seed(0)
    network = UNet(channels, patch=2, channels=(16, 16), blocks=1, attention=(1,), embedding=16)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return network.eval()


@pytest.mark.parametrize("size", [(28, 28), (12, 20), (27, 30), (3, 5), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_is_padded_with_zeros_and_the_output_cut(size: tuple[int, int], channels: int) -> None:
    network, y, t = trained_a_little(channels), torch.randn(2, channels, *size), torch.rand(2)
    h, w = size
    padded = torch.zeros(2, channels, -(-h // 4) * 4, -(-w // 4) * 4)
    padded[..., :h, :w] = y
    assert torch.equal(network(y, t), network(padded, t)[..., :h, :w])


def test_recomputed_activations_give_the_same_gradients() -> None:
    network, y, t = trained_a_little(1).train(), torch.randn(2, 1, 8, 8), torch.rand(2)
    gradients = []
    for network.recompute in (False, True):
        network.zero_grad()
        network(y, t).square().sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


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
