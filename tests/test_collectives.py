"""What crosses devices, read in the compiled programs: how often, and how many bytes.

A layer that synchronizes sends one small array forward and one backward, whatever the
groups; local and ghost batches send nothing, and nothing is sent in evaluation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from wrappers import JITS, MESHES, collectives, in_context, lay, spread, traffic

from jaxbn import batch_norm
from jaxbn.core import _reduce
from jaxbn.core._reduce import prefers_sums
from jaxbn.population import merge_batch_stats

SHAPE, CHANNELS = (8, 4, 2, 3), 3
SYNCHRONIZED = {
    "all": ({}, 1),
    "2 x 4": ({"axis_index_groups": [[0, 1, 2, 3], [4, 5, 6, 7]]}, 2),
    "3 + 5": ({"axis_index_groups": [[6, 1, 3], [0, 2, 4, 5, 7]]}, 2),
    "size 16": ({"normalization_batch_size": 16}, 2),
    "size 32": ({"normalization_batch_size": 32}, 1),
}
APART = {"local": 4, "ghost": 2}
on_meshes = pytest.mark.parametrize("wrapper", [*MESHES, *JITS])


def setting(wrapper, mesh, **options):
    """Returns the norm, `(params, state)` and data, laid where `wrapper` wants them."""
    norm = batch_norm(axis_name="devices", **options)
    params, state = norm.init(CHANNELS)
    if wrapper in JITS:
        apart = jax.tree.map(lambda a: jnp.stack([a] * 8), state)
        params, state = (
            lay(params, wrapper, mesh, False),
            lay(apart, wrapper, mesh),
        )
    rng = np.random.default_rng(0)
    data = (rng.normal(size=SHAPE).astype(np.float32) for _ in range(2))
    return norm, (params, state), lay(tuple(data), wrapper, mesh)


def forward(norm, **options):
    return lambda shared, x: norm.apply(*shared, x, True, **options)


def gradient(norm, of_params):
    def step(shared, x, cotangent):
        def loss(params, x):
            return jnp.sum(norm.apply(params, shared[1], x, True)[0] * cotangent)

        return jax.grad(loss, argnums=(0, 1) if of_params else (1,))(shared[0], x)

    return step


@on_meshes
@pytest.mark.parametrize("together", SYNCHRONIZED)
def test_synchronized_is_one_small_collective_each_way(wrapper, together, mesh):
    if wrapper == "pmap" and jax.__version_info__ < (0, 8):
        pytest.skip("pmap has no mesh before jax 0.8: the derivative is left to JAX")
    options, groups = SYNCHRONIZED[together]
    norm, shared, (x, cotangent) = setting(wrapper, mesh, **options)
    with in_context(wrapper, mesh):
        there = traffic(spread(forward(norm), wrapper, mesh, 1), shared, x)
        back = spread(gradient(norm, True), wrapper, mesh, 2)
        whole = traffic(back, shared, x, cotangent)
    kind = "all-gather" if wrapper in JITS else "all-reduce"
    assert there == [(kind, 8 * 4 * CHANNELS * 4)]  # slots of four float32 fields
    assert whole[0] == there[0]
    (sums,) = whole[1:]
    rows = 8 if wrapper == "explicit jit" else groups
    if wrapper == "typed shard_map" and groups > 1:
        rows += 1  # The gradient of the parameters, summed over all, in the same one.
    assert sums[1] == rows * 2 * CHANNELS * 4


@on_meshes
@pytest.mark.parametrize("together", APART)
def test_local_and_ghost_batches_cross_no_devices(wrapper, together, mesh):
    size = APART[together]
    norm, shared, (x, cotangent) = setting(wrapper, mesh, normalization_batch_size=size)
    with in_context(wrapper, mesh):
        there = spread(forward(norm), wrapper, mesh, 1)
        assert collectives(there, shared, x) == []
        back = spread(gradient(norm, False), wrapper, mesh, 2)
        assert collectives(back, shared, x, cotangent) == []


@on_meshes
def test_evaluation_crosses_no_devices(wrapper, mesh):
    norm, shared, (x, _) = setting(wrapper, mesh)
    shared = shared[0], lay(norm.init(CHANNELS)[1], wrapper, mesh, False)

    def evaluate(shared, x):
        return norm.apply(*shared, x, False)[0]

    with in_context(wrapper, mesh):
        assert collectives(spread(evaluate, wrapper, mesh, 1), shared, x) == []


@pytest.mark.parametrize("wrapper", MESHES)
def test_initialization_crosses_no_devices(wrapper, mesh):
    """`axis_name=None` in the call overrides the factory, as a model's init needs."""
    norm, shared, (x, _) = setting(wrapper, mesh)
    step = spread(forward(norm, axis_name=None), wrapper, mesh, 1)
    assert collectives(step, shared, x) == []
    y, _ = step(shared, x)
    expected, _ = oracle.bn_apply(*shared, x[3], True)
    oracle.assert_close(y[3], expected, 2e-5)


