"""The laws, each written once and run for every row of the catalog that claims it."""

import contextlib
import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from catalog import PLAIN, ROWS, Law, rows_claiming, start
from flax import nnx
from hypothesis import strategies as st

import jaxbn
import jaxbn.linen
import jaxbn.nnx

# For all ranks; examples first. A row takes those that have its feature axes.
SHAPES = ((5,), (6, 3), (4, 3, 5), (3, 4, 2, 5), (2, 3, 2, 2, 3))
TOLERANCE = {  # of outputs; half precision rounds them to 2^-11 and 2^-9
    "float16": 1e-3,
    "bfloat16": 4e-3,
    "float32": 2e-5,
    "float64": 1e-10,
    "complex64": 2e-5,
}


def fits(row, shape):
    axes = np.atleast_1d(row.make().axis)
    inside = all(-len(shape) <= a < len(shape) for a in axes)
    return inside and len(set(axes % len(shape))) == len(axes)


def draw(seed, shape, dtype="float32", location=0.0, spread=1.0):
    """Returns random data, each channel (and whatever else lies last) elsewhere."""
    rng = np.random.default_rng(seed)
    x = location + spread * (rng.normal(size=shape) + rng.normal(size=shape[-1:]))
    if dtype.startswith("complex"):
        x = x + 1j * spread * rng.normal(size=shape)
    return jnp.asarray(x, dtype)


def rest_of(row, shape):
    """Returns `shape` without the feature axes of `row`."""
    features = oracle.feature_axes(row.make().axis, len(shape))
    return tuple(n for a, n in enumerate(shape) if a not in features)


def by_example(row, x, keep):
    """Returns a mask of one value an example, shaped for `x`."""
    return jnp.asarray(keep).reshape(-1, *[1] * (len(rest_of(row, x.shape)) - 1))


@functools.cache
def compiled(row, param_dtype="float32"):
    """Returns `step(params, state, x, mask) -> y, new_state, y_eval`, compiled."""
    norm = row.make(param_dtype=param_dtype)

    @jax.jit
    def step(params, state, x, mask=None):
        y, new = norm.apply(params, state, x, True, mask=mask)
        return y, new, norm.apply(params, new, x, False, mask=mask)[0]

    return norm, step


@functools.cache
def gradients(row, train):
    """Returns `f(params, state, x, cotangent, mask) -> y, dparams, dx`, compiled."""
    norm = row.make()

    @jax.jit
    def pull(params, state, x, cotangent, mask=None):
        def forward(params, x):
            return norm.apply(params, state, x, train, mask=mask)[0]

        y, pullback = jax.vjp(forward, params, x)
        return (y, *pullback(cotangent))

    return pull


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_near(actual, expected, tolerance):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: oracle.assert_close(a, b, tolerance), actual, expected)


def of_dtypes():
    """Parametrizes by row and dtype: plain ones all, a variant those that differ."""
    return pytest.mark.parametrize(
        ("row", "dtype"),
        [
            pytest.param(row, dtype, id=f"{dtype}-{row.name}")
            for row in ROWS
            if Law.ORACLE in row.laws
            for dtype in TOLERANCE
            if row.modules is not None or dtype in ("bfloat16", "float64", "complex64")
        ],
    )


