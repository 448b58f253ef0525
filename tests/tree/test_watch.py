"""Each call of a norm layer is handed over, whatever the model; nothing changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxbn.linen
import jaxbn.nnx
from jaxbn import batch_norm
from jaxbn.tree import find_layers, run_jitted, watch

X = jnp.asarray(np.random.default_rng(0).normal(2, 3, (8, 5)), jnp.float32)
KEY = jax.random.key(0)


class Net(nn.Module):
    """Two layers, the first called twice, one that its maker told how to normalize."""

    layer: type = nn.BatchNorm

    @nn.compact
    def __call__(self, x, train):
        norm = self.layer(use_running_average=not train, name="twice")
        x = norm(nn.Dense(4, name="dense")(x))
        x = norm(x + 1)
        return self.layer(name="last")(x, use_running_average=not train)


class Pair(nnx.Module):
    def __init__(self, layer, rngs):
        self.dense = nnx.Linear(5, 4, rngs=rngs)
        several = getattr(nnx, "List", list)  # flax < 0.12 takes plain lists
        self.blocks = several([layer(4, rngs=rngs), layer(4, rngs=rngs)])

    def __call__(self, x):
        x = self.dense(x)
        for block in (*self.blocks, self.blocks[0]):
            x = block(x)
        return x


def counting(call, **options):
    """Proceeds, and notes how often and with what sum the layer was called."""
    calls = call.notes.get("calls", 0) + 1
    return call.proceed(**options), {"calls": calls, "sum": call.x.sum()}


LINEN = {
    "flax": nn.BatchNorm,
    "ours": jaxbn.linen.BatchNorm,
    "any pair": functools.partial(jaxbn.linen.Norm, batch_norm(momentum=0.9)),
}
NNX = {
    "flax": nnx.BatchNorm,
    "ours": jaxbn.nnx.BatchNorm,
    "any pair": lambda n, rngs: jaxbn.nnx.Norm(n, batch_norm(), rngs=rngs),
}


@pytest.mark.parametrize("layer", LINEN)
@pytest.mark.parametrize("train", [False, True])
def test_a_linen_model_runs_as_it_does_alone(layer, train):
    model = Net(LINEN[layer])
    variables = model.init(KEY, X, True)
    held = jax.tree.map(np.asarray, variables)
    run = jax.jit(watch(model, counting), static_argnums=2)
    y, notes = run(variables, X, train)
    expected, _ = model.apply(variables, X, train, mutable=["batch_stats"])
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    assert {path: int(found["calls"]) for path, found in notes.items()} == {
        "twice": 2,
        "last": 1,
    }
    jax.tree.map(np.testing.assert_array_equal, variables, held)
    other = functools.partial(counting, use_running_average=train)
    y, _ = watch(model, other)(variables, X, train)
    expected, _ = model.apply(variables, X, not train, mutable=["batch_stats"])
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer", NNX)
@pytest.mark.parametrize("train", [False, True])
def test_an_nnx_model_runs_as_it_does_alone(layer, train):
    model = Pair(NNX[layer], nnx.Rngs(0))
    (model.train if train else model.eval)()
    held = jax.tree.map(np.asarray, nnx.state(model))
    graph = nnx.graphdef(model)
    y, notes = jax.jit(watch(model, counting))(None, X)
    assert {path: int(found["calls"]) for path, found in notes.items()} == {
        "blocks/0": 2,
        "blocks/1": 1,
    }
    assert nnx.graphdef(model) == graph
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model), held)
    again, _ = watch(model, counting)(nnx.state(model), X)
    np.testing.assert_allclose(y, again, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(y, model(X), rtol=1e-5, atol=1e-5)


def test_the_call_says_what_the_layer_holds():
    seen = []

    def look(call):
        seen.append(call)
        return call.x, {}

    model = nn.BatchNorm(use_running_average=True, axis=1)
    variables = model.init(KEY, X[:, None].swapaxes(1, 2))
    x = X[:, :, None]
    y, notes = watch(model, look)(variables, x, mask=jnp.ones((8, 1, 1), bool))
    (call,) = seen
    assert notes == {} and y is x
    assert (call.path, call.axis, call.use_running_average) == ("", 1, True)
    assert set(call.params) == {"scale", "bias"} and set(call.state) == {"mean", "var"}
    assert call.mask.shape == (8, 1, 1) and call.notes == {}
    assert isinstance(call.layer, nn.BatchNorm)


class Deep(nn.Module):
    """Four blocks whose variables are stacked, behind a checkpoint."""

    @nn.compact
    def __call__(self, x):
        def block(self, x, _):
            norm = nn.BatchNorm(use_running_average=False, name="norm")
            return norm(nn.Dense(5, name="dense")(x)), None

        many = nn.scan(
            nn.remat(block),
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            length=4,
        )
        return many(self, x, None)[0]


def test_layers_under_scan_and_remat_give_stacked_notes():
    model = Deep()
    variables = model.init(KEY, X)
    y, notes = jax.jit(watch(model, counting))(variables, X)
    (found,) = notes.values()
    assert found["sum"].shape == (4,)
    expected, _ = model.apply(variables, X, mutable=["batch_stats"])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_what_is_not_a_model_is_refused():
    with pytest.raises(ValueError, match=r"model is a function, .*; pass the module"):
        watch(lambda x: x, counting)


def test_programs_are_kept_for_models_of_every_kind():
    """Also for those that hold a list and have no hash."""
    traces = []

    def count(call):
        traces.append(call.path)
        return call.proceed(), {"sum": call.x.sum()}

    sequence = nn.Sequential([nn.Dense(4), nn.BatchNorm(use_running_average=True)])
    pair = Pair(nnx.BatchNorm, nnx.Rngs(0))
    pair.eval()
    for model, variables, layers in (
        (sequence, sequence.init(KEY, X), 1),
        (nn.BatchNorm(use_running_average=True), None, 1),
        (pair, None, 3),
    ):
        if variables is None and isinstance(model, nn.Module):
            variables = model.init(KEY, X)
        traces.clear()
        found = [run_jitted(model, count, variables, s * X)[1] for s in (1, 2)]
        assert len(traces) == layers
        sums = [float(sum(layer["sum"] for layer in f.values())) for f in found]
        assert sums[0] != sums[1]


class Louder(nn.BatchNorm):
    """A subclass of Flax's layer whose call does more, and takes other arguments."""

    @nn.compact
    def __call__(self, x, train):
        return super().__call__(10 * x, not train)


