"""The oracle against itself: hand-made numbers, identities and finite differences."""

import ast
import pathlib

import numpy as np
import oracle
import pytest


def random_array(seed, shape, *, imaginary=False):
    rng = np.random.default_rng(seed)
    x = rng.normal(1.0, 2.0, shape)
    return x + 1j * rng.normal(-0.5, 1.0, shape) if imaginary else x


def random_params(seed, shape, *, imaginary=False):
    scale = random_array(seed, shape, imaginary=imaginary)
    return {"scale": scale, "bias": random_array(seed + 1, shape, imaginary=imaginary)}


def test_it_imports_nothing_but_numpy():
    tree = ast.parse(pathlib.Path(oracle.__file__).read_text())
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imports] == ["import numpy as np"]


def test_by_hand():
    params = {"scale": np.array([2.0]), "bias": np.array([10.0])}
    _, state = oracle.bn_init(1)
    x = np.array([[1.0], [3.0], [5.0], [7.0]])  # mean 4, var 5
    y, new = oracle.bn_apply(params, state, x, True, momentum=0.5, epsilon=4.0)
    np.testing.assert_allclose(y, [[8.0], [28 / 3], [32 / 3], [12.0]])
    assert new["mean"] == 2 and new["var"] == 3
    y, same = oracle.bn_apply(params, new, x, False, epsilon=1.0)
    np.testing.assert_allclose(y, [[9.0], [11.0], [13.0], [15.0]])
    assert same is new


def test_running_averages_by_hand():
    batches = [np.array([[0.0], [2.0]]), np.array([[4.0], [8.0]])]  # 1, 1 and 6, 4

    def run(**options):
        _, state = oracle.bn_init(1, counts=True)
        for x in batches:
            _, state = oracle.bn_apply({}, state, x, True, **options)
        return state["mean"][0], state["var"][0], state["count"][0]

    assert run(momentum=None) == (3.5, 2.5, 2)
    assert run(momentum=0.5) == (3.25, 2.5, 0)
    mean, var, count = run(momentum=0.5, debias=True)
    np.testing.assert_allclose((mean, var, count), (13 / 3, 3.0, 2))
    assert run(momentum=0.5, unbiased=True) == (3.25, 4.75, 0)


def test_debiased_is_the_zero_started_average_over_its_weight():
    m, moving, weight = 0.9, 0.0, 0.0
    _, state = oracle.bn_init(3, counts=True)
    for step in range(5):
        x = random_array(step, (7, 3))
        moving = m * moving + (1 - m) * x.mean(0)
        weight = m * weight + (1 - m)
        _, state = oracle.bn_apply({}, state, x, True, momentum=m, debias=True)
        np.testing.assert_allclose(state["mean"], moving / weight, rtol=1e-13)


def test_switches():
    params, state = oracle.bn_init(2)
    x = random_array(0, (5, 2))
    y, new = oracle.bn_apply(params, state, x, True, use_running_average=True)
    np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-5))
    np.testing.assert_allclose(new["mean"], 0.01 * x.mean(0))
    y, new = oracle.bn_apply(params, state, x, True, update_stats=False)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-14)
    assert new is state
    _, new = oracle.bn_apply(params, state, x, False, update_stats=True)
    np.testing.assert_allclose(new["mean"], 0.01 * x.mean(0))


@pytest.mark.parametrize(
    ("shape", "axis", "rest"),
    [
        ((5,), -1, ()),
        ((6, 3), -1, (0,)),
        ((6, 3), 0, (1,)),
        ((4, 2, 3), 1, (0, 2)),
        ((2, 3, 4, 5), (1, -1), (0, 2)),
        ((2, 3, 4, 5), (-1, 1), (0, 2)),
        ((2, 3, 2, 2, 3), -1, (0, 1, 2, 3)),
        ((2, 3, 2, 2, 3), (0, 2, 4), (1, 3)),
    ],
)
def test_any_rank_and_axis_against_plain_means(shape, axis, rest):
    x = random_array(0, shape)
    features = tuple(n for a, n in enumerate(shape) if a not in rest)
    params, state = random_params(1, features), oracle.bn_init(features)[1]
    y, new = oracle.bn_apply(params, state, x, True, axis=axis, momentum=0.0)
    scale, bias = (np.expand_dims(params[k], rest) for k in ("scale", "bias"))
    mean, var = x.mean(rest, keepdims=True), x.var(rest, keepdims=True)
    expected = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(new["mean"], x.mean(rest), atol=1e-14)
    np.testing.assert_allclose(new["var"], x.var(rest), atol=1e-14)


def test_complex_variance_is_real():
    x = random_array(0, (9, 2), imaginary=True)
    params, state = oracle.bn_init(2, complex_mean=True)
    y, new = oracle.bn_apply(params, state, x, True, momentum=0.0, epsilon=0.0)
    assert new["var"].dtype == np.float64
    np.testing.assert_allclose(new["var"], np.var(x, 0))
    np.testing.assert_allclose(np.mean(np.abs(y) ** 2, 0), 1)


@pytest.mark.parametrize("mask_shape", [(4, 3), (4, 1), (1, 3), (4, 3, 2), (4, 1, 2)])
def test_masked_equals_removed(mask_shape):
    x = random_array(0, (4, 3, 2))
    mask = np.random.default_rng(1).random(mask_shape) < 0.6
    full = mask if mask.ndim == 3 else mask[..., None]
    full = np.broadcast_to(full, x.shape)
    params, state = random_params(2, 2), oracle.bn_init(2)[1]
    hidden = np.where(full, x, np.nan)
    y, new = oracle.bn_apply(params, state, hidden, True, mask=mask)
    assert np.all(y[~full] == 0)
    for c in range(2):
        alone = {key: value[c : c + 1] for key, value in params.items()}
        start = {key: value[c : c + 1] for key, value in state.items()}
        kept = x[..., c][full[..., c]][:, None]
        expected, after = oracle.bn_apply(alone, start, kept, True)
        np.testing.assert_allclose(y[..., c][full[..., c]][:, None], expected)
        np.testing.assert_allclose(new["mean"][c], after["mean"][0])