# Each row and dtype takes two pairs of shape and kind of mask, other ones each time, so
# that all pairs are met and the examples of one test share two programs.
@of_dtypes()
@hypothesis.given(
    case=st.integers(0, 1),
    seed=st.integers(0, 2**32 - 1),
    location=st.sampled_from([0.0, -3.0, 30.0]),
    spread=st.sampled_from([0.5, 1.0, 5.0]),
)
def test_agrees_with_the_oracle(x64, row, dtype, case, seed, location, spread):
    shapes = [shape for shape in SHAPES if fits(row, shape)]
    turn = 2 * ROWS.index(row) + 5 * list(TOLERANCE).index(dtype) + case
    kind, shape = turn % 3, shapes[turn % len(shapes)]
    rng = np.random.default_rng(seed)
    with x64() if dtype == "float64" else contextlib.nullcontext():
        norm, step = compiled(row, dtype if dtype[-2:] == "64" else "float32")
        draws = [draw(seed + k, shape, dtype, location, spread) for k in range(3)]
        params, state = start(norm, draws[0], seed % 7)
        theirs = jax.tree.map(oracle.wide, state)
        for x in draws:
            mask = (
                None,
                rng.random(rest_of(row, shape)) < 0.7,
                rng.integers(0, 5, shape) / np.float32(2),
            )[kind]
            y, state, y_eval = step(params, state, x, mask)
            expected, theirs = row.expected(params, theirs, x, True, mask)
            assert y.dtype == y_eval.dtype == x.dtype
            oracle.assert_close(y, expected, TOLERANCE[dtype])
            for key in theirs:
                tolerance = 1e-10 if dtype == "float64" else 1e-5
                oracle.assert_close(state[key], theirs[key], tolerance)
            expected, _ = row.expected(params, theirs, x, False, mask)
            oracle.assert_close(y_eval, expected, TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("axis", "mask_shape"),
    [
        (-1, ()),
        (-1, (4, 1)),
        (-1, (4, 3)),
        (-1, (1, 3)),
        (-1, (4, 3, 1)),
        (-1, (1, 1, 5)),
        (-1, (4, 3, 5)),
        (1, (4, 5)),
        (1, (1, 5)),
        (1, (4, 1, 5)),
        ((-1, 1), (4,)),
        ((-1, 1), (1, 3, 1)),
    ],
)
@pytest.mark.parametrize("weights", [False, True], ids=["bool", "weights"])
def test_masks_of_every_shape(axis, mask_shape, weights):
    norm = jaxbn.batch_norm(axis=axis, momentum=0.5)
    x = draw(0, (4, 3, 5), location=3.0)
    params, state = start(norm, x)
    mask = np.random.default_rng(4).integers(0, 3, mask_shape) * np.float32(1.5)
    mask = mask if weights else mask > 0
    y, new = jax.jit(lambda mask: norm.apply(params, state, x, True, mask=mask))(mask)
    expected, theirs = oracle.bn_apply(
        params, state, x, True, mask=mask, axis=axis, momentum=0.5
    )
    oracle.assert_close(y, expected, 2e-5)
    for key in theirs:
        oracle.assert_close(new[key], theirs[key], 1e-5)


@rows_claiming(Law.EVAL)
def test_evaluation_returns_the_state_it_was_given(row):
    norm, x = row.make(), draw(0, (4, 3, 5))
    params, state = start(norm, x)
    held = dict(state)
    for mask in (None, jnp.zeros(x.shape, bool)):
        _, after = norm.apply(params, state, x, False, mask=mask)
        assert after is state
        assert all(state[key] is held[key] for key in held) and len(state) == len(held)


@rows_claiming(Law.SCAN)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_state_keeps_structure_shapes_and_dtypes(row, dtype, x64):
    with x64():
        norm, xs = row.make(), draw(0, (3, 4, 3, 5), dtype)
        params, state = start(norm, xs[0])
        new = jax.eval_shape(lambda x: norm.apply(params, state, x, True)[1], xs[0])
        assert jax.tree.structure(new) == jax.tree.structure(state)
        for key in state:
            assert new[key].shape == state[key].shape
            assert new[key].dtype == state[key].dtype
            assert not new[key].weak_type
        if dtype != "float32":
            return
        scanned, _ = jax.lax.scan(
            lambda s, x: norm.apply(params, s, x, True)[::-1], state, xs
        )
        _, step = compiled(row)
        for x in xs:
            _, state, _ = step(params, state, x)
        assert_near(scanned, state, 1e-6)


@rows_claiming(Law.PERMUTING)
def test_permuting_examples_permutes_outputs(row):
    norm, step = compiled(row)
    x = draw(0, (6, 3, 5), location=3.0)
    params, state = start(norm, x)
    order = np.random.default_rng(1).permutation(6)
    keep = np.array([1, 1, 0, 1, 1, 0], bool)
    y, new, y_eval = step(params, state, x, by_example(row, x, keep))
    moved = step(params, state, x[order], by_example(row, x, keep[order]))
    assert_near(moved, (y[order], new, y_eval[order]), 2e-6)