class OurLouder(jaxbn.linen.BatchNorm):
    @nn.compact
    def __call__(self, x, train):
        return super().__call__(10 * x, not train)


class NnxLouder(nnx.BatchNorm):
    def __call__(self, x):
        return super().__call__(10 * x)


class OurNnxLouder(jaxbn.nnx.BatchNorm):
    def __call__(self, x):
        return super().__call__(10 * x)


@pytest.mark.parametrize("kind", [Louder, OurLouder, NnxLouder, OurNnxLouder])
def test_a_subclass_is_watched_where_it_calls_the_layer_it_extends(kind):
    def note(call):
        return 2 * call.proceed(), {"sum": call.x.sum(), "trains": call.overrides == {}}

    if issubclass(kind, nn.Module):
        model, args = kind(), (X, True)
        variables = model.init(KEY, *args)
        expected = model.apply(variables, *args, mutable=["batch_stats"])[0]
    else:
        model, args, variables = kind(X.shape[-1], rngs=nnx.Rngs(0)), (X,), None
        expected = nnx.clone(model)(X)
    y, notes = watch(model, note)(variables, *args)
    np.testing.assert_allclose(notes[""]["sum"], 10 * X.sum(), rtol=1e-5)
    np.testing.assert_allclose(y, 2 * expected, rtol=1e-6)


def test_the_path_is_where_the_variables_lie():
    class Wrapper(nn.Module):
        body: nn.Module

        def setup(self):
            nn.share_scope(self, self.body)

        def __call__(self, x):
            return self.body(x)

    norm = nn.BatchNorm(use_running_average=True)
    model = Wrapper(nn.Sequential([nn.Dense(3), norm]))
    variables = model.init(KEY, X)
    _, notes = watch(model, counting)(variables, X)
    assert set(notes) == set(find_layers(variables["batch_stats"])) == {"layers_1"}
    paths = []
    watch(model, lambda call: (call.proceed(), paths.append(call.path) or {}))(
        variables, X
    )
    assert paths == ["layers_1"]


def test_the_model_that_is_watched_is_the_one_that_trains():
    """Collections that training does not change are not open to it here either."""

    class Cached(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = x + 100 * self.is_mutable_collection("cache")
            return nn.BatchNorm(use_running_average=False)(x)

    model = Cached()
    variables = model.init(KEY, X)
    run = watch(model, lambda call: (call.proceed(), {"mean": call.x.mean()}))
    _, notes = run(variables, X)
    np.testing.assert_allclose(notes["BatchNorm_0"]["mean"], X.mean(), rtol=1e-5)
    _, notes = run(variables, X, mutable=["cache"])
    np.testing.assert_allclose(notes["BatchNorm_0"]["mean"], X.mean() + 100, rtol=1e-5)


@pytest.mark.parametrize("layer", [nn.BatchNorm, jaxbn.linen.BatchNorm])
def test_without_its_axis_a_layer_takes_the_array_at_hand(layer):
    model = layer(use_running_average=False, axis_name="devices")
    alone = layer(use_running_average=False)
    variables = alone.init(KEY, X)
    expected = alone.apply(variables, X, mutable=["batch_stats"])[0]
    for _ in range(2):
        y, _ = watch(model, counting)(variables, X)
        np.testing.assert_array_equal(y, expected)
    kind = nnx.BatchNorm if layer is nn.BatchNorm else jaxbn.nnx.BatchNorm
    of_nnx = kind(X.shape[-1], axis_name="devices", rngs=nnx.Rngs(0))
    np.testing.assert_allclose(
        watch(of_nnx, counting)(None, X)[0], expected, 1e-5, 1e-5
    )
