"""Layers are found by their paths in any tree, and put back."""

import jax.numpy as jnp
import pytest
from flax import nnx

from jaxbn.tree import find_layers, replace_layers


def test_what_was_found_is_put_back():
    tree = {"a": [{"mean": 1, "var": 2}, {"mean": 3, "var": 4}], "top": 5}
    layers = find_layers(tree)
    assert layers == {
        "a/0": {"mean": 1, "var": 2},
        "a/1": {"mean": 3, "var": 4},
        "": {"top": 5},
    }
    doubled = {p: {n: 2 * v for n, v in x.items()} for p, x in layers.items()}
    assert replace_layers(tree, doubled)["a"][1] == {"mean": 6, "var": 8}


def test_nnx_modules_have_the_same_paths():
    layer = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
    found = find_layers({"bn": nnx.state(layer, nnx.BatchStat)})
    assert set(found) == {"bn"} and set(found["bn"]) == {"mean", "var"}


def test_two_layers_of_one_path_are_refused():
    stats = {"mean": jnp.zeros(1), "var": jnp.ones(1)}
    words = "two layers have the path 'a/b', .* rename the one whose name has a slash"
    with pytest.raises(ValueError, match=words):
        find_layers({"a/b": stats, "a": {"b": stats}})
    assert list(find_layers({"net/~/bn": stats})) == ["net/~/bn"]