@rows_claiming(Law.CHANNELS)
@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
def test_channels_do_not_talk(row, poison):
    norm, step = compiled(row)
    x = draw(0, (6, 3, 5), location=3.0)
    params, state = start(norm, x)
    features = oracle.feature_axes(norm.axis, x.ndim)
    here = tuple(1 if a in features else slice(None) for a in range(x.ndim))
    channel = (1,) * len(features)
    clean = step(params, state, x)
    dirty = step(params, state, x.at[here].set(poison))
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        at = here if a.ndim == x.ndim else channel
        np.testing.assert_array_equal(a.at[at].set(0), b.at[at].set(0))


@rows_claiming(Law.NONFINITE)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_non_finite_channel_keeps_its_state(row, poison):
    norm, step = compiled(row)
    first, x = draw(0, (2, 6, 3, 5), location=3.0)
    params, state = start(norm, x)
    _, state, _ = step(params, state, first)
    _, new, _ = step(params, state, x.at[0, 1, 2].set(poison))
    channel = tuple((0, 1, 2)[a] for a in oracle.feature_axes(norm.axis, x.ndim))
    for key in state:
        assert new[key][channel] == state[key][channel]
        changed = np.asarray(new[key] != state[key])
        assert changed.sum() == changed.size - 1


@rows_claiming(Law.AFFINE)
def test_a_linear_map_of_a_channel_normalizes_to_the_same(row):
    norm, step = compiled(row)
    x = draw(0, (6, 3, 5), spread=100.0)  # epsilon is nothing against this variance
    params, state = start(norm, x)
    features = oracle.feature_axes(norm.axis, x.ndim)
    shape = [n if a in features else 1 for a, n in enumerate(x.shape)]
    rng = np.random.default_rng(1)
    a = jnp.asarray(rng.uniform(0.5, 4.0, shape), x.dtype)
    b = jnp.asarray(rng.uniform(-1e3, 1e3, shape), x.dtype)
    y, _, _ = step(params, state, x)
    again, _, _ = step(params, state, a * x + b)
    oracle.assert_close(again, y, 1e-5)


@rows_claiming(Law.MASKED)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("behind", [np.nan, np.inf, 1e30])
def test_masked_equals_removed(row, train, behind):
    norm, step = compiled(row)
    pull = gradients(row, train)
    keep = np.array([1, 0, 1, 1, 0, 1], bool)
    clean, cotangent = draw(0, (6, 3, 5), location=3.0), draw(1, (6, 3, 5))
    x = clean.at[~keep].set(behind)
    params, state = start(norm, x)
    mask = by_example(row, x, keep)

    y, new, _ = step(params, state, x, mask)
    expected, after, _ = step(params, state, clean[keep])
    assert_near(new, after, 2e-6)
    assert np.all(y[~keep] == 0)
    oracle.assert_close(y[keep], expected, 2e-5)

    hidden = cotangent.at[~keep].set(behind)
    y, dparams, dx = pull(params, state, x, hidden, mask)
    expected = pull(params, state, clean[keep], cotangent[keep])
    assert_near((y[keep], dparams, dx[keep]), expected, 2e-5)
    assert np.all(y[~keep] == 0) and np.all(dx[~keep] == 0)


@rows_claiming(Law.WEIGHTS)
def test_a_weight_of_k_equals_k_copies(row):
    norm, step = compiled(row)
    x = draw(0, (4, 3, 5), location=3.0)
    params, state = start(norm, x)
    copies = np.array([2, 1, 0, 3])
    weights = by_example(row, x, copies.astype(np.float32))
    y, new, _ = step(params, state, x, weights)
    expected, after, _ = step(params, state, jnp.repeat(x, copies, axis=0))
    assert_near(new, after, 2e-6)
    oracle.assert_close(jnp.repeat(y, copies, axis=0), expected, 2e-5)


