"""A folded model gives what the model gave, without its norms; what cannot be stays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxbn
import jaxbn.linen
import jaxbn.nnx
from jaxbn.models import create_model
from jaxbn.surgery import find_pairs, fold

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(2, 8, 8, 4)), jnp.float32)
ROWS = IMAGES[:, 0, 0]


def trained(tree, offset=0.0):
    """Returns variables with random statistics and affine parameters."""

    def draw(path, leaf):
        name = getattr(path[-1], "key", getattr(path[-1], "name", None))
        name = getattr(path[-2], "key", None) if name == "value" else name
        value = RNG.uniform(0.5, 2, leaf.shape)
        if name in ("mean", "bias"):
            value = RNG.normal(size=leaf.shape) + offset * (name == "mean")
        same = name not in ("mean", "bias", "scale", "var")
        return leaf if same else jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, tree)


class One(nn.Module):
    """A layer and a norm, then something."""

    layer: nn.Module
    norm: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.relu(self.norm(self.layer(x))))


LINEN = {
    "dense": lambda bias: nn.Dense(6, use_bias=bias),
    "conv": lambda bias: nn.Conv(6, (3, 3), strides=2, use_bias=bias),
    "dilated": lambda bias: nn.Conv(6, (3, 3), kernel_dilation=2, use_bias=bias),
    "grouped": lambda bias: nn.Conv(6, (3, 3), feature_group_count=2, use_bias=bias),
    "depthwise": lambda bias: nn.Conv(8, (3, 3), feature_group_count=4, use_bias=bias),
    "transposed": lambda bias: nn.ConvTranspose(
        6, (3, 3), strides=(2, 2), use_bias=bias
    ),
    "transposed kernel": lambda bias: nn.ConvTranspose(
        6, (3, 3), strides=(2, 2), use_bias=bias, transpose_kernel=True
    ),
}
NORMS = {
    "flax": functools.partial(nn.BatchNorm, use_running_average=True),
    "ours": functools.partial(jaxbn.linen.BatchNorm, use_running_average=True),
    "a pair": functools.partial(
        jaxbn.linen.Norm, jaxbn.batch_norm(epsilon=1e-3), use_running_average=True
    ),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layer", LINEN)
def test_every_layer_and_norm_of_linen(layer, bias):
    norm = NORMS[list(NORMS)[(len(layer) + bias) % 3]]
    model = One(LINEN[layer](bias), norm())
    variables = trained(model.init(KEY, IMAGES))
    held = jax.tree.map(np.array, variables)
    folded = fold(model, variables, IMAGES)
    assert [(p.layer, p.norm) for p in folded.pairs] == [("layer", "norm")]
    assert folded.refused == {} and folded.error < 1e-5
    assert "batch_stats" not in folded.variables
    left = set(folded.variables["params"])
    assert left == ({"layer", "head"} if bias else {"layer", "norm", "head"})
    y = jax.jit(folded.apply)(folded.variables, 3 * IMAGES)
    expected = model.apply(variables, 3 * IMAGES)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, variables, held)
    assert folded.num_params[1] < folded.num_params[0]


@pytest.mark.parametrize("affine", [{}, {"use_scale": False}, {"use_bias": False}])
@pytest.mark.parametrize("bias", [False, True])
def test_without_scale_or_bias(affine, bias):
    norm = nn.BatchNorm(use_running_average=True, **affine)
    model = One(nn.Dense(6, use_bias=bias), norm)
    variables = trained(model.init(KEY, ROWS))
    assert fold(model, variables, ROWS).error < 1e-5


@pytest.mark.parametrize("layer", [nnx.BatchNorm, jaxbn.nnx.BatchNorm])
@pytest.mark.parametrize("bias", [False, True])
def test_an_nnx_model(layer, bias):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(4, 6, (3, 3), use_bias=bias, rngs=rngs)
            self.up = nnx.ConvTranspose(6, 5, (3, 3), use_bias=bias, rngs=rngs)
            self.head = nnx.Linear(5, 3, use_bias=bias, rngs=rngs)
            self.a, self.b, self.c = (layer(n, rngs=rngs) for n in (6, 5, 3))

        def __call__(self, x):
            x = nnx.relu(self.a(self.conv(x)))
            return self.c(self.head(nnx.relu(self.b(self.up(x)))))

    model = Net(nnx.Rngs(0))
    nnx.update(model, trained(nnx.state(model)))
    model.eval()
    expected = model(2 * IMAGES)
    folded = fold(model, None, IMAGES)
    assert [(p.layer, p.norm) for p in folded.pairs] == [
        ("conv", "a"),
        ("up", "b"),
        ("head", "c"),
    ]
    y = jax.jit(folded.apply)(folded.variables, 2 * IMAGES)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    names = {str(path[-1]) for path, _ in nnx.to_flat_state(folded.variables)}
    assert names == {"kernel", "bias"}
    np.testing.assert_array_equal(model(2 * IMAGES), expected)


def test_resnet20():
    model = create_model("resnet20", 10, jaxbn.batch_norm())
    x = jnp.asarray(RNG.normal(size=(2, 16, 16, 3)), jnp.float32)
    variables = trained(jax.jit(model.init, static_argnums=2)(KEY, x, False))
    folded = fold(model, variables, x, False)
    assert len(folded.pairs) == 21 and folded.refused == {}
    assert folded.error < 1e-5
    channels = sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"])) // 2
    assert folded.num_params[0] - folded.num_params[1] == 3 * channels


class Refusing(nn.Module):
    """A norm after a sum, after a layer used twice, twice itself, and of other axes."""

    @nn.compact
    def __call__(self, x, train=False):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        y = nn.Dense(4, name="a")(x)
        good = norm(name="good")(nn.Dense(4, name="b")(y))
        x = norm(name="after_sum")(x + y)
        twice = nn.Dense(4, name="twice")
        x = norm(name="shared")(twice(twice(x)))
        z = nn.Dense(4, name="c")(x)
        x = norm(name="forked")(z) + z
        again = norm(name="again")
        x = again(again(nn.Dense(4, name="d")(x)))
        x = norm(name="masked")(nn.Dense(4, name="e")(x), mask=jnp.ones((2, 1), bool))
        x = norm(name="across", axis=0)(nn.Dense(4, name="f")(x))
        own = jaxbn.linen.Norm(jaxbn.adaptive_norm(), name="adaptive")
        x = own(nn.Dense(4, name="g")(x), use_running_average=not train)
        return x + good


def test_what_cannot_be_folded_stays_and_is_named():
    model = Refusing()
    variables = trained(model.init(KEY, ROWS))
    folded = fold(model, variables, ROWS)
    assert [(p.layer, p.norm) for p in folded.pairs] == [("b", "good")]
    assert folded.refused == {
        "after_sum": "its input is not the output of a Dense or Conv layer",
        "shared": "twice is used more than once",
        "forked": "the output of c is used elsewhere",
        "again": "it is used more than once",
        "masked": "it is called with a mask",
        "across": "its features lie along axis 0, not the last",
        "adaptive": "it is no batch norm in evaluation",
    }
    np.testing.assert_allclose(
        folded.apply(folded.variables, ROWS),
        model.apply(variables, ROWS),
        rtol=1e-4,
        atol=1e-4,
    )
    found = find_pairs(model, variables, ROWS, True)
    assert found.refused["good"] == "it is called in training mode"


def test_a_dry_run_changes_nothing():
    model = One(nn.Dense(6), nn.BatchNorm(use_running_average=True))
    variables = model.init(KEY, ROWS)
    said = fold(model, variables, ROWS, dry_run=True)
    assert said.variables is variables and len(said.pairs) == 1
    assert said.num_params[0] == said.num_params[1]


def test_half_precision_stays_and_statistics_at_an_offset():
    dense = nn.Dense(6, param_dtype=jnp.bfloat16)
    model = One(dense, nn.BatchNorm(use_running_average=True))
    variables = trained(model.init(KEY, ROWS), offset=100.0)
    folded = fold(model, variables, ROWS, tolerance=0.05)
    assert folded.variables["params"]["layer"]["kernel"].dtype == jnp.bfloat16
    model = One(nn.Dense(6), nn.BatchNorm(use_running_average=True))
    variables = trained(model.init(KEY, ROWS), offset=1e4)
    shift = jnp.asarray(variables["batch_stats"]["norm"]["mean"])
    variables["params"]["layer"]["bias"] = shift
    assert fold(model, variables, ROWS, tolerance=2e-3).error < 2e-3


def test_outputs_that_differ_are_refused():
    model = One(nn.Dense(6), nn.BatchNorm(use_running_average=True))
    variables = model.init(KEY, ROWS)
    with pytest.raises(ValueError, match=r"differ by .* expected at most -1; call it"):
        fold(model, variables, ROWS, tolerance=-1)


def test_outputs_that_are_not_finite_prove_nothing():
    model = One(nn.Dense(6), nn.BatchNorm(use_running_average=True))
    variables = model.init(KEY, ROWS)
    for entry in ("mean", "var"):
        stats = variables["batch_stats"]["norm"]
        broken = {"norm": {**stats, entry: stats[entry].at[2].set(jnp.nan)}}
        with pytest.raises(ValueError, match=r"differ by inf of the largest"):
            fold(model, {**variables, "batch_stats": broken}, ROWS)


def test_a_folded_norm_does_not_train():
    model = create_model("mlp", 10, jaxbn.batch_norm())
    variables = model.init(KEY, ROWS, False)
    folded = fold(model, variables, ROWS, False)
    with pytest.raises(ValueError, match=r"was folded and is called in training"):
        folded.apply(folded.variables, ROWS, True)
