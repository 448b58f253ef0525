"""k devices equal one, under everything that names an axis: values and gradients.

Eight devices hold a shard each; the oracle pools the shards of a group into one batch.

Gradient conventions, which are those of autodiff for any layer with a psum inside.
Where there are no types of varying values (pmap, vmap, shard_map with check_vma=False)
the gradient of a loss local to the device, taken inside, is the device's own part of
dscale and dbias, while dx is whole because a psum transposes to a psum. With
check_vma=True the gradient of a replicated parameter arrives summed over all devices.
Taken outside, of a loss summed over devices, it is summed everywhere.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from catalog import PLAIN, ROWS, Law, rows_claiming, start
from jax.sharding import PartitionSpec as P
from wrappers import MAPPED, spread

DEVICES, SHAPE = 8, (8, 3, 2, 3)  # devices, then what one of them holds
GROUPS = {
    "all": None,
    "2 x 4": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "3 + 5": [[6, 1, 3], [0, 2, 4, 5, 7]],
}
MASKS = {  # arrays all three, of one shape, so that they share a program
    "none": np.ones((8, 3, 2, 1), bool),
    "unequal": np.arange(6).reshape(3, 2, 1) <= np.arange(8).reshape(8, 1, 1, 1) % 6,
    "one empty": np.ones((8, 3, 2, 1), bool) & (np.arange(8) != 3).reshape(8, 1, 1, 1),
}


def batch(dtype, location=0.0):
    rng = np.random.default_rng(0)
    x = location + 2 * rng.normal(size=SHAPE) + np.arange(8).reshape(8, 1, 1, 1)
    return jnp.asarray(x, dtype), jnp.asarray(rng.normal(size=SHAPE), dtype)


def make(row, groups, dtype):
    norm = row.make(
        axis_name="devices", axis_index_groups=GROUPS[groups], param_dtype=dtype
    )
    params, state = start(norm, np.zeros(SHAPE[1:]))
    return norm, params, state


@functools.cache
def compiled(row, wrapper, groups, dtype, mesh):
    """Returns parameters, state and `step(shared, x, cotangent, mask)`.

    A step gives y, the new state and the gradients of a local loss taken inside.
    """
    norm, params, state = make(row, groups, dtype)

    def step(shared, x, cotangent, mask):
        params, state = shared

        def loss(params, x):
            y, new = norm.apply(params, state, x, True, mask=mask)
            return jnp.sum(y * cotangent), (y, new)

        grads, (y, new) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
        return y, new, *grads

    return params, state, spread(step, wrapper, mesh, 3)


def check_values(row, params, state, x, groups, mask, y, new, tolerance):
    ys, news = row.reference(
        params, [state] * DEVICES, list(x), True, masks=list(mask), groups=groups
    )
    oracle.assert_close(y, np.stack(ys), tolerance)
    for key in state:
        oracle.assert_close(new[key], np.stack([s[key] for s in news]), tolerance)


def check_gradients(row, params, state, batch, groups, mask, grads, summed, tolerance):
    dparams, dx = grads
    dxs, dscales, dbiases = row.gradient(
        params, [state] * DEVICES, *map(list, batch), True, masks=mask, groups=groups
    )
    oracle.assert_close(dx, np.stack(dxs), tolerance)
    parts = {"scale": np.stack(dscales), "bias": np.stack(dbiases)}
    for key in params:
        expected = parts[key].sum(0) if summed else parts[key]
        expected = np.broadcast_to(expected, dparams[key].shape)
        oracle.assert_close(dparams[key], expected, tolerance)


def check(row, wrapper, groups, mask, mesh, *, dtype, location, tolerance):
    x, cotangent = batch(dtype, location)
    params, state, step = compiled(row, wrapper, groups, dtype, mesh)
    mask, groups = MASKS[mask], GROUPS[groups]
    y, new, *grads = step((params, state), x, cotangent, mask)
    check_values(row, params, state, x, groups, mask, y, new, tolerance)
    if row.gradient is not None:
        summed = wrapper == "typed shard_map"
        data = x, cotangent
        check_gradients(
            row, params, state, data, groups, mask, grads, summed, tolerance
        )


everywhere = pytest.mark.parametrize("wrapper", MAPPED)
all_groups = pytest.mark.parametrize("groups", GROUPS)
all_masks = pytest.mark.parametrize("mask", MASKS)


@everywhere
@all_groups
@all_masks
def test_k_devices_equal_one_in_float64(wrapper, groups, mask, mesh, x64):
    with x64():
        precise = {"dtype": "float64", "location": 0.0, "tolerance": 1e-10}
        check(PLAIN, wrapper, groups, mask, mesh, **precise)


@everywhere
@all_groups
@all_masks
def test_k_devices_equal_one_in_float32_at_1e4(wrapper, groups, mask, mesh):
    offset = {"dtype": "float32", "location": 1e4, "tolerance": 2e-5}
    check(PLAIN, wrapper, groups, mask, mesh, **offset)


@rows_claiming(Law.DEVICES, [row for row in ROWS if row.modules is None])
@pytest.mark.parametrize("wrapper", [w for w in MAPPED if w != "typed shard_map"])
def test_k_devices_equal_one_for_every_variant(row, wrapper, mesh):
    offset = {"dtype": "float32", "location": 0.0, "tolerance": 2e-5}
    check(row, wrapper, "3 + 5", "one empty", mesh, **offset)


@rows_claiming(Law.DEVICES)
def test_k_devices_equal_one_for_every_row(row, mesh, x64):
    with x64():
        precise = {"dtype": "float64", "location": 0.0, "tolerance": 1e-10}
        for mask in MASKS:
            check(row, "typed shard_map", "3 + 5", mask, mesh, **precise)


@everywhere
@all_groups
def test_gradient_taken_outside_of_a_loss_summed_over_devices(
    wrapper, groups, mesh, x64
):
    with x64():
        norm, params, state = make(PLAIN, groups, "float64")
        x, cotangent = batch("float64")

        def forward(params, x, mask):
            return norm.apply(params, state, x, True, mask=mask)[0]

        mapped = spread(forward, wrapper, mesh, 2)

        def loss(params, x, mask):
            return jnp.sum(mapped(params, x, mask) * cotangent)

        outside = jax.grad(loss, argnums=(0, 1))
        outside = outside if wrapper == "pmap" else jax.jit(outside)
        for mask in MASKS.values():
            grads = outside(params, x, mask)
            data, members = (x, cotangent), GROUPS[groups]
            check_gradients(
                PLAIN, params, state, data, members, mask, grads, True, 1e-10
            )


def test_statistics_of_all_devices_are_typed_as_equal_on_all(mesh):
    """They may leave a typed shard_map by `P()`, which it would refuse otherwise."""
    norm, params, state = make(PLAIN, "all", "float32")
    x, _ = batch("float32")
    step = jax.shard_map(
        lambda x: norm.apply(params, state, x, True)[1],
        mesh=mesh,
        in_specs=P("devices"),
        out_specs=P(),
        axis_names={"devices"},
    )
    new = jax.jit(step)(x.reshape(24, 2, 3))
    _, expected = PLAIN.expected(params, state, x.reshape(24, 2, 3), True)
    for key in state:
        oracle.assert_close(new[key], expected[key], 1e-6)