@rows_claiming(Law.WEIGHTS)
def test_what_hardly_counts_hardly_matters(row):
    """However far off it lies, and though it comes first."""
    norm, step = compiled(row)
    x = draw(0, (256, 3, 4)).at[0].set(1e4)
    params, state = start(norm, x)
    weights = by_example(row, x, np.r_[1e-6, np.ones(255)].astype(np.float32))
    y, new, _ = step(params, state, x, weights)
    expected, theirs = row.expected(params, state, x, True, weights)
    oracle.assert_close(y[1:], expected[1:], 1e-4)
    assert_near(new, theirs, 1e-4)


@rows_claiming(Law.NOTHING)
@pytest.mark.parametrize("kind", ["empty", "all masked", "no weight"])
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_nothing_counted_is_finite_and_keeps_the_state(row, kind, train):
    norm, step = compiled(row)
    full = draw(0, (6, 3, 5), location=3.0)
    params, state = start(norm, full)
    _, state, _ = step(params, state, full)
    x = full[:0] if kind == "empty" else full.at[0].set(jnp.nan)
    keep = {"empty": None, "all masked": [False] * 6, "no weight": [0.0] * 6}[kind]
    mask = None if keep is None else by_example(row, x, keep)
    y, new, y_eval = step(params, state, x, mask)
    assert y.shape == x.shape and np.all(y == 0) and np.all(y_eval == 0)
    assert_same(new, state)
    _, dparams, dx = gradients(row, train)(params, state, x, jnp.ones_like(x), mask)
    assert dx.shape == x.shape and np.all(dx == 0)
    assert_same(dparams, jax.tree.map(jnp.zeros_like, params))


@rows_claiming(Law.SINGLE)
def test_one_element_per_channel_gives_the_bias(row):
    norm, step = compiled(row)
    for full in [shape for shape in SHAPES if fits(row, shape)]:
        features = oracle.feature_axes(norm.axis, len(full))
        shape = tuple(n if a in features else 1 for a, n in enumerate(full))
        x = draw(0, shape, location=3.0)
        params, state = start(norm, x)
        y, new, _ = step(params, state, x)
        bias = params.get("bias", jnp.zeros(state["mean"].shape))
        np.testing.assert_array_equal(y, bias.reshape(shape))
        _, expected = row.expected(params, state, x, True)
        assert_near(new, expected, 1e-6)


@rows_claiming(Law.OFFSET)
@pytest.mark.parametrize("shape", [(256, 3, 4), (16, 3, 8, 2)])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_an_offset_of_1e4_survives_the_first_step(row, shape, masked):
    norm, step = compiled(row)
    x = draw(0, shape, location=1e4, spread=2.0)
    params, state = start(norm, x)
    mask = np.random.default_rng(2).random(rest_of(row, shape)) < 0.8
    mask = mask if masked else None
    y, new, _ = step(params, state, x, mask)
    expected, theirs = row.expected(params, state, x, True, mask)
    assert np.abs(oracle.wide(y) - expected).max() < 1e-4
    moved = theirs["var"] - 1
    assert np.abs((oracle.wide(new["var"]) - theirs["var"]) / moved).max() < 1e-4
    oracle.assert_close(new["mean"], theirs["mean"], 1e-6)


@rows_claiming(Law.HALF)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_in_and_out_with_float32_statistics(row, dtype):
    norm, step = compiled(row)
    # 4096 elements of a channel near 100: half precision could not even count them.
    x = draw(0, (1024, 3, 4), dtype, location=100.0, spread=4.0)
    params, state = start(norm, x)
    y, new, y_eval = step(params, state, x)
    assert y.dtype == y_eval.dtype == dtype
    assert {str(value.dtype) for value in new.values()} <= {"float32"}
    expected, theirs = row.expected(params, state, x, True)
    oracle.assert_close(y, expected, TOLERANCE[dtype])
    assert_near(new, theirs, 1e-6)