@pytest.mark.parametrize("wrapper", JITS)
def test_a_state_shared_by_local_batches_costs_one_collective(wrapper, mesh):
    norm, (params, _), (x, _) = setting(wrapper, mesh, normalization_batch_size=4)
    shared = params, lay(norm.init(CHANNELS)[1], wrapper, mesh, False)
    with in_context(wrapper, mesh):
        step = spread(forward(norm), wrapper, mesh, 1)
        assert collectives(step, shared, x) == ["all-gather"]
        _, new = step(shared, x)
    everything = np.asarray(x).reshape(-1, CHANNELS)
    _, expected = oracle.bn_apply(*norm.init(CHANNELS), everything, True)
    for key, value in expected.items():
        oracle.assert_close(new[key], value, 1e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_sums_are_preferred_where_slots_move_more_than_a_collective_costs(groups):
    switch = _reduce.SWITCH_BYTES
    for channels in (64, 2048):
        assert not prefers_sums(8, groups, channels * 4)
    assert prefers_sums(256, groups, 2048 * 4)
    devices = groups + switch // (2 * 4 * 256 * 4)
    assert not prefers_sums(devices, groups, 256 * 4)
    assert prefers_sums(devices + 1, groups, 256 * 4)


@pytest.mark.parametrize("wrapper", [*MESHES, "vmap"])
@pytest.mark.parametrize("together", ["all", "3 + 5"])
def test_sums_give_what_slots_give(wrapper, together, mesh, monkeypatch):
    options, groups = SYNCHRONIZED[together]
    norm, shared, _ = setting(wrapper, mesh, **options)
    rng = np.random.default_rng(1)
    x = 1e4 + rng.normal(size=SHAPE) + np.arange(8).reshape(8, 1, 1, 1)
    x, cotangent = x.astype(np.float32), rng.normal(size=SHAPE).astype(np.float32)
    mask = np.ones((8, 4, 2, 1), bool)
    mask[2] = False

    def step(shared, x, cotangent, mask):
        def loss(x):
            y, new = norm.apply(*shared, x, True, mask=mask)
            return jnp.sum(y * cotangent), (y, new)

        return jax.grad(loss, has_aux=True)(x)

    monkeypatch.setattr(_reduce, "SWITCH_BYTES", -1)
    jax.clear_caches()
    dx, (y, new) = spread(step, wrapper, mesh, 3)(shared, x, cotangent, mask)
    members = options.get("axis_index_groups")
    params, states, masks = shared[0], [shared[1]] * 8, list(mask)
    ys, news = oracle.bn_apply_devices(
        params, states, list(x), True, masks=masks, groups=members
    )
    dxs, _, _ = oracle.bn_gradient_devices(
        params, states, list(x), list(cotangent), True, masks=masks, groups=members
    )
    oracle.assert_close(y, np.stack(ys), 2e-5)
    oracle.assert_close(dx, np.stack(dxs), 2e-5)
    for key in new:
        oracle.assert_close(new[key], np.stack([n[key] for n in news]), 2e-5)
    if wrapper != "vmap":
        moved = traffic(spread(forward(norm), wrapper, mesh, 1), shared, x)
        assert moved == 2 * [("all-reduce", 2 * groups * CHANNELS * 4)]


@pytest.mark.parametrize("counts", [[1] + [1e6] * 7, [1e6] * 7 + [1], [3, 0] * 4])
def test_sums_keep_their_digits_whatever_was_counted(counts, mesh, monkeypatch):
    """One device with hardly a say lies 1e4 away from the others."""
    monkeypatch.setattr(_reduce, "SWITCH_BYTES", -1)
    jax.clear_caches()
    rng = np.random.default_rng(0)
    far = np.where(np.array(counts) == 1, 1e4, 0)[:, None]
    mean = (rng.normal(size=(8, 500)) * 0.1 + far).astype(np.float32)
    counts = np.array(counts, np.float32)

    def merge(_, mean, count):
        stats = {"bn": {"mean": mean, "var": jnp.ones_like(mean)}}
        return merge_batch_stats(stats, count, axis_name="devices")["bn"]

    found = spread(merge, "untyped shard_map", mesh, 2)(0, mean, counts)
    weights = counts.astype(np.float64)[:, None] / counts.sum()
    pooled = (weights * mean).sum(0)
    var = (weights * (1 + (mean - pooled) ** 2)).sum(0)
    np.testing.assert_allclose(found["mean"][0], pooled, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found["var"][0], var, rtol=1e-6)
