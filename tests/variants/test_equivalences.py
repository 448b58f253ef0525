"""Where one variant has to be another, it is: values, states and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from wrappers import in_context, lay, spread

import jaxbn
from jaxbn import bn_apply

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(3, 2, (12, 3, 4)), jnp.float32)
DATA = np.asarray(X)
COTANGENT = jnp.asarray(RNG.normal(size=X.shape), jnp.float32)
PARAMS = {"scale": jnp.array([1.0, 2.0, 0.5, 3.0]), "bias": jnp.arange(4.0)}
STATE = {"mean": jnp.full(4, 2.5), "var": jnp.array([1.0, 2.0, 5.0, 9.0])}
COUNTED = {**STATE, "count": jnp.full(4, 7.0)}
MASK = RNG.random((12, 3)) < 0.8


def step(norm, state, train, x=X, **options):
    """Returns y, the new state, and the gradients of parameters and x."""

    def loss(params, x):
        y, new = norm.apply(params, state, x, train, **options)
        return jnp.sum(y * COTANGENT[: len(x)]), (y, new)

    grads, (y, new) = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(PARAMS, x)
    return y, new, grads


def assert_same(actual, expected, tolerance=2e-6):
    jax.tree.map(lambda a, b: oracle.assert_close(a, b, tolerance), actual, expected)


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("options", [{"num_groups": 1}, {"size": 12}, {"size": 99}])
def test_one_ghost_is_batch_norm(options, train, mask):
    norms = jaxbn.ghost_norm(**options), jaxbn.batch_norm()
    ghost, plain = (step(norm, STATE, train, mask=mask) for norm in norms)
    assert_same(ghost, plain, 0)


@pytest.mark.parametrize("train", [True, False])
def test_renorm_that_may_not_correct_is_batch_norm(train):
    options = {"warmup_steps": 0, "r_steps": 0, "d_steps": 0}
    renorm = jaxbn.batch_renorm(r_max=1.0, d_max=0.0, **options)
    plain = jaxbn.batch_norm(debias=True)
    assert_same(step(renorm, COUNTED, train), step(plain, COUNTED, train))
    later = jaxbn.batch_renorm(warmup_steps=8)
    assert_same(step(later, COUNTED, train), step(plain, COUNTED, train))


def test_renorm_within_its_limits_gives_what_evaluation_gives():
    free = jaxbn.batch_renorm(
        r_max=1e6, d_max=1e6, warmup_steps=0, r_steps=0, d_steps=0
    )
    y, _, (dparams, dx) = step(free, COUNTED, True)
    expected, _, (evaluated, _) = step(free, COUNTED, False)
    assert_same((y, dparams), (expected, evaluated))
    # Gradients see the batch: those of xhat, times r.
    xhat, _, _ = step(jaxbn.batch_norm(), STATE, True)
    r = np.sqrt((np.var(DATA, (0, 1)) + 1e-5) / (np.asarray(STATE["var"]) + 1e-5))
    _, pull = jax.vjp(lambda x: bn_apply({}, STATE, x, True)[0], X)
    (expected,) = pull(
        jnp.asarray(np.asarray(COTANGENT) * r * np.asarray(PARAMS["scale"]))
    )
    assert_same(dx, expected, 1e-5)
    assert xhat.shape == y.shape


def test_renorm_at_its_limits_is_clipped():
    norm = jaxbn.batch_renorm(
        r_max=1.2, d_max=0.1, warmup_steps=0, r_steps=10, d_steps=10, epsilon=0.0
    )
    y, _, _ = step(norm, COUNTED, True)
    xhat = np.asarray(bn_apply({}, STATE, X, True, epsilon=0.0)[0])
    params, state = jax.tree.map(np.asarray, (PARAMS, STATE))
    mean, deviation = np.mean(DATA, (0, 1)), np.std(DATA, (0, 1))
    limit_r, limit_d = 1 + 0.2 * 0.7, 0.1 * 0.7  # the seventh of ten steps
    r = np.clip(deviation / np.sqrt(state["var"]), 1 / limit_r, limit_r)
    d = (mean - state["mean"]) / np.sqrt(state["var"])
    d = np.clip(d, -limit_d, limit_d)
    oracle.assert_close(y, (xhat * r + d) * params["scale"] + params["bias"], 1e-5)


@pytest.mark.parametrize("affine", ["shared", "per_domain"])
@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize("train", [True, False])
def test_k_domains_are_k_batch_norms(affine, train, mask):
    """By an index an example, and by one of all that is traced."""
    plain = jaxbn.batch_norm(momentum=0.5)
    norm = jaxbn.domain_norm(3, plain, affine=affine)
    state = {k: jnp.stack([v, v + 1, v + 2]) for k, v in STATE.items()}
    stacked = {k: jnp.stack([v, 2 * v, 3 * v]) for k, v in PARAMS.items()}
    params = stacked if affine == "per_domain" else PARAMS
    domain = jnp.asarray(RNG.integers(0, 2, 12))  # nobody from the third
    apply = jax.jit(functools.partial(norm.apply, train=train))
    y, new = apply(params, state, X, mask=mask, domain=domain)
    for k in range(3):
        own = {key: v[k] for key, v in stacked.items()}
        own = own if affine == "per_domain" else PARAMS
        before, here = {key: v[k] for key, v in state.items()}, np.asarray(domain) == k
        inside = None if mask is None else mask[here]
        expected, after = plain.apply(own, before, X[here], train, mask=inside)
        oracle.assert_close(np.asarray(y)[here], expected, 2e-6)
        assert_same({key: v[k] for key, v in new.items()}, after)
        whole, moved = apply(params, state, X, mask=mask, domain=jnp.int32(k))
        expected, after = plain.apply(own, before, X, train, mask=mask)
        oracle.assert_close(whole, expected, 2e-6)
        assert_same({key: v[k] for key, v in moved.items()}, after)
        others = np.array([i for i in range(3) if i != k])
        for key in state:
            np.testing.assert_array_equal(moved[key][others], state[key][others])


def test_gradients_of_domains_are_those_of_batch_norms():
    norm, plain = jaxbn.domain_norm(2, jaxbn.batch_norm()), jaxbn.batch_norm()
    state = {k: jnp.stack([v, v]) for k, v in STATE.items()}
    domain = jnp.arange(12) % 2
    _, _, (dparams, dx) = step(norm, state, True, domain=domain)

    def loss(params, x):
        ys = [plain.apply(params, STATE, x[i::2], True)[0] for i in (0, 1)]
        return sum(jnp.sum(y * COTANGENT[i::2]) for i, y in enumerate(ys))

    expected = jax.grad(loss, argnums=(0, 1))(PARAMS, X)
    assert_same((dparams, dx), expected, 1e-5)


@pytest.mark.parametrize("mask", [None, MASK])
def test_the_ends_of_adaptation(mask):
    """With an infinite prior it is evaluation, without one the batch's statistics."""
    plain = jaxbn.batch_norm()
    for options in (
        {"prior_count": np.inf},
        {"adapt_mean": False, "adapt_var": False},
    ):
        never = step(jaxbn.adaptive_norm(**options), STATE, False, mask=mask)
        assert_same(never, step(plain, STATE, False, mask=mask), 0)
    alone, state, grads = step(
        jaxbn.adaptive_norm(prior_count=0.0), STATE, False, mask=mask
    )
    expected, _, wanted = step(plain, STATE, True, mask=mask)
    assert_same((alone, grads), (expected, wanted), 1e-5)
    assert_same(state, STATE, 0)
    trained = step(jaxbn.adaptive_norm(), STATE, True, mask=mask)
    assert_same(trained, step(plain, STATE, True, mask=mask), 0)


