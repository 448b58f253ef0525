"""Examples trade places between devices, come back, and their gradients with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from wrappers import MAPPED, MESHES, collectives, spread, traffic

from jaxbn.core import batch_norm
from jaxbn.variants import shuffle, shuffled, unshuffle

KEY = jax.random.key(3)
EVEN, UNEVEN = 8, 3  # examples a device: divided by the devices, and not
everywhere = pytest.mark.parametrize("wrapper", MAPPED)
both = pytest.mark.parametrize("rows", [EVEN, UNEVEN])
mix = functools.partial(shuffle, axis_name="devices")
unmix = functools.partial(unshuffle, axis_name="devices")


number = lambda rows: np.arange(8 * rows).reshape(8, rows)
draw = lambda *n, seed=0: np.random.default_rng(seed).normal(size=n).astype("float32")


@everywhere
@both
def test_every_example_moves_and_comes_back_bit_for_bit(wrapper, rows, mesh):
    def there_and_back(key, x, ids):
        mixed = mix({"x": x, "ids": (ids, ids % 2 == 0), "none": None}, key)
        return mixed, unmix(mixed, key)

    x, ids = draw(8, rows, 2), number(rows)
    step = spread(there_and_back, wrapper, mesh, 2)
    mixed, back = step(KEY, x, ids)
    np.testing.assert_array_equal(back["x"].view(np.uint32), x.view(np.uint32))
    np.testing.assert_array_equal(back["ids"][0], ids)
    order, even = map(np.asarray, mixed["ids"])
    np.testing.assert_array_equal(np.sort(order, None), ids.ravel())
    np.testing.assert_array_equal(mixed["x"], x.reshape(-1, 2)[order])
    np.testing.assert_array_equal(even, order % 2 == 0)
    origins = np.sort(order // rows, 1)
    if rows == EVEN:
        np.testing.assert_array_equal(origins, np.tile(np.arange(8), (8, 1)))
    assert all(len(set(row)) > 1 for row in origins)
    other, _ = step(jax.random.key(4), x, ids)
    assert np.mean(np.asarray(other["ids"][0]) == order) < 0.2


@pytest.mark.parametrize("wrapper", MESHES)
@both
def test_what_is_sent_forward_and_back(wrapper, rows, mesh):
    x = draw(8, rows, 2)
    step = lambda key, x, c: (*jax.vjp(lambda x: mix(x, key), x)[1](c), mix(x, key))
    sent = traffic(spread(step, wrapper, mesh, 2), KEY, x, x)
    uneven = [("all-gather", x.nbytes), ("reduce-scatter", x[0].nbytes)]
    even = 2 * [("all-to-all", x[0].nbytes)]
    assert sorted(sent) == (even if rows == EVEN else uneven)


@everywhere
@both
def test_gradient_is_unshuffle(wrapper, rows, mesh):
    x, c = draw(8, rows, 2), draw(8, rows, 2, seed=1)

    def step(key, x, c):
        slope = jax.grad(lambda x: jnp.sum(mix(x, key) * c))(x)
        along = jax.jvp(lambda x: mix(x, key), (x,), (c,))[1]
        return (slope, unmix(c, key)), (along, mix(c, key))

    pairs = spread(step, wrapper, mesh, 2)(KEY, x, c)
    for actual, expected in pairs:
        np.testing.assert_array_equal(actual, expected)
    forward = spread(lambda key, x: mix(x, key), wrapper, mesh, 1)
    outside = jax.grad(lambda x: jnp.sum(forward(KEY, x) * c))
    np.testing.assert_array_equal(outside(x), pairs[0][1])


@pytest.mark.parametrize("wrapper", ["vmap", "typed shard_map"])
@both
def test_several_axes_are_one(wrapper, rows, mesh):
    def f(x):
        mixed = shuffle(x, KEY, axis_name=("a", "b"))
        return mixed, unshuffle(mixed, KEY, axis_name=("a", "b"))

    mapped = jax.vmap(jax.vmap(f, axis_name="b"), axis_name="a")
    if wrapper != "vmap":
        grid, spec = Mesh(mesh.devices.reshape(2, 4), ("a", "b")), P("a", "b")
        whole = lambda x: jax.tree.map(lambda y: y[None, None], f(x[0, 0]))
        mapped = jax.shard_map(whole, mesh=grid, in_specs=spec, out_specs=spec)
    mixed, back = jax.jit(mapped)(number(rows).reshape(2, 4, rows))
    np.testing.assert_array_equal(np.reshape(back, (8, rows)), number(rows))
    joint = spread(lambda key, x: mix(x, key), "vmap", mesh, 1)(KEY, number(rows))
    np.testing.assert_array_equal(np.reshape(mixed, (8, rows)), joint)


def test_replicated_examples_under_typed_shard_map(mesh):
    step = spread(lambda x, _: mix(x, KEY), "typed shard_map", mesh, 1)
    for rows in (EVEN, UNEVEN):
        counts = np.bincount(np.ravel(step(np.arange(rows), np.zeros(8))))
        np.testing.assert_array_equal(counts, 8)


def test_one_device():
    x = draw(5, 2)
    for key in (KEY, jax.random.PRNGKey(3)):
        mixed = shuffle(x, key)
        np.testing.assert_array_equal(mixed, x[jax.random.permutation(key, 5)])
        np.testing.assert_array_equal(unshuffle(mixed, key), x)
    mixed = jax.vmap(lambda x: mix(x, KEY), axis_name="devices")(x[None])[0]
    np.testing.assert_array_equal(np.sort(mixed, 0), np.sort(x, 0))
    assert shuffle({"none": None}, KEY) == {"none": None}
    assert shuffle(x[:0], KEY).shape == (0, 2)


def test_messages(mesh):
    refused = functools.partial(pytest.raises, ValueError)
    with refused(match=r"\[\(2, 3\), \(4,\)\], expected the same .*; move the ex"):
        shuffle([jnp.zeros((2, 3)), jnp.zeros(4)], KEY)
    with refused(match=r"\[\(2,\), \(\)\], expected rank 1 or more, .*; leave out"):
        unshuffle([jnp.zeros(2), 1.0], KEY)
    with refused(match=r"\('devices',\), which is not bound here, expected .* pass ax"):
        mix(jnp.zeros(2), KEY)
    lanes = jax.vmap(functools.partial(shuffle, key=KEY, axis_name="i"), axis_name="i")
    with refused(match="'i' is an axis of vmap under shard_map.* pass check_vma=False"):
        spread(lambda _, x: lanes(x), "typed shard_map", mesh, 1)(KEY, draw(8, 2, 4))
    for norm, x in ((batch_norm(axis=0), draw(2, 3)), (batch_norm(), draw(3))):
        params, state = shuffled(norm).init(x.shape[norm.axis])
        with refused(match=r"features along axis .* expected examples .*; move the"):
            shuffled(norm).apply(params, state, x, True)
    with refused(match="expected one that is not shuffled; shuffle once"):
        shuffled(shuffled(batch_norm())).init(3)


MASKS = {
    "pmap": draw(8, EVEN, 1, 1, seed=1) > -1,
    "typed shard_map": draw(8, EVEN, 2, seed=2) > -1,
    "untyped shard_map": draw(8, 1, 2, 1, seed=3) > -1,  # another on each device
    "vmap": np.arange(8) % 3 > 0,  # a device counts, or does not
}


@everywhere
def test_shuffled_norm_equals_numpy(wrapper, mesh):
    norm = shuffled(batch_norm(momentum=0.5), axis_name="devices", seed=7)
    params, state = norm.init(3)
    state["shuffles"] += 2
    x, c = draw(8, EVEN, 2, 3) + number(EVEN)[..., None, None] % 5, draw(8, EVEN, 2, 3)
    mask = MASKS[wrapper]
    seen = np.ones((8, EVEN, 2, 1), bool) & mask.reshape((*mask.shape, 1, 1, 1)[:4])
    x = np.where(seen, x, np.nan).astype(np.float32)

    def step(key, x, c, mask, ids):
        def loss(x):
            y, new = norm.apply(params, state, x, True, mask=mask)
            return jnp.sum(y * c), (y, new)

        return *jax.grad(loss, has_aux=True)(x), mix(ids, key)

    key, ids = jax.random.fold_in(jax.random.key(7), 2), number(EVEN)
    dx, (y, new), order = spread(step, wrapper, mesh, 4)(key, x, c, mask, ids)
    trade = lambda a: list(np.reshape(a, (-1, *a.shape[2:]))[np.asarray(order)])
    alone = {"masks": trade(seen), "groups": [[d] for d in range(8)], "momentum": 0.5}
    states = [state] * 8
    ys, news = oracle.bn_apply_devices(params, states, trade(x), True, **alone)
    back = oracle.bn_gradient_devices(params, states, trade(x), trade(c), True, **alone)
    oracle.assert_close(np.stack(trade(y)), np.stack(ys), 1e-5)
    oracle.assert_close(np.stack(trade(dx)), np.stack(back[0]), 1e-5)
    for name in ("mean", "var"):
        oracle.assert_close(new[name], np.stack([n[name] for n in news]), 1e-5)
    np.testing.assert_array_equal(new["shuffles"], 3)


def test_the_counter_moves_in_a_scan_and_draws_anew():
    norm = shuffled(batch_norm(normalization_batch_size=4))
    params, state = norm.init(2)
    x = jnp.asarray(draw(8, 2))
    step = lambda state, _: norm.apply(params, state, x, True)[::-1]
    state, ys = jax.lax.scan(step, state, length=3)
    assert state["shuffles"] == 3 and state["shuffles"].dtype == jnp.int32
    assert not np.allclose(ys[0], ys[1])


@pytest.mark.parametrize("mask", [None, np.arange(3)[:, None] < 2])
def test_state_that_is_not_updated_is_the_state_given(mask):
    """No axis is bound here. A mask without an axis of examples is left to the norm."""
    norm, plain = shuffled(batch_norm(), axis_name="devices"), batch_norm()
    (params, state), bare, x = norm.init(2), plain.init(2), draw(6, 3, 2)
    y, new = norm.apply(params, state, x, False, mask=mask)
    assert new is state
    np.testing.assert_array_equal(y, plain.apply(*bare, x, False, mask=mask)[0])
    here = {"axis_name": None, "axis_index_groups": None, "mask": mask}
    y, new = norm.apply(params, state, x, True, update_stats=False, **here)
    assert new is state
    expected, moved = plain.apply(*bare, x, True, mask=mask)
    oracle.assert_close(y, expected, 1e-6)
    _, new = norm.apply(params, state, x, True, use_running_average=True, **here)
    assert new.pop("shuffles") == 1
    jax.tree.map(lambda a, b: oracle.assert_close(a, b, 1e-6), new, moved)


def test_the_axis_of_a_call_goes_to_the_norm_too(mesh):
    norm, shared = shuffled(batch_norm()), batch_norm(axis_name="devices")
    (params, state), (_, bare) = norm.init(2), shared.init(2)
    apply = lambda n, s, **o: lambda p, x: n.apply(p, s, x, True, **o)[0]
    x = draw(8, EVEN, 2)
    ours, whole = apply(norm, state, axis_name="devices"), apply(shared, bare)
    y, expected = (spread(f, "vmap", mesh, 1)(params, x) for f in (ours, whole))
    oracle.assert_close(y, expected, 1e-5)
    local = spread(apply(norm, state), "typed shard_map", mesh, 1)
    assert collectives(local, params, x) == []
