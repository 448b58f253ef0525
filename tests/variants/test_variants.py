"""What is particular to one variant, and what each of them refuses."""

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
from jaxbn.variants._domain import pool_domains
from jaxbn.variants._ghost import group_sizes

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(3, 2, (6, 5, 4)), jnp.float32)
DATA = np.asarray(X)
PLAIN = jaxbn.batch_norm()
PARAMS, STATE = PLAIN.init(4)


@pytest.mark.parametrize("examples", [1, 2, 7, 12])
@pytest.mark.parametrize("size", [1, 3, 12, 50])
def test_ghosts_share_out_all_examples(examples, size):
    by_size = group_sizes(examples, size, None)
    by_number = group_sizes(examples, None, size)
    assert sum(by_size) == sum(by_number) == examples
    assert set(by_size[:-1]) <= {size} and 0 < by_size[-1] <= size
    assert len(by_number) == min(size, examples)
    assert max(by_number) - min(by_number) <= 1
    assert by_number == sorted(by_number, reverse=True)


def test_a_ghost_does_not_see_the_others():
    norm = jaxbn.ghost_norm(size=4)
    y, new = norm.apply(PARAMS, STATE, X, True)
    bad, _ = norm.apply(PARAMS, STATE, X.at[4:].set(jnp.nan), True)
    np.testing.assert_array_equal(bad[:4], y[:4])
    _, whole = PLAIN.apply(PARAMS, STATE, X, True)
    for key in new:  # Also the variance between the ghosts.
        oracle.assert_close(new[key], whole[key], 1e-6)
    eager = jaxbn.linen.Norm(norm, use_running_average=False)
    started = eager.init(jax.random.key(0), X[:3])["batch_stats"]
    np.testing.assert_array_equal(started["var"], 1)


def test_an_unseen_domain_has_the_pooled_statistics():
    norm = jaxbn.domain_norm(3, jaxbn.batch_norm(momentum=None))
    params, state = norm.init(4)
    for domain, x in ((0, X), (1, X + 3)):
        _, state = norm.apply(params, state, x, True, domain=domain)
    both = np.concatenate([X, X + 3])
    expected = (both - both.mean((0, 1))) / np.sqrt(both.var((0, 1)) + 1e-5)
    for domain in (None, -1, 3, jnp.full(6, 7)):
        y, same = norm.apply(params, state, X, False, domain=domain)
        oracle.assert_close(y, expected[:6], 1e-5)
        assert same is state
    pooled = pool_domains(state)
    oracle.assert_close(pooled["var"], both.var((0, 1)), 1e-5)
    y, new = norm.apply(params, state, X, True, domain=-1)
    oracle.assert_close(y, PLAIN.apply(PARAMS, STATE, X, True)[0], 2e-6)
    jax.tree.map(np.testing.assert_array_equal, new, state)


