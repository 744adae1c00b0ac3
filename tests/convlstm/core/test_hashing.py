import pytest
import torch

from convlstm.core.hashing import integers, random_bits, uniform


def splitmix64(seed: int, count: int) -> list[int]:
    """The generator as published, on Python's unbounded integers."""
    outputs = []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) % 2**64
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        outputs.append(z ^ (z >> 31))
    return outputs


def unsigned(words: torch.Tensor) -> list[int]:
    return [word % 2**64 for word in words.flatten().tolist()]


def chi_square(numbers: torch.Tensor, bins: int) -> float:
    """About bins - 1, give or take sqrt(2 bins), for uniform numbers."""
    expected = numbers.numel() / bins
    counts = torch.histc(numbers.flatten(), bins, 0, 1)
    return float(((counts - expected) ** 2 / expected).sum())


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1])


def test_one_key_gives_the_published_outputs_of_splitmix64() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert unsigned(random_bits(1234567, draws=3)) == published
    assert splitmix64(1234567, 3) == published


@pytest.mark.parametrize("seed", [0, -1, -(2**63), 2**63 - 1, 3 * 2**64 + 5])
def test_each_key_picks_an_output_of_the_generator_that_the_last_one_seeds(seed: int) -> None:
    numbers = [5, 0, 17]
    words = random_bits(seed, torch.tensor(numbers), 2, draws=4)
    assert words.shape == (len(numbers), 4)
    for row, number in zip(words, numbers, strict=True):
        word = splitmix64(seed, number + 1)[number]
        word = splitmix64(word, 3)[2]
        assert unsigned(row) == splitmix64(word, 4)


def test_pinned_numbers() -> None:
    keys = (7, torch.tensor([0, 1, 2**40]))
    expected = torch.tensor(
        [
            [0.7215081806049702, 0.6497043364684557],
            [0.5091093394740435, 0.7512630066025818],
            [0.43123562108058755, 0.4627400665843533],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(uniform(*keys, draws=2), expected, rtol=0, atol=0)
    assert integers(*keys, draws=2, below=1000).tolist() == (expected * 1000).floor().tolist()


def test_a_number_does_not_depend_on_the_batch_or_on_how_many_are_drawn() -> None:
    together = uniform(3, torch.arange(50), draws=6)
    for n in (0, 7, 49):
        torch.testing.assert_close(uniform(3, torch.tensor([n]), draws=6)[0], together[n], rtol=0, atol=0)
        torch.testing.assert_close(uniform(3, n, draws=4), together[n, :4], rtol=0, atol=0)
    backwards = uniform(3, torch.arange(49, -1, -1), draws=6)
    torch.testing.assert_close(backwards.flip(0), together, rtol=0, atol=0)


def test_uniform_fills_the_unit_interval_evenly() -> None:
    numbers = uniform(0, torch.arange(20_000), draws=10)
    assert numbers.dtype == torch.float64
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # Four standard errors: 1 / sqrt(12 * 200,000) of the mean, sqrt(2 * 100) of chi-square about 99.
    assert abs(float(numbers.mean()) - 0.5) < 4 / (12 * 200_000) ** 0.5
    assert abs(chi_square(numbers, 100) - 99) < 4 * 200**0.5
    assert (numbers * 2**53 % 2 == 1).any()  # all 53 bits are in use


def test_neighbouring_keys_and_draws_are_independent() -> None:
    numbers = torch.arange(20_000)
    one = uniform(0, numbers, draws=10)
    bound = 4 / 200_000**0.5  # four standard errors of a correlation
    assert abs(correlation(one, uniform(1, numbers, draws=10))) < bound  # seeds
    assert abs(correlation(one[:-1], one[1:])) < bound  # sequences
    assert abs(correlation(one[:, :-1], one[:, 1:])) < bound  # draws


def test_integers_are_even_and_below_the_bound() -> None:
    numbers = integers(5, torch.arange(10_000), draws=7, below=7)
    assert numbers.dtype == torch.int64
    counts = numbers.flatten().bincount().double()
    assert len(counts) == 7
    assert float(((counts - 10_000) ** 2 / 10_000).sum()) < 6 + 4 * 12**0.5
    assert integers(5, draws=3, below=1).tolist() == [0, 0, 0]


@pytest.mark.gpu
def test_cuda_gives_the_same_bits() -> None:
    numbers = torch.arange(1000)
    on_cuda = uniform(-3, numbers.cuda(), 4, draws=5)
    assert on_cuda.is_cuda
    torch.testing.assert_close(on_cuda.cpu(), uniform(-3, numbers, 4, draws=5), rtol=0, atol=0)


def test_keys_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match=r"torch\.int32\]; they need torch.int64"):
        uniform(0, torch.arange(3, dtype=torch.int32), draws=1)