@pytest.mark.parametrize("constant_affine", [False, True])
@pytest.mark.parametrize("train", [True, False])
def test_frozen_is_evaluation(constant_affine, train):
    expected, _, (dparams, dx) = step(jaxbn.batch_norm(), STATE, False)
    norm = jaxbn.frozen_norm(constant_affine=constant_affine)
    if constant_affine:
        y, new = norm.apply({}, {**STATE, **PARAMS}, X, train)
        oracle.assert_close(y, expected, 2e-6)
        assert set(new) == {"mean", "var", "scale", "bias"}
        return
    y, new, grads = step(norm, STATE, train)
    assert_same((y, grads), (expected, (dparams, dx)), 5e-6)
    apart, _, _ = step(jaxbn.frozen_norm(fold=False), STATE, train)
    np.testing.assert_array_equal(apart, expected)


def test_shuffled_over_all_devices_with_sync_is_batch_norm(mesh):
    norm = jaxbn.batch_norm(axis_name="devices")
    mixed = jaxbn.shuffled(norm, axis_name="devices")
    (params, state), (_, counted) = norm.init(4), mixed.init(4)
    x = jnp.asarray(RNG.normal(size=(8, 8, 3, 4)), jnp.float32)
    apply = lambda n, s: lambda p, x: n.apply(p, s, x, True)
    y, new = spread(apply(mixed, counted), "typed shard_map", mesh, 1)(params, x)
    expected, after = spread(apply(norm, state), "typed shard_map", mesh, 1)(params, x)
    oracle.assert_close(y, expected, 5e-6)
    assert_same({k: new[k] for k in after}, after)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("masked", [False, True])
