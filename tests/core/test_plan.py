"""Sizes become ghost batches or groups of devices; others are refused, with a list."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxbn import bn_apply, bn_init
from jaxbn.core import describe_groups, resolve_groups
from jaxbn.core._sizes import possible_sizes
from jaxbn.diagnostics import find_collectives

PARAMS, STATE = bn_init(3)


@pytest.mark.parametrize(("examples", "devices"), [(64, 8), (12, 4), (6, 1), (24, 6)])
def test_every_possible_size_cuts_the_batch_into_equal_runs(examples, devices):
    share = examples // devices
    for size in possible_sizes(examples, devices):
        ghosts, groups = resolve_groups(size, examples, devices)
        groups = [list(range(devices))] if groups is None else groups
        assert sorted(d for group in groups for d in group) == list(range(devices))
        assert {len(group) * share // ghosts for group in groups} == {size}
    assert resolve_groups(None, examples, devices) == (1, None)
    assert resolve_groups(examples, examples, devices) == (1, None)


def test_arrays_without_examples_or_elements_are_cut_too():
    for shape in ((0, 5, 3), (4, 0, 3)):
        y, new = bn_apply(
            PARAMS, STATE, jnp.ones(shape), True, normalization_batch_size=2
        )
        assert y.shape == shape
        for key in STATE:
            np.testing.assert_array_equal(new[key], STATE[key])


@pytest.mark.parametrize("size", [0, 3, 7, 24, 48, 65, 128, -8])
def test_other_sizes_are_refused_and_the_possible_ones_named(size):
    words = (
        f"normalization_batch_size is {size} for a batch of 64 on 8 devices, expected "
        "one of [1, 2, 4, 8, 16, 32, 64]: a divisor of the 8 examples of a device"
    )
    with pytest.raises(ValueError, match=re.escape(words)):
        resolve_groups(size, 64, 8)


def test_words():
    said = [describe_groups(size, 64, 8) for size in (None, 2, 8, 32)]
    assert said == [
        "64 normalized together (all 8 devices)",
        "2 normalized together (4 ghost batches in each device)",
        "8 normalized together (each device)",
        "32 normalized together (groups of 4 devices)",
    ]
    assert describe_groups(64, 64, 1) == "64 normalized together (the whole batch)"
    assert describe_groups(16, 64, 1) == "16 normalized together (4 ghost batches)"


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_ghost_batches_on_one_device(axis, masked):
    rng = np.random.default_rng(0)
    x = (1e3 + rng.normal(size=(12, 2, 3)) * 2).astype(np.float32)
    mask = rng.uniform(size=(12, 2, 1)) < 0.7 if masked else np.ones((12, 2, 1), bool)
    x[:4] += 5

    def laid(a):  # Features to `axis`; the examples are the first axis of the rest.
        return jnp.moveaxis(jnp.asarray(a), -1, axis)

    options = {"axis": axis, "normalization_batch_size": 4}
    y, new = bn_apply(PARAMS, STATE, laid(x), True, mask=laid(mask), **options)
    parts, masks = np.split(x, 3), np.split(mask, 3)
    alone = [[0], [1], [2]]
    states = [STATE] * 3
    ys, _ = oracle.bn_apply_devices(
        PARAMS, states, parts, True, masks=masks, groups=alone
    )
    oracle.assert_close(y, laid(np.concatenate(ys)), 1e-5)
    _, whole = oracle.bn_apply(PARAMS, STATE, x, True, mask=mask)
    for key in whole:  # The variance between ghost batches is kept.
        oracle.assert_close(new[key], whole[key], 1e-6)


def test_a_mask_of_some_features_is_shared_by_ghost_batches():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    seen = jnp.array([[True, False, True]])
    y, _ = bn_apply(PARAMS, STATE, x, True, mask=seen, normalization_batch_size=2)
    alone, _ = bn_apply(PARAMS, STATE, x[:2], True, mask=seen)
    np.testing.assert_allclose(y[:2], alone, atol=1e-6)
    assert not y[:, 1].any()


def laid_out(shape, names):
    devices = np.array(jax.devices()[:8]).reshape(shape)
    return Mesh(devices, names)


@pytest.mark.usefixtures("eight_devices")
def test_under_jit_one_axis_of_a_mesh_leaves_the_other_alone():
    """Channels split over 'model', examples over 'data': still one collective."""
    mesh = laid_out((4, 2), ("data", "model"))
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (16, 5, 6)).astype(np.float32)
    params, state = bn_init(6)

    def layer(x, size=None):
        options = {"axis_name": "data", "normalization_batch_size": size}
        return bn_apply(params, state, x, True, **options)

    split = jax.device_put(x, NamedSharding(mesh, P("data", None, "model")))
    with jax.set_mesh(mesh):
        step = jax.jit(layer)
        y, new = step(split)
        sent = find_collectives(step.lower(split).compile())
        halves, _ = jax.jit(lambda x: layer(x, 8))(split)
    expected, absorbed = oracle.bn_apply(params, state, x, True)
    oracle.assert_close(y, expected, 1e-5)
    for key in absorbed:
        oracle.assert_close(new[key], absorbed[key], 1e-6)
    assert [kind for kind, _ in sent] == ["all-gather"]
    for half in (slice(0, 8), slice(8, 16)):
        expected, _ = oracle.bn_apply(params, state, x[half], True)
        oracle.assert_close(halves[half], expected, 1e-5)


@pytest.mark.usefixtures("eight_devices")
@pytest.mark.skipif(
    jax.__version_info__ < (0, 8), reason="jax 0.7 cannot lay out such a shard_map"
)
def test_a_mapped_axis_and_one_left_to_the_compiler_together():
    mesh = laid_out((2, 4), ("hosts", "chips"))
    x = np.random.default_rng(0).normal(3, 2, (16, 5, 3)).astype(np.float32)

    def local(x):
        return bn_apply(PARAMS, STATE, x, True, axis_name=("hosts", "chips"))[0]

    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=P("hosts"),
        out_specs=P("hosts"),
        axis_names={"hosts"},
    )
    with jax.set_mesh(mesh):
        placed = jax.device_put(x, NamedSharding(mesh, P(("hosts", "chips"))))
        y = jax.jit(mapped)(placed)
    expected, _ = oracle.bn_apply(PARAMS, STATE, x, True)
    oracle.assert_close(y, expected, 1e-5)


KINDS = {
    (("axis_index_groups", ((0, 1), (2, 3))),): r"over axes of two kinds.*; name those",
    (("normalization_batch_size", 32),): r"normalization_batch_size=32 makes, over ax",
}


def layer(x, **options):
    return bn_apply(PARAMS, STATE, x, True, axis_name=("lanes", "data"), **options)


@pytest.mark.usefixtures("eight_devices")
def test_what_a_mesh_cannot_serve_is_refused():
    x = jnp.ones((6, 3))
    with jax.set_mesh(laid_out((8,), ("data",))):
        with pytest.raises(
            ValueError, match="x has 6 examples, expected a multiple of"
        ):
            jax.jit(lambda x: bn_apply(PARAMS, STATE, x, True, axis_name="data"))(x)
        with pytest.raises(ValueError, match=r"'batch',.*jax\.set_mesh of a mesh that"):
            jax.jit(lambda x: bn_apply(PARAMS, STATE, x, True, axis_name="batch"))(x)
        for options, words in KINDS.items():
            lanes = jax.vmap(
                functools.partial(layer, **dict(options)), axis_name="lanes"
            )
            with pytest.raises(ValueError, match=words):
                jax.jit(lanes)(jnp.ones((4, 32, 3)))
    stacked = {key: jnp.stack([value] * 8) for key, value in STATE.items()}
    words = "statistics of devices, merge_batch_stats pools them"
    with pytest.raises(ValueError, match=words):
        bn_apply(PARAMS, stacked, x, False)
