"""The nnx modules: Flax's interface, views, state and transformations."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxbn.nnx
from jaxbn import batch_norm, domain_norm

X = jnp.asarray(np.random.default_rng(0).normal(2, 3, (8, 5, 4)), jnp.float32)


class Net(nnx.Module):
    def __init__(self, norm, rngs):
        self.dense = nnx.Linear(4, 6, rngs=rngs)
        self.bn = norm(6, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.bn(self.dense(x))))


def test_every_argument_of_flax_is_here_with_its_default():
    ours = inspect.signature(jaxbn.nnx.BatchNorm).parameters
    theirs = inspect.signature(nnx.BatchNorm).parameters
    assert set(theirs) <= set(ours)
    for name in set(theirs) - {"bias_init", "scale_init", "promote_dtype", "rngs"}:
        assert ours[name].default == theirs[name].default, name
        assert ours[name].kind == theirs[name].kind, name


def test_a_flax_state_goes_in_and_comes_back():
    theirs, ours = (
        Net(nnx.BatchNorm, nnx.Rngs(0)),
        Net(jaxbn.nnx.BatchNorm, nnx.Rngs(0)),
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        nnx.to_pure_dict(nnx.state(ours)),
        nnx.to_pure_dict(nnx.state(theirs)),
    )
    for model in (theirs, ours):
        model.train()
        model(X)
        model.eval()
    np.testing.assert_allclose(ours(X), theirs(X), rtol=1e-5, atol=1e-5)
    nnx.update(ours, nnx.state(theirs))
    np.testing.assert_allclose(ours(X), theirs(X), rtol=1e-6, atol=1e-6)


def test_modes_and_views():
    layer = jaxbn.nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    layer.eval()
    assert layer.use_running_average
    layer(X)
    np.testing.assert_array_equal(layer.mean[...], 0)
    layer.train()
    layer(X)
    assert np.abs(layer.mean[...]).min() > 0
    if hasattr(nnx, "view"):
        view = nnx.view(layer, use_running_average=True)
        assert view.use_running_average
        assert not layer.use_running_average
    layer.set_view(use_running_average=None)
    assert not layer.use_running_average
    layer.set_view(use_running_average=True)
    assert layer.use_running_average


def test_the_call_overrides_the_attribute():
    layer = jaxbn.nnx.BatchNorm(4, use_running_average=True, rngs=nnx.Rngs(0))
    layer(X, use_running_average=False)
    assert np.abs(layer.mean[...]).min() > 0


def test_running_average_must_be_said():
    layer = jaxbn.nnx.BatchNorm(4, use_running_average=None, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="use_running_average is None, expected True"):
        layer(X)


def test_trains_under_jit_and_grad():
    model = Net(jaxbn.nnx.BatchNorm, nnx.Rngs(0))

    @nnx.jit
    def step(model):
        return nnx.grad(lambda m: (m(X) ** 2).mean())(model)

    grads = step(model)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert np.abs(model.bn.mean[...]).max() > 0


def test_parameters_left_out_are_none():
    layer = jaxbn.nnx.BatchNorm(4, use_scale=False, use_bias=False, rngs=nnx.Rngs(0))
    assert layer.scale is None
    assert layer.bias is None
    assert len(jax.tree.leaves(nnx.state(layer, nnx.Param))) == 0


def test_random_initial_scale_and_the_keys_of_later_layers_are_those_of_flax():
    init = jax.nn.initializers.uniform(1.0)
    ours, theirs = nnx.Rngs(0), nnx.Rngs(0)
    a = jaxbn.nnx.BatchNorm(4, scale_init=init, rngs=ours)
    b = nnx.BatchNorm(4, scale_init=init, rngs=theirs)
    np.testing.assert_array_equal(a.scale[...], b.scale[...])
    assert ours.params() == theirs.params()


def test_any_pair_and_its_count():
    layer = jaxbn.nnx.Norm(4, batch_norm(debias=True), rngs=nnx.Rngs(0))
    layer(X)
    np.testing.assert_array_equal(layer.count[...], 1)
    np.testing.assert_allclose(layer.mean[...], X.mean((0, 1)), rtol=1e-5)


def test_metadata_reaches_the_variables():
    layer = jaxbn.nnx.BatchNorm(
        4, rngs=nnx.Rngs(0), scale_metadata={"tag": "s"}, bias_metadata={"tag": "b"}
    )
    assert (layer.scale.tag, layer.bias.tag) == ("s", "b")


def test_pairs_made_alike_are_equal():
    def make(**options):
        return batch_norm(**{"momentum": 0.9, "axis": (1, -1), **options})

    assert make() == make() and hash(make()) == hash(make())
    assert make() != make(momentum=0.8) and make() != make(epsilon=1e-3)
    assert make(unbiased=True) != make()
    groups = [[0, 1], [2, 3]]
    shared = {"axis_name": "i", "axis_index_groups": groups}
    assert make(**shared) == make(**shared)
    traced = {"momentum": jnp.float32(0.5)}
    assert make(**traced) == make(**traced)
    assert make(momentum=jnp.float32(0.5)) != make(momentum=jnp.float32(0.5))


def test_boxes_where_parameters_are_stacked_are_refused():
    start = nnx.with_partitioning(nnx.initializers.ones, ("d",))
    pair = domain_norm(2, batch_norm(scale_init=start), affine="per_domain")
    words = r"initializers of \['scale'\] return boxes, .*; say affine='shared'"
    with pytest.raises(ValueError, match=words):
        jaxbn.nnx.Norm(4, pair, rngs=nnx.Rngs(0))