def test_joint_is_the_concatenation(train, masked):
    cuts = [X[:2], X[2:3], X[3:]]
    masks = [MASK[:2], None, MASK[3:]] if masked else None
    whole = np.concatenate([MASK[:2], np.ones((1, 3), bool), MASK[3:]])
    options = {"momentum": 0.5, "unbiased": True}

    def joint(params, x):
        parts = [x[:2], x[2:3], x[3:]]
        ys, new = jaxbn.apply_jointly(
            params, STATE, parts, train, masks=masks, **options
        )
        return jnp.sum(jnp.concatenate(ys) * COTANGENT), (jnp.concatenate(ys), new)

    found = jax.jit(jax.grad(joint, argnums=(0, 1), has_aux=True))(PARAMS, X)
    plain = jaxbn.batch_norm(**options)
    y, new, grads = step(plain, STATE, train, mask=whole if masked else None)
    assert_same(found, (grads, (y, new)), 1e-5)
    assert len(cuts) == 3


def test_joint_arrays_of_other_ranks_over_devices(mesh):
    """A pyramid's levels: [N, 2, 3, C] and [N, C], on eight devices, at 1e4."""
    large = 1e4 + RNG.normal(size=(8, 2, 2, 3, 4)).astype(np.float32)
    small = 1e4 + RNG.normal(1, 2, size=(8, 2, 4)).astype(np.float32)

    def local(params, large, small):
        xs = large, small
        return jaxbn.apply_jointly(params, STATE, xs, True, axis_name="devices")

    (a, b), new = spread(local, "typed shard_map", mesh, 2)(PARAMS, large, small)
    rows = np.concatenate([large.reshape(-1, 4), small.reshape(-1, 4)])
    expected, after = oracle.bn_apply(PARAMS, STATE, rows, True)
    found = np.concatenate([np.reshape(a, (-1, 4)), np.reshape(b, (-1, 4))])
    oracle.assert_close(found, expected, 1e-4)
    for key in after:
        oracle.assert_close(new[key][5], after[key], 1e-6)


@pytest.mark.parametrize("wrapper", [None, "jit", "explicit jit"])
def test_renorm_of_several_batches_in_an_array_is_that_of_each(wrapper, mesh):
    """Ghost batches on one device, and pairs of devices under jit over a mesh."""
    free = {
        "warmup_steps": 0,
        "r_steps": 8,
        "d_steps": 8,
        "normalization_batch_size": 4,
    }
    axis = {} if wrapper is None else {"axis_name": "devices"}
    norm, alone = jaxbn.batch_renorm(**free, **axis), jaxbn.batch_renorm(**free)
    x = jnp.asarray(RNG.normal(3, 2, (16, 3, 4)), jnp.float32)
    keep = jnp.asarray(RNG.random((16, 3)) < 0.8)

    def run(x, keep):
        return jax.grad(
            lambda x: jnp.sum(norm.apply(PARAMS, COUNTED, x, True, mask=keep)[0] ** 3)
        )(x), norm.apply(PARAMS, COUNTED, x, True, mask=keep)[0]

    with in_context(wrapper, mesh):
        dx, y = jax.jit(run)(*lay((x, keep), wrapper, mesh))
        dx, y = np.asarray(dx), np.asarray(y)
    for i in range(0, 16, 4):
        part = slice(i, i + 4)

        def one(x, part=part):
            y, _ = alone.apply(PARAMS, COUNTED, x, True, mask=keep[part])
            return jnp.sum(y**3), y

        expected, wanted = jax.grad(one, has_aux=True)(x[part])
        oracle.assert_close(y[part], wanted, 5e-6)
        oracle.assert_close(dx[part], expected, 2e-5)
