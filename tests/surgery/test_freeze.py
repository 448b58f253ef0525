"""What is frozen stays bit for bit through training steps; the rest moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import jaxbn
import jaxbn.linen
from jaxbn.surgery import choose, convert, freeze, freeze_labels, plan_freezing

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(2, 3, (16, 5)), jnp.float32)


class Block(nn.Module):
    layer: type

    @nn.compact
    def __call__(self, x, train):
        for name in ("bn1", "bn2"):
            norm = self.layer(use_running_average=not train, name=name)
            x = norm(nn.Dense(5, name=f"dense_{name}")(x))
        return x


class Net(nn.Module):
    layer: type = nn.BatchNorm

    @nn.compact
    def __call__(self, x, train):
        x = Block(self.layer, name="stem")(x, train)
        return Block(self.layer, name="head")(x, train)


@pytest.mark.parametrize("layer", [nn.BatchNorm, jaxbn.linen.BatchNorm])
def test_a_frozen_block_of_a_linen_model(layer):
    model = Net(layer)
    variables = model.init(KEY, X, True)
    params, stats = variables["params"], variables["batch_stats"]
    plan = plan_freezing(model, variables, "stem")
    assert plan == (("stem/bn1", "stem/bn2"), 20, 20)
    run, labels = freeze(model, plan.layers), freeze_labels(params, plan.layers)
    optimizer = optax.multi_transform(
        {"trained": optax.adam(0.1), "frozen": optax.set_to_zero()}, labels
    )

    def loss(params, stats):
        y, new = run({"params": params, "batch_stats": stats}, X, True)
        return jnp.mean((y - 1) ** 2 * X), new

    @jax.jit
    def step(params, stats, state):
        grads, stats = jax.grad(loss, has_aux=True)(params, stats)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), stats, state

    new, after, state = params, stats, optimizer.init(params)
    for _ in range(3):
        new, after, state = step(new, after, state)
    for name in ("bn1", "bn2"):
        for old, now in ((params, new), (stats, after)):
            same = jax.tree.map(
                lambda a, b: np.array_equal(a, b), old["stem"][name], now["stem"][name]
            )
            assert all(same.values())
            moved = jax.tree.map(
                lambda a, b: np.array_equal(a, b), old["head"][name], now["head"][name]
            )
            assert not any(moved.values())
    kernels = params["stem"]["dense_bn1"]["kernel"], new["stem"]["dense_bn1"]["kernel"]
    assert not np.array_equal(*kernels)
    y, _ = run({"params": params, "batch_stats": stats}, X, True)
    expected = model.apply(variables, X, False)
    assert not np.allclose(y, expected)  # The head is in training,
    everything = plan_freezing(model, variables).layers
    y, _ = freeze(model, everything)(variables, X, True)
    np.testing.assert_array_equal(y, expected)  # and all of it frozen is evaluation.


def test_an_nnx_model():
    class Pair(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.BatchNorm(5, rngs=rngs)
            self.b = nnx.BatchNorm(5, rngs=rngs)

        def __call__(self, x):
            return self.b(self.a(x))

    model = Pair(nnx.Rngs(0))
    plan = plan_freezing(model, None, lambda path: path == "a")
    assert plan == (("a",), 10, 10)
    _, stats = jax.jit(freeze(model, plan.layers))(None, X)
    np.testing.assert_array_equal(model.b.mean[...], 0)
    nnx.update(model, stats)
    np.testing.assert_array_equal(model.a.mean[...], 0)
    assert np.abs(model.b.mean[...]).min() > 0
    labels = freeze_labels(nnx.state(model, nnx.Param), plan.layers)
    assert sorted(jax.tree.leaves(labels)) == ["frozen"] * 2 + ["trained"] * 2


def test_choices():
    paths = ("stem/bn1", "stem/bn2", "head/bn1")
    assert choose(paths, None) == paths
    assert choose(paths, "stem/") == paths[:2]
    assert choose(paths, "*/bn1") == ("stem/bn1", "head/bn1")
    assert choose(paths, ["head/bn1", "stem/bn1"]) == ("stem/bn1", "head/bn1")
    with pytest.raises(ValueError, match=r"where is 'bn1', .*'stem/bn1'.*; expected"):
        choose(paths, ["stem", "bn1"])
    with pytest.raises(ValueError, match=r"chooses none of the layers"):
        choose(paths, lambda path: False)


def test_layers_without_parameters_are_refused():
    with pytest.raises(ValueError, match=r"of which none holds .*; pass those"):
        freeze_labels({"bn": {"scale": jnp.ones(1)}}, ("x",))


def test_names_that_no_layer_has_are_refused():
    model = nn.Sequential([nn.Dense(4), nn.BatchNorm(False)])
    variables = model.init(KEY, X)
    for layers in (("nope",), "layers_7"):
        with pytest.raises(ValueError, match=r"which chooses none of the layers"):
            freeze(model, layers)(variables, X)
    for layers in ("layers_1", ("layers_1",), None):
        _, stats = freeze(model, layers)(variables, X)
        np.testing.assert_array_equal(stats["layers_1"]["mean"], 0)


def test_layers_adopted_by_another_scope_stand_still():
    model = nn.Sequential([nn.Dense(4), nn.BatchNorm(False)])
    variables = model.init(KEY, X)
    other = convert(model, jaxbn.batch_norm())
    layers = plan_freezing(other, variables).layers
    _, stats = freeze(other, layers)(variables, X)
    np.testing.assert_array_equal(stats["layers_1"]["mean"], 0)


def test_a_call_that_asks_for_updates_is_frozen_too():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            norm = jaxbn.linen.Norm(jaxbn.batch_norm(), False, name="bn")
            return norm(x, update_stats=True)

    model = Net()
    variables = model.init(KEY, X)
    _, stats = freeze(model)(variables, X)
    np.testing.assert_array_equal(stats["bn"]["mean"], 0)
    assert freeze_labels({"bn": {"scale": jnp.ones(1)}}, ("bn", "no affine")) == {
        "bn": {"scale": "frozen"}
    }
