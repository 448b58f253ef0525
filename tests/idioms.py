"""What the tables of idioms share: ours gives what Flax's gives, or refuses alike."""

import jax
import numpy as np
from flax import nnx

X = np.random.default_rng(0).normal(2, 3, (8, 4)).astype(np.float32)


class Table(dict):
    """Idioms by name; `@table` adds one: `idiom(make) -> numbers and texts`."""

    def __call__(self, idiom):
        self[idiom.__name__] = idiom
        return idiom


def outcome(idiom, make):
    """Returns what an idiom gives with a layer: leaves of its result, or its error."""
    try:
        result = idiom(make)
    except Exception as error:
        return type(error), []
    if isinstance(result, nnx.State):
        result = nnx.to_pure_dict(result)
    return None, [np.asarray(leaf) for leaf in jax.tree.leaves(result)]


def assert_alike(idiom, theirs, ours):
    """Asserts that an idiom gives the same with our layer as with Flax's."""
    expected_error, expected = outcome(idiom, theirs)
    if expected_error is None:
        found = [np.asarray(leaf) for leaf in jax.tree.leaves(idiom(ours))]
        assert len(expected) == len(found) > 0
    else:
        found_error, found = outcome(idiom, ours)
        assert found_error is expected_error
    for a, b in zip(expected, found, strict=True):
        if a.dtype.kind in "US":
            assert a == b
        else:
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=2e-5)
