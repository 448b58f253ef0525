"""The matrix: front ends x parallelism x masks x what is normalized together.

The functions, the linen and the nnx module run side by side in one program, so that
the 30 programs of a dtype cover three front ends and, since masks are arrays, three
masks. Each result is held to the oracle on the examples that belong together: outputs,
running statistics of each device, dx, dscale and dbias.

Under jit the state is that of each device, [8, C], laid over the mesh; gradient
conventions are those of test_laws_devices.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from flax import nnx
from wrappers import JITS, MAPPED, in_context, lay, spread

import jaxbn
import jaxbn.linen
import jaxbn.nnx

DEVICES, SHAPE = 8, (8, 4, 2, 3)  # devices, then what one of them holds
TOGETHER = {
    "all": {},
    "2 x 4": {"axis_index_groups": [[0, 1, 2, 3], [4, 5, 6, 7]]},
    "3 + 5": {"axis_index_groups": [[6, 1, 3], [0, 2, 4, 5, 7]]},
    "local": {"normalization_batch_size": 4},
    "ghost": {"normalization_batch_size": 2},
}
MASKS = {  # arrays all three, of one shape, so that they share a program
    "none": np.ones((8, 4, 2, 1), bool),
    "unequal": np.arange(8).reshape(4, 2, 1) <= np.arange(8).reshape(8, 1, 1, 1),
    "one empty": np.ones((8, 4, 2, 1), bool) & (np.arange(8) != 3).reshape(8, 1, 1, 1),
}
FRONTS = ("functional", "linen", "nnx")


def apply_with(front, options, params, state, x, mask):
    """Returns y and the new state, by the front end named."""
    if front == "functional":
        return jaxbn.bn_apply(params, state, x, True, mask=mask, **options)
    if front == "linen":
        layer = jaxbn.linen.BatchNorm(use_running_average=False, **options)
        variables = {"params": params, "batch_stats": state}
        y, new = layer.apply(variables, x, mask=mask, mutable=["batch_stats"])
        return y, new["batch_stats"]
    layer = jaxbn.nnx.BatchNorm(3, **options, rngs=nnx.Rngs(0))
    for key, value in params.items():
        setattr(layer, key, nnx.Param(value))
    for key, value in state.items():
        setattr(layer, key, nnx.BatchStat(value))
    y = layer(x, mask=mask)
    return y, {key: getattr(layer, key)[...] for key in state}


@functools.cache
def compiled(wrapper, together, mesh):
    """Returns `step((params, state), x, cotangent, mask)`, of all front ends."""
    options = {"axis_name": "devices", **TOGETHER[together]}

    def step(shared, x, cotangent, mask):
        params, state = shared

        def loss(params, x, front):
            y, new = apply_with(front, options, params, state, x, mask)
            return jnp.sum(y * cotangent), (y, new)

        def run(front):
            derive = jax.grad(loss, argnums=(0, 1), has_aux=True)
            (dparams, dx), (y, new) = derive(params, x, front)
            return {"y": y, "dx": dx, **new, **dparams}

        return {front: run(front) for front in FRONTS}

    return spread(step, wrapper, mesh, 3)


def expected(together, params, state, x, cotangent, mask):
    """Returns what the oracle finds on eight devices, stacked."""
    options = TOGETHER[together]
    parts, groups = 1, options.get("axis_index_groups")
    size = options.get("normalization_batch_size")
    if size is not None:
        parts = SHAPE[1] // size
        groups = [[i] for i in range(DEVICES * parts)]

    def cut(a):
        return list(np.asarray(a).reshape(-1, a.shape[1] // parts, *a.shape[2:]))

    def join(parts_, shape):
        return np.stack(parts_).reshape(shape)

    x, cotangent, mask = cut(x), cut(cotangent), cut(mask)
    lanes = [state] * len(x)
    ys, news = oracle.bn_apply_devices(
        params, lanes, x, True, masks=mask, groups=groups
    )
    dxs, dscales, dbiases = oracle.bn_gradient_devices(
        params, lanes, x, cotangent, True, masks=mask, groups=groups
    )
    if parts > 1:  # A device absorbs its ghost batches as one batch.
        whole = [np.concatenate(x[i : i + parts]) for i in range(0, len(x), parts)]
        masks = [np.concatenate(mask[i : i + parts]) for i in range(0, len(x), parts)]
        alone = [[i] for i in range(DEVICES)]
        states = [state] * DEVICES
        _, news = oracle.bn_apply_devices(
            params, states, whole, True, masks=masks, groups=alone
        )
    by_device = (DEVICES, parts, -1)
    return {
        "y": join(ys, SHAPE),
        "dx": join(dxs, SHAPE),
        "scale": join(dscales, by_device).sum(1),
        "bias": join(dbiases, by_device).sum(1),
        **{key: np.stack([new[key] for new in news]) for key in state},
    }


def check(wrapper, together, mask, mesh, dtype, location, tolerance):
    rng = np.random.default_rng(0)
    x = location + 2 * rng.normal(size=SHAPE) + np.arange(8).reshape(8, 1, 1, 1)
    x, cotangent = x.astype(dtype), rng.normal(size=SHAPE).astype(dtype)
    params = {"scale": np.array([0.5, 1.0, 2.0]), "bias": np.array([1.0, 0.0, -1.0])}
    params = {key: value.astype(dtype) for key, value in params.items()}
    state = {"mean": np.full(3, 0.5, dtype), "var": np.full(3, 2.0, dtype)}
    step, mask = compiled(wrapper, together, mesh), MASKS[mask]
    apart = {key: np.stack([value] * DEVICES) for key, value in state.items()}
    with in_context(wrapper, mesh):
        shared = lay(params, wrapper, mesh, False), state
        if wrapper in JITS:
            shared = shared[0], lay(apart, wrapper, mesh)
        hidden = np.where(mask, x, np.nan).astype(dtype)
        found = step(shared, *lay((hidden, cotangent, mask), wrapper, mesh))
    wanted = expected(together, params, state, x, cotangent, mask)
    for front in FRONTS:
        for key, value in found[front].items():
            want = wanted[key]
            if key in params and wrapper not in ("pmap", "vmap", "untyped shard_map"):
                want = np.broadcast_to(want.sum(0), value.shape)
            try:
                oracle.assert_close(value, want, tolerance)
            except AssertionError as error:
                raise AssertionError(f"{front}: {key}") from error


everywhere = pytest.mark.parametrize("wrapper", [*MAPPED, *JITS])
all_together = pytest.mark.parametrize("together", TOGETHER)
all_masks = pytest.mark.parametrize("mask", MASKS)


@everywhere
@all_together
@all_masks
def test_equals_the_oracle_in_float64(wrapper, together, mask, mesh, x64):
    with x64():
        check(wrapper, together, mask, mesh, "float64", 0.0, 1e-9)


@everywhere
@all_together
@all_masks
def test_equals_the_oracle_in_float32_at_1e4(wrapper, together, mask, mesh):
    check(wrapper, together, mask, mesh, "float32", 1e4, 1e-4)
