"""Counter-based randomness: a random number is a pure function of integer keys, with no state to carry.

Numbers are the same on any device, in any batch, in any order and after any resume.

Letters: B batch, N draws.
"""

import torch

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB


def _signed(word: int) -> int:
    """Return the int64 with the lowest 64 bits of `word`: torch has no arithmetic on unsigned integers."""
    word &= 2**64 - 1
    return word - 2**64 if word >= 2**63 else word


def _shift_right(z: torch.Tensor, bits: int) -> torch.Tensor:
    # An int64 shift copies the sign bit in from the left; the mask makes it a logical shift.
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _output(seed: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """Return output `number` (0, 1, ...) of SplitMix64 with this seed; int64 arithmetic wraps around.

    Guy L. Steele, Doug Lea and Christine H. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA
    2014. The finalizer, in which each input bit changes about half of the output bits, is variant 13 of
    David Stafford, "Better Bit Mixing", 2011.
    """
    z = seed + (number + 1) * _signed(_GOLDEN)
    z = (z ^ _shift_right(z, 30)) * _signed(_MULTIPLIER_1)
    z = (z ^ _shift_right(z, 27)) * _signed(_MULTIPLIER_2)
    return z ^ _shift_right(z, 31)


def random_bits(*keys: int | torch.Tensor, draws: int) -> torch.Tensor:
    r"""Return random 64-bit words, a pure function of the keys and of the number of the draw.

    .. math::
        s_1 = k_1, \quad s_j = \mathrm{mix}(s_{j-1} + (k_j + 1) \gamma) \bmod 2^{64}

    for the keys :math:`k_1, k_2, \ldots` and, as the last one, the draw 0, 1, ..., draws - 1; mix is the
    finalizer and :math:`\gamma` the increment of SplitMix64. In words: each word seeds a SplitMix64
    generator, and the next key says which of its outputs is the next word. With a single key, the draws are
    the outputs of SplitMix64 with that key as its seed.

    Args:
        keys: one key or more, whose order matters: integers (their lowest 64 bits count), or int64 tensors of
            shape (B,) on one device, such as the numbers of the sequences in a batch.
        draws: number of words for each set of keys, 1 or more. The first words do not depend on it.

    Returns:
        int64 of shape (B, N) on the device of the tensors, or of shape (N,) on the CPU if no key is a tensor.

    Raises:
        ValueError: a tensor among the keys is not int64.
    """
    tensors = [key for key in keys if isinstance(key, torch.Tensor)]
    if any(key.dtype != torch.int64 for key in tensors):
        raise ValueError(f"keys have types {[key.dtype for key in tensors]}; they need torch.int64")
    device = tensors[0].device if tensors else torch.device("cpu")
    state, *others = (
        key
        if isinstance(key, torch.Tensor)
        else torch.full((), _signed(key), dtype=torch.int64, device=device)
        for key in keys
    )
    for key in others:
        state = _output(state, key)  # () or (B,)
    return _output(state[..., None], torch.arange(draws, device=device))  # (B, N)


def uniform(*keys: int | torch.Tensor, draws: int) -> torch.Tensor:
    """Return random numbers uniform in [0, 1), a pure function of the keys and of the number of the draw.

    They are the top 53 bits of the words of `random_bits`, times 2**-53: exact in float64.

    Args:
        keys: see `random_bits`.
        draws: see `random_bits`.

    Returns:
        float64 of shape (B, N), or (N,) if no key is a tensor; devices as in `random_bits`.

    Example:
        >>> from convlstm.core.hashing import uniform
        >>> uniform(0, torch.tensor([5, 6]), draws=3).shape
        torch.Size([2, 3])
    """
    return _shift_right(random_bits(*keys, draws=draws), 11).to(torch.float64) * 2.0**-53


def integers(*keys: int | torch.Tensor, draws: int, below: int) -> torch.Tensor:
    """Return random integers uniform in 0, 1, ..., below - 1, a pure function of the keys and of the draw.

    They are the integer parts of `below` times the numbers of `uniform`: use other keys for integers that
    must be independent of these. The probabilities of two integers differ by less than 2**-53.

    Args:
        keys: see `random_bits`.
        draws: see `random_bits`.
        below: the number of values, 1 to 2**53.

    Returns:
        int64 of shape (B, N), or (N,) if no key is a tensor; devices as in `random_bits`.
    """
    return (uniform(*keys, draws=draws) * below).to(torch.int64)
