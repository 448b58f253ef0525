"""The gradient: that of the reference's formula, or of differences along a direction.

A difference D(h) = (f(x + h v) - f(x - h v)) / 2h is off by a term in h^2, which D(h)
and D(h / 2) show by how they differ; where two elements all but meet it may be large.
"""

import dataclasses
import functools

import jax
import numpy as np
import oracle
from catalog import Law

from tests.properties import _laws
from tests.properties._cases import Case, calm, spread_over
from tests.properties._programs import Program, gradients
from tests.properties._property import is_full, proves
from tests.properties._rounding import bound, size_of

STEP = 1e-4


def in_double(program: Program) -> bool:
    """Returns whether a program stands for one of float64 or complex128."""
    wide = program.out in ("float32", "float64", "complex64") and not program.row.out
    return is_full(program) and wide and program.row.epsilon >= 1e-5


@proves(Law.GRADIENT, share=8, programs=10, strategy=calm, where=in_double)
def the_gradient_is_that_of_the_reference(case: Case) -> None:
    """Of x, scale and bias, in float64; a mask hides what is in the cotangent."""
    case = doubled(case)
    program, rng = case.program, case.rng(11)
    with program.precision():
        params, state = case.start()
        mask, more = case.mask(), case.more()
        clean = case.numbers()
        cotangent = draw_like(clean, rng)
        x = case.hide(clean, mask)
        pull = gradients(program.row, program.param_dtype, program.train)
        hidden = case.hide(cotangent, mask)
        _, dparams, dx = jax.tree.map(
            np.asarray, pull(params, state, x, hidden, mask, more)
        )
        if mask is not None:
            assert np.all(dx[spread_over(program, mask) == 0] == 0)
        given = case, params, state, clean, cotangent, mask, more
        by_formula = program.row.gradient is not None
        compare = compare_with_formula if by_formula else compare_with_differences
        compare(*given, dparams, dx)


@functools.cache
def in_float64(program: Program) -> Program:
    """Returns the program of float64 or complex128: one, as what it compiles to."""
    wide = "complex128" if program.dtype.startswith("complex") else "float64"
    return dataclasses.replace(program, dtype=wide)


def doubled(case: Case) -> Case:
    """Returns the case in float64 or complex128."""
    return dataclasses.replace(case, program=in_float64(case.program))


def draw_like(x, rng):
    """Returns random numbers of the shape and kind of an array."""
    drawn = rng.normal(size=x.shape)
    if np.iscomplexobj(x):
        drawn = drawn + 1j * rng.normal(size=x.shape)
    return drawn.astype(x.dtype)


def compare_with_formula(
    case, params, state, x, cotangent, mask, more, dparams, dx
) -> None:
    """Asserts that gradients are those of section 3 of the paper."""
    program = case.program
    expected = program.row.gradient(
        params, [state], [x], [cotangent], program.train, masks=[mask]
    )
    dxs, dscales, dbiases = expected
    near = near_gradients(program, params, x, cotangent)
    near(dx, dxs[0])
    for key, value in (("scale", dscales[0]), ("bias", dbiases[0])):
        if key in params:
            near(dparams[key], value)


def near_gradients(program, params, x, cotangent):
    """Returns `near(actual, expected)`, which asserts that gradients agree.

    Where a channel is constant the reference divides what it rounded by epsilon.
    """
    size = size_of(cotangent) * size_of(*params.values(), 1.0)
    allowed = bound(program) * size * (size_of(x) + 1) / program.row.epsilon
    return functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=allowed)


def compare_with_differences(
    case, params, state, x, cotangent, mask, more, dparams, dx
) -> None:
    """Asserts that gradients are slopes along a random direction."""
    program, rng = case.program, case.rng(12)
    towards = draw_like(x, rng), {k: draw_like(v, rng) for k, v in params.items()}
    forward = forward_of(program, state, mask, more)

    def slope(h):
        def loss(h):
            moved = {k: params[k] + h * towards[1][k] for k in params}
            return np.sum(cotangent * forward(moved, x + h * towards[0])).real

        return (loss(h) - loss(-h)) / (2 * h)

    coarse, fine = slope(STEP), slope(STEP / 2)
    found = np.sum(dx * towards[0]).real
    found += sum(np.sum(dparams[k] * towards[1][k]).real for k in params)
    size = np.sum(np.abs(dx * towards[0])) + size_of(cotangent) * x.size
    size *= (size_of(x) + 1) / np.sqrt(program.row.epsilon)
    rounding = bound(program) * size / STEP
    assert abs(found - fine) <= abs(coarse - fine) + rounding, (found, fine, coarse)


def forward_of(program: Program, state, mask, more):
    """Returns `f(params, x) -> y` of the reference, or else our own in float64."""
    train = program.train
    if program.row.reference is not None:
        return lambda params, x: _laws.expected_of(
            program, params, state, x, train, mask, more
        )[0]
    pull = gradients(program.row, program.param_dtype, train)

    def forward(params, x):
        y, *_ = pull(params, state, x, np.zeros_like(x), mask, more)
        return oracle.wide(y)

    return forward
