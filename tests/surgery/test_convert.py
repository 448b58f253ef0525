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
from jaxbn.diagnostics import measure_drift, probe_leakage
from jaxbn.surgery import (
    batch_norm_like,
    carry_over,
    convert,
    fold,
    like,
    plan_conversion,
    plan_freezing,
)
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


def ready(model, *args):
    """Variables with statistics and an affine map that are not those of the start."""
    variables = model.init(KEY, *args)
    rng = np.random.default_rng(1)

    def draw(leaf):
        return jnp.asarray(rng.uniform(0.5, 2, leaf.shape), leaf.dtype)

    return jax.tree.map(draw, variables)


def test_conversions_one_after_the_other_and_back():
    model = nn.Sequential([nn.Dense(4), nn.BatchNorm(False, epsilon=0.5)])
    variables = ready(model, X)
    expected = model.apply(variables, X, mutable=["batch_stats"])
    there = convert(model, like(jaxbn.ghost_norm, num_groups=1))
    back = convert(convert(there, jaxbn.group_norm(2)), batch_norm_like, where="none*")
    with pytest.raises(ValueError, match=r"where is 'none\*', which chooses none"):
        back.apply(variables, X, mutable=["batch_stats"])
    for other in (there, convert(there, like(jaxbn.batch_norm))):
        y, updates = other.apply(variables, X, mutable=["batch_stats"])
        np.testing.assert_allclose(y, expected[0], rtol=1e-5, atol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
            updates,
            expected[1],
        )


def test_tools_see_the_norm_that_is_applied():
    model = nn.Sequential([nn.Dense(4), nn.BatchNorm(True, epsilon=0.5)])
    variables = ready(model, X)
    other = convert(model, jaxbn.batch_norm(epsilon=2.0))
    plan = plan_conversion(other, variables, X)
    assert plan.converted == {"layers_1": "BatchNorm"}
    assert plan_freezing(other, variables).layers == ("layers_1",)
    (drift,) = measure_drift(other, variables, X)
    stats = variables["batch_stats"]["layers_1"]
    apart = np.abs(drift.batch_mean - stats["mean"])
    np.testing.assert_allclose(
        drift.batch.shift, apart / np.sqrt(stats["var"] + 2.0), rtol=1e-4
    )
    folded = fold(other, variables, X)
    assert [pair.norm for pair in folded.pairs] == ["layers_1"]
    domains = convert(model, jaxbn.domain_norm(2, jaxbn.batch_norm()))
    started = domains.init(KEY, X)
    found = measure_drift(domains, started, X)
    assert [drift.path for drift in found] == ["layers_1[0]", "layers_1[1]"]
    leaking = convert(nn.BatchNorm(False), jaxbn.batch_norm())
    stats = leaking.init(KEY, X)
    found = probe_leakage(leaking, stats, X)
    assert found.layers[""] > 0.01 and found.local[""] > 0.01


def test_constants_are_found_where_the_parameters_were():
    model = nn.BatchNorm(use_running_average=True)
    variables = ready(model, X)
    frozen = convert(model, jaxbn.frozen_norm(constant_affine=True))
    with pytest.raises(ValueError, match=r"has no \['scale', 'bias'\], .*carry"):
        frozen.apply(variables, X)
    carried = carry_over(variables, frozen.init(KEY, X))
    assert (carried.started, carried.dropped) == ((), ())
    y = frozen.apply(carried.variables, X)
    np.testing.assert_allclose(y, model.apply(variables, X), rtol=1e-5, atol=1e-5)
    again = carry_over(carried.variables, model.init(KEY, X)).variables
    jax.tree.map(np.testing.assert_array_equal, again, variables)


class Doubled(jaxbn.linen.BatchNorm):
    @nn.compact
    def __call__(self, x, use_running_average=None, *, mask=None):
        return 2 * super().__call__(x, use_running_average, mask=mask)


class NnxDoubled(jaxbn.nnx.BatchNorm):
    def __call__(self, x):
        return 2 * super().__call__(x)


def test_what_would_be_lost_is_refused():
    model = nn.Sequential([Doubled(True), nn.BatchNorm(True)])
    variables = model.init(KEY, X)
    for act in (
        lambda: convert(model, jaxbn.batch_norm()).apply(variables, X),
        lambda: plan_conversion(model, variables, X),
        lambda: convert(NnxDoubled(5, rngs=nnx.Rngs(0)), jaxbn.batch_norm()),
    ):
        with pytest.raises(ValueError, match=r"Doubled, a subclass of a BatchNorm"):
            act()
    left = convert(model, jaxbn.batch_norm(), where="layers_1")
    np.testing.assert_allclose(left.apply(variables, X), model.apply(variables, X))
    with pytest.raises(ValueError, match=r"where is 'layers_7', which chooses none"):
        convert(model, jaxbn.batch_norm(), where=["layers_1", "layers_7"]).apply(
            variables, X
        )
    across = nn.BatchNorm(True, axis=0)
    with pytest.raises(ValueError, match=r"along axis 0 and the norm along -1, .*like"):
        convert(across, jaxbn.batch_norm()).init(KEY, X)
    across = convert(across, like(jaxbn.ghost_norm, num_groups=1))
    assert across.init(KEY, X)["batch_stats"]["mean"].shape == (len(X),)
    middle = nnx.BatchNorm(5, axis=1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"along axis 1 and the norm along 0, .*like"):
        convert(middle, jaxbn.batch_norm(axis=0))
    with pytest.raises(ValueError, match=r"does not show its options, .*; pass a pair"):
        batch_norm_like(jaxbn.group_norm(2)._replace(init=lambda *a: None))

    @nnx.vmap(in_axes=0, out_axes=0)
    def several(key):
        return nnx.BatchNorm(5, rngs=nnx.Rngs(key))

    stacked = several(jax.random.split(KEY, 2))
    with pytest.raises(ValueError, match=r"shape \(2, 5\) for \(5,\) .*; convert"):
        convert(stacked, jaxbn.batch_norm())


def test_nnx_variables_stay_what_they_are():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.a, self.b = (nnx.BatchNorm(5, rngs=rngs) for _ in range(2))
            self.b.scale = self.a.scale

        def __call__(self, x):
            return self.b(self.a(x))

    other = convert(Tied(nnx.Rngs(0)), jaxbn.batch_norm())
    assert other.a.scale is other.b.scale
    unset = nnx.BatchNorm(5, use_running_average=None, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="use_running_average is None, expected"):
        convert(unset, jaxbn.batch_norm())(X)


def test_nothing_moves_while_a_converted_model_starts():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            norm = jaxbn.linen.Norm(jaxbn.batch_norm(momentum=0.0), True, name="bn")
            return norm(x, update_stats=True)

    stats = convert(Net(), jaxbn.batch_norm(momentum=0.0)).init(KEY, X)["batch_stats"]
    np.testing.assert_array_equal(stats["bn"]["mean"], 0)
