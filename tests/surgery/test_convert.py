"""A converted model is the one built with the other norm; there and back is nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from flax import linen as nn
from flax import nnx

import jaxbn
import jaxbn.linen
import jaxbn.nnx
from jaxbn.surgery import batch_norm_like, carry_over, convert, plan_conversion
from jaxbn.tree import find_layers

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(2, 3, (12, 5)), jnp.float32)


class Block(nn.Module):
    layer: type

    @nn.compact
    def __call__(self, x, train):
        x = self.layer(use_running_average=not train, momentum=0.8, name="bn")(x)
        return nn.Dense(5, name="dense")(nn.relu(x))


class Net(nn.Module):
    layer: type = nn.BatchNorm

    @nn.compact
    def __call__(self, x, train):
        x = nn.LayerNorm(name="ln")(Block(self.layer, name="a")(x, train))
        again = self.layer(momentum=0.8, name="twice")
        x = again(x, use_running_average=not train)
        x = again(x + 1, use_running_average=not train)
        return nn.remat(Block, static_argnums=2)(self.layer, name="b")(x, train)


class Pair(nnx.Module):
    def __init__(self, layer, rngs):
        self.a = layer(5, momentum=0.8, rngs=rngs)
        self.dense = nnx.Linear(5, 4, rngs=rngs)
        self.b = layer(4, momentum=0.8, rngs=rngs)

    def __call__(self, x):
        return self.b(nnx.relu(self.dense(self.a(x))))


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_a_linen_model_is_the_one_built_with_our_layer():
    model, ours = Net(), Net(jaxbn.linen.BatchNorm)
    converted = convert(model, batch_norm_like)
    variables = model.init(KEY, X, True)
    assert_same(converted.init(KEY, X, True), variables)

    def step(model, train, variables, x):
        def loss(params):
            both = {**variables, "params": params}
            y, new = model.apply(both, x, train, mutable=["batch_stats"])
            return jnp.sum(y**2), (y, new)

        return jax.grad(loss, has_aux=True)(variables["params"])

    for train in (True, False):
        run = [jax.jit(functools.partial(step, m, train)) for m in (converted, ours)]
        found, expected = (f(variables, X) for f in run)
        jax.tree.map(lambda a, b: oracle.assert_close(a, b, 1e-6), found, expected)
    there = convert(model, jaxbn.batch_norm(momentum=None)).init(KEY, X, True)
    carried = carry_over(variables, there)
    assert set(carried.started) == {
        f"batch_stats/{path}/count" for path in ("a/bn", "b/bn", "twice")
    }
    assert carried.dropped == ()
    back = carry_over(carried.variables, variables)
    assert_same(back.variables, variables)
    assert set(back.dropped) == set(carried.started)


def test_only_some_layers_of_a_linen_model():
    model = Net()
    variables = model.init(KEY, X, True)
    plan = plan_conversion(model, variables, X, True, where=["a", "twice"])
    assert plan.converted == {"a/bn": "BatchNorm", "twice": "BatchNorm"}
    assert plan.left == {"ln": "LayerNorm", "b/bn": "BatchNorm"}
    frozen = convert(model, jaxbn.frozen_norm(), where=["a", "twice"])
    _, new = frozen.apply(variables, X, True, mutable=["batch_stats"])
    new, old = find_layers(new["batch_stats"]), find_layers(variables["batch_stats"])
    assert_same(new["a/bn"], old["a/bn"])
    assert_same(new["twice"], old["twice"])
    assert not np.array_equal(new["b/bn"]["mean"], old["b/bn"]["mean"])
    whole = convert(model, jaxbn.group_norm(1))
    assert "batch_stats" not in whole.init(KEY, X, True)
    with pytest.raises(ValueError, match=r"where is 'c', .*'a/bn'"):
        convert(model, jaxbn.frozen_norm(), where="c").init(KEY, X, True)


def test_inside_another_module():
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = convert(Net(), jaxbn.ghost_norm(size=4), where="a")
            return inner(x, True)

    variables = Outer().init(KEY, X)
    paths = {path.split("/", 1)[1] for path in find_layers(variables["batch_stats"])}
    assert paths == {"a/bn", "b/bn", "twice"}


def test_an_nnx_model_is_the_one_built_with_our_layer():
    model = Pair(nnx.BatchNorm, nnx.Rngs(0))
    ours = Pair(jaxbn.nnx.BatchNorm, nnx.Rngs(0))
    held = jax.tree.map(np.array, nnx.state(model))
    converted = convert(model, batch_norm_like)
    assert type(model.a) is nnx.BatchNorm
    for train in (True, False):
        for m in (converted, ours):
            (m.train if train else m.eval)()
        found, expected = (nnx.jit(lambda m, x: m(x))(m, X) for m in (converted, ours))
        oracle.assert_close(found, expected, 1e-6)
        oracle.assert_close(converted.b.var[...], ours.b.var[...], 1e-6)
    grads = nnx.grad(lambda m: jnp.sum(m(X) ** 2))(converted)
    expected = nnx.grad(lambda m: jnp.sum(m(X) ** 2))(ours)
    flat = [jax.tree.leaves(g) for g in (grads, expected)]
    jax.tree.map(lambda a, b: oracle.assert_close(a, b, 1e-5), *flat)
    assert_same(jax.tree.map(np.array, nnx.state(model)), held)
    back = carry_over(nnx.state(convert(model, batch_norm_like)), nnx.state(model))
    assert (back.started, back.dropped) == ((), ())
    assert_same(back.variables, nnx.state(model))


def test_other_norms_in_an_nnx_model():
    model = Pair(nnx.BatchNorm, nnx.Rngs(0))
    model.a.scale[...] = jnp.full(5, 3.0)
    grouped = lambda old: jaxbn.group_norm(1, epsilon=old.epsilon)
    mixed = convert(model, grouped, where="a")
    assert not hasattr(mixed.a, "mean") and mixed.b.mean[...].shape == (4,)
    np.testing.assert_array_equal(mixed.a.scale[...], 3.0)
    rows = np.asarray(X, np.float64)
    rows = (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True) * 3
    oracle.assert_close(mixed.a(X), rows, 1e-4)
    counted = convert(model, jaxbn.batch_norm(momentum=None))
    counted(X)
    np.testing.assert_array_equal(counted.a.count[...], 1)
    view = nnx.view(counted, use_running_average=True) if hasattr(nnx, "view") else None
    assert view is None or view.a.use_running_average
    plan = plan_conversion(model, None, X, where="b")
    assert (plan.converted, plan.left) == ({"b": "BatchNorm"}, {"a": "BatchNorm"})
    with pytest.raises(ValueError, match=r"where is 'x', .* none .*'a', 'b'"):
        convert(model, batch_norm_like, where="x")


class Loud(nn.BatchNorm):
    @nn.compact
    def __call__(self, x, use_running_average=None):
        return 2 * super().__call__(x, use_running_average)


class Named(nn.BatchNorm):
    pass


class LoudNnx(nnx.BatchNorm):
    def __call__(self, x, use_running_average=None, *, mask=None):
        return 2 * x


def test_subclasses_with_a_call_of_their_own_are_refused():
    words = r"the layer 'a/bn' is a Loud, a subclass .*; leave it out by where"
    with pytest.raises(ValueError, match=words):
        convert(Net(Loud), batch_norm_like).init(KEY, X, True)
    convert(Net(Named), batch_norm_like).init(KEY, X, True)
    with pytest.raises(ValueError, match=r"the layer 'a' is a LoudNnx"):
        convert(Pair(LoudNnx, nnx.Rngs(0)), batch_norm_like)