def test_domains_through_the_flax_modules():
    norm = jaxbn.domain_norm(2, jaxbn.batch_norm(momentum=0.5))
    domain = jnp.array([0, 1, 1, 0, 1, 0])
    params, state = norm.init(4)
    y, new = norm.apply(params, state, X, True, domain=domain)
    layer = jaxbn.linen.Norm(norm)
    how = {"domain": domain, "use_running_average": False}
    variables = layer.init(jax.random.key(0), X, **how)
    found, updates = layer.apply(variables, X, **how, mutable=["batch_stats"])
    np.testing.assert_array_equal(found, y)
    jax.tree.map(np.testing.assert_array_equal, dict(updates["batch_stats"]), new)
    layer = jaxbn.nnx.Norm(4, norm, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(layer(X, domain=domain), y)
    np.testing.assert_array_equal(layer.mean[...], new["mean"])


def test_split_trains_each_part_and_evaluates_as_the_first():
    norm = jaxbn.split_norm(jaxbn.batch_norm(momentum=0.5))
    params, state = norm.init(4)
    params["bias"] = params["bias"].at[1].set(7.0)
    y, new = norm.apply(params, state, X, True)
    for i, part in enumerate((slice(0, 3), slice(3, 6))):
        own = {k: v[i] for k, v in params.items()}
        expected, after = oracle.bn_apply(own, STATE, X[part], True, momentum=0.5)
        oracle.assert_close(y[part], expected, 2e-6)
        for key in after:
            oracle.assert_close(new[key][i], after[key], 1e-6)
    y, same = norm.apply(params, new, X, False)
    expected, _ = oracle.bn_apply(PARAMS, {k: v[0] for k, v in new.items()}, X, False)
    oracle.assert_close(y, expected, 2e-6)
    assert same is new


@pytest.mark.parametrize(("mean", "var"), [(True, False), (False, True)])
def test_only_one_of_the_statistics_adapts(mean, var):
    norm = jaxbn.adaptive_norm(prior_count=0.0, adapt_mean=mean, adapt_var=var)
    state = {"mean": jnp.full(4, 1.0), "var": jnp.full(4, 9.0)}
    y, _ = norm.apply(PARAMS, state, X, False)
    means = np.mean(DATA, (0, 1)) if mean else 1.0
    variances = np.var(DATA, (0, 1)) if var else 9.0
    oracle.assert_close(y, (DATA - means) / np.sqrt(variances + 1e-5), 1e-5)


def test_limits_of_renormalization_have_the_digits_of_the_data(x64):
    limits = {"r_max": 3.0, "d_max": 0.0, "warmup_steps": 0, "r_steps": 0, "d_steps": 1}
    norm, wide = jaxbn.batch_renorm(**limits, epsilon=1e-12), DATA.astype(np.float64)
    params, state = norm.init(4)
    with x64():
        state = {"mean": jnp.zeros(4, float), "var": jnp.full(4, 1e6, float)}
        state["count"] = jnp.full(4, 9, jnp.float32)
        y, _ = norm.apply(params, state, jnp.asarray(wide), True)
    expected = (wide - np.mean(wide, (0, 1))) / np.std(wide, (0, 1)) / 3
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_a_variance_far_below_the_running_one_keeps_its_digits(prior):
    x = 1e-3 * np.random.default_rng(0).normal(size=(8192, 3)).astype(np.float32)
    norm = jaxbn.adaptive_norm(prior_count=prior, adapt_mean=False, epsilon=1e-12)
    params, state = norm.init(3)
    y, _ = norm.apply(params, state, jnp.asarray(x), False)
    wide = x.astype(np.float64)
    var = (prior + len(x) * np.var(wide, 0)) / (prior + len(x))
    np.testing.assert_allclose(y, wide / np.sqrt(var + 1e-12), rtol=1e-5, atol=1e-5)


def test_a_stream_moves_the_statistics_before_it_is_normalized():
    norm = jaxbn.adaptive_norm(prior_count=np.inf, stream_momentum=0.75)
    y, new = norm.apply(PARAMS, STATE, X, False, update_stats=True)
    mean = 0.25 * np.mean(DATA, (0, 1))
    var = 0.75 + 0.25 * np.var(DATA, (0, 1))
    oracle.assert_close(new["mean"], mean, 1e-6)
    oracle.assert_close(y, (DATA - mean) / np.sqrt(var + 1e-5), 1e-5)
    assert norm.apply(PARAMS, STATE, X, False)[1] is STATE
    layer = jaxbn.nnx.Norm(4, norm, use_running_average=True, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(layer(X, update_stats=True), y)
    np.testing.assert_array_equal(layer.mean[...], new["mean"])


def test_norms_without_a_batch_are_those_of_flax():
    key = jax.random.key(0)
    pairs = (
        (jaxbn.group_norm(2), nn.GroupNorm(2, epsilon=1e-5)),
        (jaxbn.layer_norm(), nn.LayerNorm(epsilon=1e-5)),
        (jaxbn.instance_norm(), nn.InstanceNorm(epsilon=1e-5)),
        (jaxbn.layer_norm(over_positions=True), nn.GroupNorm(1, epsilon=1e-5)),
    )
    for ours, theirs in pairs:
        params, state = ours.init(4)
        params["bias"] += 2
        y, same = ours.apply(params, state, X, True)
        assert same is state and state == {}
        assert theirs.init(key, X)["params"].keys() == params.keys()
        oracle.assert_close(y, theirs.apply({"params": params}, X), 1e-5)
    first = jaxbn.group_norm(2, axis=0).apply({}, {}, jnp.moveaxis(X, -1, 0), True)[0]
    last, _ = jaxbn.group_norm(2).apply({}, {}, X, True)
    oracle.assert_close(jnp.moveaxis(first, 0, -1), last, 1e-6)


@pytest.mark.parametrize(
    "norm",
    [jaxbn.group_norm(2), jaxbn.instance_norm(), jaxbn.layer_norm(over_positions=True)],
)
def test_norms_without_a_batch_do_not_see_what_is_masked(norm):
    params, state = norm.init(4)
    mask = np.arange(5) < np.array([[5], [4], [3], [2], [1], [0]])
    x = jnp.where(mask[..., None], X + 1e4, jnp.nan)
    y, _ = norm.apply(params, state, x, True, mask=mask)
    grads = jax.grad(lambda x: norm.apply(params, state, x, True, mask=mask)[0].sum())
    assert np.isfinite(grads(x)).all()
    for i in range(5):
        kept = x[i : i + 1, : 5 - i]
        expected, _ = norm.apply(params, state, kept, True)
        oracle.assert_close(y[i, : 5 - i], expected[0], 1e-5)
        assert not np.any(y[i, 5 - i :])
    assert not np.any(y[5])


def test_no_norm_does_nothing():
    params, state = jaxbn.no_norm().init(4)
    y, _ = jaxbn.no_norm().apply(params, state, X, True)
    np.testing.assert_array_equal(y, X)
    norm = jaxbn.no_norm(use_bias=True)
    params, state = norm.init(4)
    y, _ = norm.apply({"bias": params["bias"] + 1}, state, X, True, mask=X > 3)
    np.testing.assert_array_equal(y, jnp.where(X > 3, X + 1, 0))


def test_kernels_are_standardized_where_they_are_convolutions():
    model = nn.Sequential([nn.Conv(4, (3, 3)), nn.Dense(2)])
    params = model.init(jax.random.key(0), jnp.ones((1, 5, 5, 2)))["params"]
    new = jaxbn.standardize_kernels(params)
    kernel = new["layers_0"]["kernel"]
    assert kernel.dtype == jnp.float32
    np.testing.assert_allclose(np.mean(kernel, (0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(np.var(kernel, (0, 1, 2)), 1, rtol=1e-3)
    assert new["layers_1"] is not None
    np.testing.assert_array_equal(
        new["layers_1"]["kernel"], params["layers_1"]["kernel"]
    )
    state = nnx.state(nnx.Conv(2, 4, (3, 3), rngs=nnx.Rngs(0)), nnx.Param)
    again = jaxbn.standardize_kernels(state)
    np.testing.assert_allclose(np.mean(again["kernel"][...], (0, 1, 2)), 0, atol=1e-6)


def test_other_kernels_are_chosen_by_path():
    """Attention's are of rank 3 too, and stay unless they are asked for."""
    attention = nn.MultiHeadDotProductAttention(num_heads=2)
    params = attention.init(jax.random.key(0), jnp.ones((1, 3, 4)))["params"]
    same = jaxbn.standardize_kernels(params)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    new = jaxbn.standardize_kernels(params, where=lambda path: "query" in path)
    np.testing.assert_allclose(np.mean(new["query"]["kernel"], (0, 1)), 0, atol=1e-6)
    np.testing.assert_array_equal(new["key"]["kernel"], params["key"]["kernel"])


@pytest.mark.parametrize("constant", [False, True])
def test_no_gradient_flows_into_what_is_frozen(constant):
    norm = jaxbn.frozen_norm(constant_affine=constant)
    params, state = norm.init(4)
    slope = jax.grad(lambda s: jnp.sum(norm.apply(params, s, X, True)[0] ** 2))(state)
    jax.tree.map(lambda a: np.testing.assert_array_equal(a, 0), slope)


def test_without_a_stream_nothing_moves_in_evaluation():
    norm = jaxbn.adaptive_norm()
    params, state = norm.init(4)
    _, new = norm.apply(params, state, X, False, update_stats=True)
    assert new is state


@pytest.mark.parametrize("inner", ["domain", "split"])
def test_domains_are_shuffled_with_their_examples(inner):
    plain = jaxbn.batch_norm(momentum=0.0)
    of_inner = {
        "domain": (jaxbn.domain_norm(2, plain), {"domain": jnp.arange(6) // 3}),
        "split": (jaxbn.split_norm(plain), {}),
    }
    norm, told = of_inner[inner]
    mixed = jaxbn.shuffled(norm)
    params, state = mixed.init(4)
    for _ in range(3):  # Each with another permutation.
        y, state = mixed.apply(params, state, X, True, **told)
        expected = norm.apply(*norm.init(4), X, True, **told)
        np.testing.assert_allclose(y, expected[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(state["mean"], expected[1]["mean"], rtol=1e-5)
    parts = mixed.parts(X, True, **told)
    np.testing.assert_array_equal(parts, norm.parts(X, True, **told))


def test_no_word_on_updates_is_the_default():
    domain = jnp.arange(6) % 2
    norm = jaxbn.domain_norm(2, jaxbn.batch_norm(momentum=0.0))
    params, state = norm.init(4)
    _, new = norm.apply(params, state, X, True, domain=domain, update_stats=None)
    assert np.abs(new["mean"]).min() > 0
    layer = jaxbn.nnx.Norm(4, jaxbn.batch_norm(momentum=0.0), rngs=nnx.Rngs(0))
    layer(X, update_stats=None)
    assert np.abs(layer.mean[...]).min() > 0


@pytest.mark.parametrize("norm", [jaxbn.split_norm(PLAIN), jaxbn.domain_norm(2, PLAIN)])
def test_parts_start_on_a_batch_of_any_size(norm):
    layer = jaxbn.linen.Norm(norm)
    variables = layer.init(jax.random.key(0), X[:1], use_running_average=False)
    assert variables["batch_stats"]["mean"].shape == (2, 4)


def test_constants_of_an_unseen_domain_are_averaged():
    frozen = jaxbn.frozen_norm(constant_affine=True, epsilon=0.0)
    norm = jaxbn.domain_norm(2, frozen)
    params, state = norm.init(1)
    state["bias"] = jnp.array([[2.0], [-4.0]])
    y, _ = norm.apply(params, state, jnp.zeros((1, 1)), False)
    np.testing.assert_array_equal(y, -1.0)


def test_arrays_together_move_the_statistics_in_evaluation_if_asked():
    xs = X[:2], X[2:]
    for train in (False, True):
        ys, state = jaxbn.apply_jointly(PARAMS, STATE, xs, train, update_stats=True)
        y, new = jaxbn.bn_apply(PARAMS, STATE, X, train, update_stats=True)
        np.testing.assert_allclose(jnp.concatenate(ys), y, rtol=1e-5, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), state, new)


@pytest.mark.usefixtures("eight_devices")
def test_arrays_over_a_mesh_are_those_of_all_devices():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("d",))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    xs = jax.device_put((X[:2], X[2:]), place)

    def run(xs):
        return jaxbn.apply_jointly(PARAMS, STATE, xs, True, axis_name="d")

    with jax.set_mesh(mesh):
        ys, state = jax.jit(run)(xs)
    expected, new = jaxbn.apply_jointly(PARAMS, STATE, (X[:2], X[2:]), True)
    np.testing.assert_allclose(ys[0], expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state["mean"], new["mean"], rtol=1e-5)


REFUSALS = {
    "ghost of nothing": (
        lambda: jaxbn.ghost_norm(),
        r"size is None and .*; size is",
    ),
    "ghost of both": (
        lambda: jaxbn.ghost_norm(size=2, num_groups=2),
        r"size is 2 and num_groups is 2, expected one of the two",
    ),
    "ghost of none": (lambda: jaxbn.ghost_norm(size=0), r"size is 0 .* an int from 1"),
    "ghost twice": (
        lambda: jaxbn.ghost_norm(size=2, normalization_batch_size=4),
        r"normalization_batch_size is 4 beside the groups .*; pass size",
    ),
    "renorm limits": (
        lambda: jaxbn.batch_renorm(r_max=0.5),
        r"r_max is 0.5 and d_max is 5.0, expected r_max >= 1 .* plain batch norm",
    ),
    "renorm steps": (
        lambda: jaxbn.batch_renorm(warmup_steps=9, r_steps=8),
        r"warmup_steps is 9, r_steps 8 .*; equal ones switch",
    ),
    "renorm biased": (
        lambda: jaxbn.batch_renorm(debias=False),
        r"debias is False, expected True: .*; leave it out",
    ),
    "no domains": (
        lambda: jaxbn.domain_norm(0, PLAIN),
        r"num_domains is 0, expected an int from 1 on",
    ),
    "whose affine": (
        lambda: jaxbn.domain_norm(2, PLAIN, affine="own"),
        r"affine is 'own', expected 'shared' or 'per_domain'",
    ),
    "no domain in training": (
        lambda: domain_apply(None),
        r"domain is None in training, .*; pass domain=",
    ),
    "domain shape": (
        lambda: domain_apply(jnp.zeros(5, int)),
        r"domain has shape \(5,\) .* integers of shape \(\) or \(6,\); pass one index",
    ),
    "domain dtype": (lambda: domain_apply(0.0), r"dtype float32, expected integers"),
    "parts": (
        lambda: split_apply(X[:5]),
        r"x has 5 examples, expected a multiple of num_splits, 2; pass domain",
    ),
    "prior": (
        lambda: jaxbn.adaptive_norm(prior_count=-1),
        r"prior_count is -1, expected a number >= 0 .*; 0 for",
    ),
    "groups": (
        lambda: jaxbn.group_norm(3).apply({}, {}, X, True),
        r"num_groups is 3 for 4 channels, expected a divisor of them; pass one",
    ),
    "groups of none": (
        lambda: jaxbn.group_norm(0),
        r"num_groups is 0, expected an int",
    ),
    "axis of a group": (
        lambda: jaxbn.group_norm(2, axis=4).apply({}, {}, X, True),
        r"axis 4 is out of range for x with 3 axes",
    ),
    "axes of a group": (
        lambda: jaxbn.layer_norm(axis=(-1, -2)),
        r"axis is \(-1, -2\), expected one int: .*; flatten",
    ),
    "half a domain": (lambda: jaxbn.domain_norm(2.5, PLAIN), r"num_domains is 2.5"),
    "stream": (
        lambda: jaxbn.adaptive_norm(stream_momentum=2.0),
        r"stream_momentum is 2.0, expected a number from 0 to 1, .*; None for",
    ),
    "state of an adaptive norm": (
        lambda: jaxbn.adaptive_norm().apply({}, {}, X, False),
        r"state has keys \[\], expected \['mean', 'var'\]",
    ),
    "traced train": (
        lambda: jax.jit(lambda t: jaxbn.ghost_norm(size=2).apply({}, STATE, X, t))(
            True
        ),
        r"train is .*, expected a Python bool",
    ),
    "joint of none": (
        lambda: jaxbn.apply_jointly(PARAMS, STATE, [], True),
        r"0 arrays and 0 masks, expected one mask an array, and an array; pass None",
    ),
    "joint masks": (
        lambda: jaxbn.apply_jointly(PARAMS, STATE, [X], True, masks=[None, None]),
        r"1 arrays and 2 masks",
    ),
    "adjusted apart": (
        lambda: adjust_stacked(),
        r"state \['mean', 'var'.*\] is stacked .*; merge it by merge_batch_stats",
    ),
}


def domain_apply(domain):
    norm = jaxbn.domain_norm(2, PLAIN)
    norm.apply(*norm.init(4), X, True, domain=domain)


def split_apply(x):
    norm = jaxbn.split_norm(PLAIN)
    norm.apply(*norm.init(4), x, True)


def adjust_stacked():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("d",))
    norm = jaxbn.batch_renorm(axis_name="d")
    params, state = norm.init(4)
    stacked = {k: jnp.stack([v, v]) for k, v in state.items()}
    with jax.set_mesh(mesh):
        jax.jit(lambda x: norm.apply(params, stacked, x, True))(X)


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses(name, request):
    if name == "adjusted apart":
        request.getfixturevalue("eight_devices")
    call, words = REFUSALS[name]
    with pytest.raises(ValueError, match=words):
        call()
