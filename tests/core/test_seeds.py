"""Random numbers: every draw of every image is a function of its address, in any order and in any batch."""

import numpy as np
import pytest
import torch

from alphabar.core import seeds
from alphabar.core.seeds import ORDER, START, STEP, TRAIN, Ahead, SeededNoise, generator, permutation, starting_noise

MASK = 2**64 - 1


def philox4x64(counter: list[int], key: list[int], rounds: int = 10) -> list[int]:
    """Salmon et al. 2011, sec. 3.3, in plain integers."""
    c, k = list(counter), list(key)
    for _ in range(rounds):
        p0, p1 = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(p1 >> 64) ^ c[1] ^ k[0], p1 & MASK, (p0 >> 64) ^ c[3] ^ k[1], p0 & MASK]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return c


def test_bits_are_philox_written_by_hand():
    raw = generator(7, 37, 5, stream=STEP).bit_generator.random_raw(8)
    wanted = [w for block in (1, 2) for w in philox4x64([block, 0, STEP, 5], [7, 37])]  # NumPy counts up first
    assert raw.tolist() == wanted


@pytest.mark.parametrize("address", [(0, 0, 0, START), (3, 2**40, 999, STEP), (2**64 - 1, 1, 2**33, TRAIN)])
def test_noise_is_numpys_philox_made_from_scratch(address):
    seed, index, draw, stream = address
    bits = np.random.Philox(key=np.array([seed, index], dtype=np.uint64), counter=np.array([0, 0, stream, draw], dtype=np.uint64))
    wanted = np.random.Generator(bits).standard_normal((1, 8, 9), dtype=np.float32)
    got = SeededNoise(seed, [index], stream)(draw, torch.empty(1, 1, 8, 9))
    assert np.array_equal(got[0].numpy(), wanted)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_same_bits_in_any_batch(batch):
    whole = SeededNoise(0, range(64))(3, torch.empty(64, 1, 5, 7))
    parts = [
        SeededNoise(0, range(64)[lo : lo + batch])(3, torch.empty(min(batch, 64 - lo), 1, 5, 7)) for lo in range(0, 64, batch)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_same_bits_in_any_order_and_after_odd_draws():
    order = permutation(1, 0, 32).tolist()
    like = torch.empty(32, 1, 3, 3)  # 9 numbers: the generator is left in the middle of a block
    assert torch.equal(SeededNoise(0, order)(2, like), SeededNoise(0, range(32))(2, like)[order])
    noise = SeededNoise(0, range(32))
    first = noise(0, like)
    noise(1, like)
    assert torch.equal(noise(0, like), first)


def test_nothing_is_carried_over_to_the_next_address():
    address = seeds.Addressed()
    address.at(0, 0, 0, START).standard_normal(3, dtype=np.float32)
    address.at(0, 0, 0, START).integers(0, 100, dtype=np.uint32)  # leaves half a word
    again = address.at(5, 6, 7, STEP).integers(0, 2**32, 5, dtype=np.uint32)
    assert np.array_equal(again, generator(5, 6, 7, stream=STEP).integers(0, 2**32, 5, dtype=np.uint32))


def test_every_part_of_the_address_counts_and_streams_do_not_overlap():
    addresses = [(s, i, d, st) for s in (0, 1) for i in (0, 1) for d in (0, 1) for st in range(6)]
    first = [tuple(generator(s, i, d, stream=st).bit_generator.random_raw(1000)) for s, i, d, st in addresses]
    words = [w for draw in first for w in draw]
    assert len(set(words)) == len(words)  # 64-bit words: one that comes twice is one that was drawn twice
    used = generator(0, 0, 4, stream=STEP)
    used.standard_normal(10**6)
    low, mid, stream, draw = used.bit_generator.state["state"]["counter"].tolist()
    assert (mid, stream, draw) == (0, STEP, 4)  # a million numbers move the lowest of four words
    assert low < 10**6


def test_numbers_are_standard_normal():
    x = starting_noise(0, range(400), (1, 25, 25)).double()
    n = x.numel()
    assert abs(x.mean()) < 4 / n**0.5
    assert abs(x.var() - 1) < 4 * (2 / n) ** 0.5
    assert x.dtype == torch.float64 and starting_noise(0, [0], (1, 2, 2)).dtype == torch.float32


def test_starting_noise_is_not_the_first_steps():
    like = torch.empty(4, 1, 3, 3)
    assert not torch.equal(starting_noise(0, range(4), (1, 3, 3)), SeededNoise(0, range(4))(0, like))


def test_permutation_belongs_to_its_epoch():
    orders = [permutation(0, epoch, 50) for epoch in range(4)]
    assert all(sorted(o.tolist()) == list(range(50)) for o in orders)
    assert len({tuple(o) for o in orders}) == 4
    assert np.array_equal(permutation(0, 2, 50), generator(0, 2, stream=ORDER).permutation(50))


def test_no_global_randomness_is_used():
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index]
    starting_noise(0, range(3), (1, 4, 4))
    permutation(0, 0, 10)
    assert np.array_equal(before[0], np.random.get_state()[1]) and torch.equal(before[1], torch.get_rng_state())


@pytest.mark.parametrize("address", [{"seed": -1}, {"index": -3}, {"draw": 2**64}])
def test_addresses_out_of_range_are_refused_by_name(address):
    (name,) = address
    with pytest.raises(ValueError, match=rf"{name} = .*2\*\*64 - 1"):
        generator(**({"seed": 0} | address))


def test_noise_for_another_number_of_images_is_refused():
    with pytest.raises(ValueError, match="noise for 3 images was asked for a batch of 2"):
        SeededNoise(0, range(3))(0, torch.empty(2, 1, 4, 4))


@pytest.mark.parametrize("threads", [1, 3])
def test_noise_made_ahead_has_the_same_bits_in_any_order_of_draws(threads):
    noise = SeededNoise(5, [9, 4, 2, 7, 0])
    ahead, like = Ahead(noise, threads), torch.empty(5, 1, 6, 6)
    for draw in (0, 1, 2, 2, 7, 3):
        assert torch.equal(ahead(draw, like), noise(draw, like))
    smaller = torch.empty(5, 1, 3, 4)
    assert torch.equal(ahead(4, smaller), noise(4, smaller))
    with pytest.raises(ValueError, match="noise for 5 images was asked for a batch of 2"):
        ahead(5, torch.empty(2, 1, 3, 4))
