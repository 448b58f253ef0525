"""How far a result may be from the exact one, and why: nothing but rounding.

u is the unit roundoff of the dtype that statistics are computed in. A sum of n terms is
off by at most about n u of the sum of their sizes, however it is ordered. Deviations
are summed about an element of largest weight, which lies within sqrt(n) deviations of
the mean: a shift so far costs the variance up to (1 + n) u, its sums n u. That makes
some 2 n u relative to itself, half of it in 1 / sqrt(var + epsilon). What is element by
element adds a dozen roundings. All in all

    4 (n + 16) u    relative to the largest output of the channel

where the smallest n has its dozen. A debiased average divides by `1 - momentum^count`,
which is as good as the logarithm: XLA's log1p in float64 is off by 120 units in the
last place between -0.4142 and -0.3 on CPUs (jaxlib 0.10.2; findings/). Half precision
adds the one rounding of the output, to 2^-11 and 2^-8 of what it is.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracle

from tests.properties._programs import Program

OF_OUTPUT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
SMALLEST = {"float16": 2.0**-25, "bfloat16": 0.0}
"""Half of the distance of numbers near 0."""


def bound(program: Program) -> float:
    """Returns what a result may be off by, relative to what it is made of."""
    u = 2.0**-53 if program.double else 2.0**-24
    logarithm = 256 * u if program.double and program.row.debias else 0.0
    return 4 * (program.together + 16) * u + logarithm


def assert_outputs(
    program: Program, actual, expected, *, times=1.0, size=0.0, beside=0.0, halves=1
) -> None:
    """Asserts that outputs agree, and that they have the dtype they should.

    Args:
        program: which gave them.
        actual: in the dtype of outputs.
        expected: wide.
        times: how many such roundings there are.
        size: of what cancelled on the way, beside the outputs.
        beside: what roundings that the reference has not may do.
        halves: how many of both were rounded to half precision.
    """
    assert actual.dtype == program.out and actual.shape == np.shape(expected)
    expected, actual = oracle.wide(expected), oracle.wide(actual)
    if not expected.size:
        return
    over = tuple(a for a in range(expected.ndim) if a not in program.features)
    over = None if program.row.across else over
    largest = np.max(np.abs(expected), over, keepdims=True, initial=2.0)
    allowed = times * bound(program) * np.maximum(largest, size) + beside
    if program.double and program.out == "float32":
        allowed = allowed + halves * 2.0**-24 * np.abs(expected)
    if program.out in OF_OUTPUT:
        rounded = OF_OUTPUT[program.out] * np.abs(expected)
        rounded = halves * (rounded + SMALLEST[program.out])
        allowed = 1.01 * (allowed + rounded)
        # What it cannot hold is infinite.
        most = float(jnp.finfo(program.out).max)
        actual, expected = np.clip(actual, -most, most), np.clip(expected, -most, most)
    _assert_within(actual, expected, allowed, "outputs")


def assert_states(program: Program, actual, expected, size, *, times=1.0) -> None:
    """Asserts that two states agree: variances to themselves, means to the data.

    Args:
        program: which gave them.
        actual: a state.
        expected: likewise, wide.
        size: of the data, which a mean of them may be far smaller than.
        times: how many such roundings there are.
    """
    assert sorted(actual) == sorted(expected)
    for key, value in expected.items():
        value, found = oracle.wide(value), oracle.wide(actual[key])
        floor = max(size, 1.0) if key == "mean" else 1e-20
        allowed = times * bound(program) * np.maximum(np.abs(value), floor)
        # The mean that the reference subtracts is rounded to float64: of equal numbers
        # it finds the square of that where there is none.
        allowed = allowed + (4 * (program.together + 16) * 2.0**-53 * size) ** 2
        _assert_within(found, value, allowed, key)


def _assert_within(actual, expected, allowed, what) -> None:
    assert actual.shape == expected.shape
    off, allowed = np.abs(actual - expected), np.broadcast_to(allowed, actual.shape)
    wrong = ~(off <= allowed)
    if wrong.any():
        worst = np.unravel_index(
            np.argmax(np.where(wrong, off / allowed, 0)), off.shape
        )
        raise AssertionError(
            f"{what} differ at {tuple(map(int, worst))}: {actual[worst]} and not "
            f"{expected[worst]}, off by {off[worst]}, which is "
            f"{off[worst] / allowed[worst]:.3g} of what rounding may do; so do "
            f"{wrong.sum()} of {wrong.size}"
        )


def assert_same(actual, expected) -> None:
    """Asserts that trees are the same bit by bit, NaN being NaN."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def size_in_reference(program: Program, x) -> float:
    """Returns how large `x - mean` is made of, where that is rounded to float64.

    The reference subtracts a mean that float64 holds, which is exact enough for what is
    computed in float32, and off by as much as `x` is rounded for float64 itself.
    """
    if not program.double:
        return 0.0
    return size_of(x) / np.sqrt(program.row.epsilon)


def size_in_evaluation(program: Program, params, state, x) -> float:
    """Returns how large `x` and `mean` are on the scale of outputs.

    Two states that agree but for rounding evaluate to results that are off by so much.
    """
    if "var" not in state:
        return 0.0
    var = np.min(oracle.wide(state["var"]), initial=np.inf)
    scale = size_of(params.get("scale", state.get("scale", 1.0)))
    size = size_of(x) + size_of(state["mean"])
    return float(scale * size / np.sqrt(var + program.row.epsilon))


def pooled_rounding(program, params, state, x, train) -> float:
    """Returns what rounding the mean of all domains once more does to outputs.

    Unlike the means that it is made of, it is not stored, hence not read. In training
    renormalization alone looks at it.
    """
    if not program.row.domains or (train and program.row.smooth):
        return 0.0
    u = 2.0**-53 if program.double else 2.0**-24
    return 2 * u * size_in_evaluation(program, params, state, x)


def size_of(*arrays) -> float:
    """Returns the largest size of finite numbers in some arrays."""
    sizes = [np.abs(oracle.wide(a)).ravel() for a in arrays]
    sizes = np.concatenate([np.zeros(1), *(s[np.isfinite(s)] for s in sizes)])
    return float(sizes.max())
