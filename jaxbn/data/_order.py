"""Orders that are the same on every machine, forever, for one seed.

Drawn from NumPy's Philox: its raw words are promised not to change between versions
or platforms, which neither `Generator.permutation` nor `jax.random` (whose values
follow a configuration flag) promises. A counter-based generator takes (seed, stream)
as its key, so any epoch's order is had at once, without the ones before it.
"""

import jax
import numpy as np

from jaxbn._values import shown

Seed = int | jax.Array


def shuffled_order(num: int, seed: Seed, stream: int = 0) -> np.ndarray:
    """A permutation of 0..num-1, int64; a pure function of (num, seed, stream).

    Ranks `num` words of 64 bits; the sort is stable, so a tie is resolved alike.

    Example:
        >>> shuffled_order(5, seed=0)
        array([0, 2, 1, 4, 3])
    """
    key = np.array([seed_word(seed), stream], np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(num), kind="stable")


def seed_word(seed: Seed) -> int:
    """`seed` as 64 bits: an integer is itself, a JAX key is hashed to an integer.

    Raises:
        ValueError: if an integer seed is negative or has more than 64 bits.
    """
    raw = isinstance(seed, jax.Array) and seed.ndim and seed.dtype == np.uint32
    if (raw or _is_typed_key(seed)) and not isinstance(seed, jax.core.Tracer):
        data = jax.random.key_data(seed) if _is_typed_key(seed) else seed
        words = np.asarray(data).ravel().tolist()
        return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if isinstance(seed, jax.Array) and jax.numpy.issubdtype(seed.dtype, np.integer):
        whole = not isinstance(seed, jax.core.Tracer)
    if not whole or not 0 <= int(seed) < 2**64:
        raise ValueError(
            f"seed is {shown(seed)}; expected 0 <= seed < 2**64, an int or a JAX key "
            "that is not traced"
        )
    return int(seed)


def _is_typed_key(seed: Seed) -> bool:
    return isinstance(seed, jax.Array) and jax.dtypes.issubdtype(
        seed.dtype, jax.dtypes.prng_key
    )
