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
several = getattr(nnx, "List", list)  # flax < 0.12 takes plain lists
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
        domains = jaxbn.domain_norm(2, jaxbn.batch_norm())
        own = jaxbn.linen.Norm(domains, name="domains")
        x = own(nn.Dense(4, name="h")(x), use_running_average=not train, domain=1)
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
        "domains": "its statistics have shape (2, 4), a row for each domain",
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
    with pytest.raises(ValueError, match=r"differ by .* expected at most 0; pass a"):
        fold(model, variables, ROWS, tolerance=0)


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


def test_a_norm_that_promotes_still_does():
    """Flax's gives float32 for bfloat16; so does what is left of it."""
    for bias in (False, True):
        dense = nn.Dense(6, use_bias=bias, dtype=jnp.bfloat16)
        model = nn.Sequential([dense, nn.BatchNorm(use_running_average=True)])
        variables = trained(model.init(KEY, ROWS))
        folded = fold(model, variables, ROWS, tolerance=0.05)
        assert len(folded.pairs) == 1
        assert model.apply(variables, ROWS).dtype == jnp.float32
        assert folded.apply(folded.variables, ROWS).dtype == jnp.float32


@pytest.mark.parametrize("bias", [False, True])
def test_boxes_and_places_are_kept(bias):
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

    def boxed(init):
        return nn.with_partitioning(init, ("x",))

    model = nn.Sequential(
        [
            nn.Dense(
                6,
                use_bias=bias,
                kernel_init=nn.with_partitioning(jax.nn.initializers.normal(), ("x",)),
                bias_init=boxed(jax.nn.initializers.zeros),
            ),
            nn.BatchNorm(
                use_running_average=True, bias_init=boxed(jax.nn.initializers.zeros)
            ),
        ]
    )
    variables = trained(model.init(KEY, ROWS))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    variables = jax.device_put(variables, place)
    folded = fold(model, variables, ROWS)
    kernel = folded.variables["params"]["layers_0"]["kernel"]
    assert isinstance(kernel, nn.Partitioned) and kernel.names == ("x",)
    assert kernel.value.sharding == place
    left = folded.variables["params"]["layers_0" if bias else "layers_1"]
    assert isinstance(left["bias"], nn.Partitioned)


def test_blocks_that_are_computed_again_or_jitted_are_seen_into():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Dense(6, name="layer")(x)
            return nn.BatchNorm(use_running_average=True, name="norm")(y)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i, kind in enumerate((Block, nn.remat(Block), nn.jit(Block))):
                x = nn.relu(kind(name=f"block{i}")(x))
            return x

    model = Net()
    variables = trained(model.init(KEY, ROWS))
    folded = fold(model, variables, ROWS)
    assert [p.norm for p in folded.pairs] == [f"block{i}/norm" for i in range(3)]
    assert folded.refused == {}


def test_variables_that_are_not_a_layers_own():
    """Kernels used elsewhere, reparametrized, stacked: named, and the rest folds."""

    class Borrowing(nn.Module):
        @nn.compact
        def __call__(self, x):
            norm = functools.partial(nn.BatchNorm, use_running_average=True)
            x = norm(name="good")(nn.Dense(6, name="a")(x))
            layer = nn.Dense(6, name="b")
            y = norm(name="tied")(layer(x))
            x = y + x @ layer.variables["params"]["kernel"]
            dense = nn.Dense(6, name="c")
            x = norm(name="weighted")(nn.WeightNorm(dense, name="weight")(x))

            class Stack(nn.Module):
                @nn.compact
                def __call__(self, x, _):
                    return norm(name="norm")(nn.Dense(6, name="d")(x)), None

            axes = {"params": 0, "batch_stats": 0}
            stack = nn.scan(
                Stack, variable_axes=axes, split_rngs={"params": True}, length=2
            )
            return stack(name="stack")(x, None)[0]

    model = Borrowing()
    variables = trained(model.init(KEY, ROWS))
    folded = fold(model, variables, ROWS)
    assert [p.norm for p in folded.pairs] == ["good"]
    assert folded.refused["tied"].startswith("without it the outputs differ by")
    assert folded.refused["weighted"].startswith("without it the outputs differ by")
    assert folded.refused["stack/norm"] == "it is stacked with others, as by nn.scan"
    assert set(folded.refused) == {"tied", "weighted", "stack/norm"}


def test_kernels_that_two_nnx_layers_hold():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.a, self.b = (nnx.Linear(4, 4, rngs=rngs) for _ in range(2))
            self.b.kernel = self.a.kernel
            self.c = nnx.Linear(4, 4, rngs=rngs)
            self.norms = several([nnx.BatchNorm(4, rngs=rngs) for _ in range(3)])

        def __call__(self, x):
            for layer, norm in zip((self.a, self.b, self.c), self.norms, strict=True):
                x = nnx.relu(norm(layer(x)))
            return x

    model = Tied(nnx.Rngs(0))
    nnx.update(model, trained(nnx.state(model)))
    model.eval()
    folded = fold(model, None, ROWS)
    assert [p.norm for p in folded.pairs] == ["norms/2"]
    assert folded.refused["norms/0"].startswith("without it the outputs differ by")
    assert folded.refused["norms/1"] == "the kernel of b is held by another layer"


def test_what_evaluates_as_batch_norm_folds():
    for norm in (jaxbn.ghost_norm(size=2), jaxbn.frozen_norm(), jaxbn.batch_renorm()):
        own = jaxbn.linen.Norm(norm, use_running_average=True)
        model = One(nn.Dense(6), own)
        variables = trained(model.init(KEY, ROWS))
        folded = fold(model, variables, ROWS)
        assert len(folded.pairs) == 1 and folded.error < 1e-5


def test_two_norms_of_one_layer_are_refused():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Dense(4, name="dense")(x)
            norm = functools.partial(nn.BatchNorm, use_running_average=True)
            return norm(name="a")(y) + norm(name="b")(y)

    model = Two()
    folded = fold(model, trained(model.init(KEY, ROWS)), ROWS, dry_run=True)
    why = "several norms take the output of dense"
    assert folded.refused == {"a": why, "b": why} and folded.pairs == ()


def test_half_precision_has_a_tolerance_of_its_own():
    model = nn.Sequential(
        [nn.Dense(6, dtype=jnp.bfloat16), nn.BatchNorm(True, dtype=jnp.bfloat16)]
    )
    folded = fold(model, trained(model.init(KEY, ROWS)), ROWS)
    assert len(folded.pairs) == 1 and 1e-5 < folded.error < 0.02


def test_nnx_layers_and_norms_without_any_bias():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(4, 6, use_bias=False, rngs=rngs)
            self.norms = several([nnx.BatchNorm(6, use_bias=False, rngs=rngs)])

        def __call__(self, x):
            return self.norms[0](self.layer(x))

    model = Net(nnx.Rngs(0))
    nnx.update(model, trained(nnx.state(model)))
    model.eval()
    folded = fold(model, None, ROWS)
    assert [pair.norm for pair in folded.pairs] == ["norms/0"]
    y = jax.jit(folded.apply)(folded.variables, 2 * ROWS)
    np.testing.assert_allclose(y, model(2 * ROWS), rtol=1e-4, atol=1e-4)