@rows_claiming(Law.JIT)
def test_jit_equals_eager_and_compiles_once(row):
    norm, traces = row.make(), 0
    x = draw(0, (4, 3, 5), location=3.0)
    params, state = start(norm, x)
    eager_y, eager = norm.apply(params, state, x, True)

    @jax.jit
    def step(params, state, x):
        nonlocal traces
        traces += 1
        return norm.apply(params, state, x, True)

    y, new = step(params, state, x)
    assert_near((y, new), (eager_y, eager), 1e-6)
    for _ in range(9):
        y, new = step(params, new, x)
    assert traces == 1
    assert step._cache_size() == 1


@rows_claiming(Law.GRADIENT)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "weights"])
def test_gradient_is_that_of_finite_differences(row, train, masked, x64):
    rng = np.random.default_rng(3)
    with x64():
        norm = row.make(param_dtype="float64")
        x, cotangent = draw(0, (3, 2, 4), "float64"), draw(1, (3, 2, 4), "float64")
        params, state = start(norm, x)
        mask = rng.integers(0, 4, x.shape) * 0.5 if masked else None
        _, dparams, dx = gradients(row, train)(params, state, x, cotangent, mask)

        def loss(params, x):
            return np.sum(cotangent * row.expected(params, state, x, train, mask)[0])

        numeric = oracle.finite_differences(lambda x: loss(params, x), x)
        oracle.assert_close(dx, numeric, 1e-7)
        for key, value in params.items():
            numeric = oracle.finite_differences(
                lambda v, key=key: loss({**params, key: v}, x), value
            )
            oracle.assert_close(dparams[key], numeric, 1e-7)


def run_functional(norm, params, state, xs, mask):
    outputs = []
    for x in xs:
        y, state = norm.apply(params, state, x, True, mask=mask)
        outputs += [y, norm.apply(params, state, x, False, mask=mask)[0]]
    return outputs, state


def run_linen(layer, params, state, xs, mask):
    outputs = []
    for x in xs:
        variables = {"params": params, "batch_stats": state}
        y, new = layer.apply(variables, x, False, mask=mask, mutable=["batch_stats"])
        state = new["batch_stats"]
        variables["batch_stats"] = state
        outputs += [y, layer.apply(variables, x, True, mask=mask)]
    return outputs, dict(state)


def run_nnx(layer, params, state, xs, mask):
    for key, value in {**params, **state}.items():
        getattr(layer, key)[...] = value
    outputs = []
    for x in xs:
        outputs += [layer(x, False, mask=mask), layer(x, True, mask=mask)]
    return outputs, {key: getattr(layer, key)[...] for key in state}


@rows_claiming(Law.FLAX)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_functional_equals_linen_equals_nnx_bitwise(row, dtype):
    norm, rngs = row.make(), nnx.Rngs(0)
    xs = draw(0, (3, 4, 3, 5), dtype, location=3.0)
    params, state = start(norm, xs[0])
    num_features = tuple(xs[0].shape[a] for a in oracle.feature_axes(norm.axis, 3))
    mask = by_example(row, xs[0], [True, True, False, True])
    inputs = params, state, xs, mask
    expected = run_functional(norm, *inputs)

    assert_same(run_linen(jaxbn.linen.Norm(norm), *inputs), expected)
    assert_same(
        run_nnx(jaxbn.nnx.Norm(num_features, norm, rngs=rngs), *inputs), expected
    )
    if row.modules is not None:
        layer = jaxbn.linen.BatchNorm(**row.modules)
        assert_same(run_linen(layer, *inputs), expected)
        layer = jaxbn.nnx.BatchNorm(num_features, **row.modules, rngs=rngs)
        assert_same(run_nnx(layer, *inputs), expected)


def test_real_parameters_normalize_complex_data():
    norm = jaxbn.batch_norm(dtype=jnp.complex64)
    x = draw(0, (6, 3), "complex64", location=3.0)
    params, state = start(norm, x)
    assert params["scale"].dtype == jnp.float32
    y, new = norm.apply(params, state, x, True)
    expected, theirs = PLAIN.expected(params, state, x, True)
    assert y.dtype == new["mean"].dtype == jnp.complex64
    oracle.assert_close(y, expected, 2e-5)
    assert_near(new, theirs, 1e-6)