def test_weights_are_repetitions_and_a_scalar_mask_is_one_weight():
    x = random_array(0, (4, 3))
    weights = np.array([2.0, 0.0, 1.0, 3.0])
    params, state = random_params(1, 3), oracle.bn_init(3)[1]
    _, weighted = oracle.bn_apply(params, state, x, True, mask=weights, unbiased=True)
    repeated = np.repeat(x, weights.astype(int), axis=0)
    _, new = oracle.bn_apply(params, state, repeated, True, unbiased=True)
    np.testing.assert_allclose(weighted["var"], new["var"])
    np.testing.assert_allclose(weighted["mean"], new["mean"])
    y, _ = oracle.bn_apply(params, state, x, True, mask=np.array(True))
    np.testing.assert_allclose(y, oracle.bn_apply(params, state, x, True)[0])


def test_nothing_counted_and_nothing_finite_keep_the_state():
    params, state = oracle.bn_init(2, counts=True)
    x = np.array([[np.inf, 1.0], [2.0, 3.0]])
    _, new = oracle.bn_apply(params, state, x, True, momentum=None)
    assert new["mean"].tolist() == [0, 2] and new["count"].tolist() == [0, 1]
    options = {"momentum": 0.5, "skip_nonfinite": False}
    _, poisoned = oracle.bn_apply(params, state, x, True, **options)
    assert poisoned["mean"][0] == np.inf
    for batch, mask in [(x, np.zeros(2, bool)), (np.zeros((0, 2)), None)]:
        y, new = oracle.bn_apply(params, state, batch, True, mask=mask, momentum=None)
        assert np.all(y == 0)
        assert all(np.array_equal(new[key], state[key]) for key in state)


def test_groups_of_devices_are_batches_of_their_own():
    xs = [random_array(d, (n, 2)) for d, n in enumerate([3, 1, 4, 2])]
    masks = [np.arange(len(x)) != 1 for x in xs]
    params, state = random_params(9, 2), oracle.bn_init(2)[1]
    groups = [[0, 3], [1, 2]]
    ys, states = oracle.bn_apply_devices(
        params, [state] * 4, xs, True, masks=masks, groups=groups
    )
    for group in groups:
        pooled = np.concatenate([xs[d] for d in group])
        mask = np.concatenate([masks[d] for d in group])
        y, new = oracle.bn_apply(params, state, pooled, True, mask=mask)
        np.testing.assert_array_equal(np.concatenate([ys[d] for d in group]), y)
        for d in group:
            np.testing.assert_array_equal(states[d]["var"], new["var"])


@pytest.mark.parametrize("imaginary", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", ["none", "bool", "weights", "empty"])
def test_gradient_is_that_of_finite_differences(kind, train, imaginary):
    x = random_array(0, (5, 2, 2), imaginary=imaginary)
    cotangent = random_array(1, x.shape, imaginary=imaginary)
    params = random_params(2, 2, imaginary=imaginary)
    state = {"mean": random_array(3, 2, imaginary=imaginary), "var": np.ones(2) * 0.7}
    mask = {
        "none": None,
        "bool": np.array([[1, 0], [1, 1], [0, 0], [1, 1], [0, 1]], bool),
        "weights": np.array([0.5, 0.0, 2.0, 1.0, 3.0])[:, None],
        "empty": np.zeros((5, 2), bool),
    }[kind]

    def loss(x, scale, bias):
        params = {"scale": scale, "bias": bias}
        y, _ = oracle.bn_apply(params, state, x, train, mask=mask)
        return np.sum(cotangent * y).real

    scale, bias = params["scale"], params["bias"]
    analytic = oracle.bn_gradient(params, state, x, cotangent, train, mask=mask)
    numeric = (
        oracle.finite_differences(lambda x: loss(x, scale, bias), x),
        oracle.finite_differences(lambda scale: loss(x, scale, bias), scale),
        oracle.finite_differences(lambda bias: loss(x, scale, bias), bias),
    )
    for ours, theirs in zip(analytic, numeric, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8)


def test_gradient_over_groups_of_devices():
    xs = [random_array(d, (n, 2)) for d, n in enumerate([2, 3, 1])]
    cotangents = [random_array(d + 5, x.shape) for d, x in enumerate(xs)]
    masks = [None, np.array([1.0, 0.0, 2.0]), np.zeros(1)]
    params, state = random_params(9, 2), oracle.bn_init(2)[1]
    groups, states = [[1, 0], [2]], [state] * 3
    options = {"masks": masks, "groups": groups}

    def loss(params, xs):
        ys, _ = oracle.bn_apply_devices(params, states, xs, True, **options)
        return sum(np.sum(c * y) for c, y in zip(cotangents, ys, strict=True))

    dxs, dscales, dbiases = oracle.bn_gradient_devices(
        params, states, xs, cotangents, True, **options
    )
    for d in range(3):
        numeric = oracle.finite_differences(
            lambda x, d=d: loss(params, [*xs[:d], x, *xs[d + 1 :]]), xs[d]
        )
        np.testing.assert_allclose(dxs[d], numeric, atol=1e-8)
    for key, parts in (("scale", dscales), ("bias", dbiases)):
        numeric = oracle.finite_differences(
            lambda v, key=key: loss({**params, key: v}, xs), params[key]
        )
        np.testing.assert_allclose(sum(parts), numeric, atol=1e-8)
