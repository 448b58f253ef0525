"""Laws of one step: the reference, the state, half precision, jit, offsets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from catalog import Law

from tests.properties._cases import Case, cases
from tests.properties._modules import as_linen, as_nnx
from tests.properties._programs import Program, compiled
from tests.properties._property import has_reference, is_full, proves
from tests.properties._rounding import (
    assert_outputs,
    assert_same,
    assert_states,
    pooled_rounding,
    size_in_evaluation,
    size_in_reference,
    size_of,
)


def expected_of(program: Program, params, state, x, train, mask, more):
    """Returns `y, new_state` of the reference."""
    more = dict(more)
    if "domain" in more:
        more["domain"] = [more["domain"]]
    if "momentum" in more:
        more["momentum"] = float(more["momentum"])
    state = {key: oracle.wide(value) for key, value in state.items()}
    given = params, [state], [x], train
    ys, news = program.row.reference(*given, masks=[mask], **more)
    return ys[0], news[0]


def fold_size(program, params, state, x) -> float:
    """Returns how large `gain * x` and `offset` are, where they are added."""
    folded = program.row.folded
    return size_in_evaluation(program, params, state, x) if folded else 0.0


@proves(Law.ORACLE, share=18, programs=40, where=has_reference)
def agrees_with_the_reference(case: Case) -> None:
    """Two steps, and after each an evaluation; each from the state we have."""
    program = case.program
    with program.precision():
        params, state = case.start()
        for k in range(2):
            x, mask, more = case.numbers(k), case.mask(k), case.more(k)
            seen = size_of(x, state.get("mean", 0.0))
            y, new, y_eval = case.step(params, state, case.hide(x, mask), mask, more)
            given = program, params
            expected, theirs = expected_of(*given, state, x, True, mask, more)
            size = fold_size(program, params, state, x) + size_in_reference(program, x)
            pooled = pooled_rounding(program, params, state, x, True)
            assert_outputs(program, y, expected, size=size, beside=pooled)
            assert_states(program, new, theirs, seen)
            expected, _ = expected_of(*given, new, x, False, mask, more)
            pooled = pooled_rounding(program, params, new, x, False)
            assert_outputs(program, y_eval, expected, size=size, beside=pooled)
            state = new


@proves(Law.EVAL, share=2, programs=20)
def evaluation_returns_the_state_it_was_given(case: Case) -> None:
    """The dict itself, and what is in it, while it is traced."""
    with case.program.precision():
        norm, _ = compiled(case.program.row, case.program.param_dtype)
        params, state = case.start()
        mask, more = case.mask(), case.more()

        def evaluate(state, x):
            held = dict(state)
            y, after = norm.apply(params, state, x, False, mask=mask, **more)
            assert after is state and set(held) == set(state)
            assert all(state[key] is held[key] for key in held)
            return y

        x = case.numbers()
        y = jax.eval_shape(evaluate, state, x)
        assert y.shape == x.shape and y.dtype == case.program.out


@functools.cache
def scanned(row, param_dtype):
    norm, _ = compiled(row, param_dtype)

    @jax.jit
    def scan(params, state, xs, mask, more):
        def step(state, x):
            y, new = norm.apply(params, state, x, True, mask=mask, **more)
            return new, y

        return jax.lax.scan(step, state, xs)

    return scan


@proves(Law.SCAN, share=4, programs=4, where=is_full)
def the_state_can_be_carried_by_a_scan(case: Case) -> None:
    """It keeps its structure, shapes and dtypes, and is that of a loop of steps."""
    program = case.program
    with program.precision():
        params, state = case.start()
        mask, more = case.mask(), case.more()
        xs = np.stack([case.hide(case.numbers(k), mask) for k in range(3)])
        scan = scanned(program.row, program.param_dtype)
        final, ys = scan(params, state, xs, mask, more)
        seen = size_of(*(case.numbers(k) for k in range(3)), state.get("mean", 0.0))
        for k, x in enumerate(xs):
            _, step = compiled(program.row, program.param_dtype)
            y, new, _ = step(params, state, x, mask, more)
            assert jax.tree.structure(new) == jax.tree.structure(state)
            for key, value in new.items():
                assert value.shape == state[key].shape
                assert value.dtype == state[key].dtype and not value.weak_type
            assert_outputs(program, ys[k], y, times=2 * k + 2, halves=2)
            state = new
        assert_states(program, final, state, seen, times=6)


@proves(
    Law.OFFSET,
    share=3,
    programs=8,
    strategy=functools.partial(cases, locations=(1e4,), spreads=(2.0,), special=()),
    where=lambda p: has_reference(p) and is_full(p) and p.out == p.dtype == "float32",
)
def an_offset_of_1e4_survives(case: Case) -> None:
    """Outputs of the first step are off by what they were without the offset."""
    program = case.program
    x, mask, more = case.numbers(), case.mask(), case.more()
    params, state = case.start()
    y, new, _ = case.step(params, state, case.hide(x, mask), mask, more)
    expected, theirs = expected_of(program, params, state, x, True, mask, more)
    assert_outputs(program, y, expected)
    assert_states(program, new, theirs, size_of(x))


@proves(
    Law.HALF,
    share=5,
    programs=4,
    where=lambda p: is_full(p) and p.dtype in ("float16", "bfloat16"),
)
def half_precision_is_that_of_float32_rounded_once(case: Case) -> None:
    """Statistics of half precision are those of the same numbers in float32."""
    program = case.program
    params, state = case.start()
    mask, more = case.mask(), case.more()
    x = case.hide(case.numbers(), mask)
    y, new, y_eval = case.step(params, state, x, mask, more)
    wide = case.step(params, state, np.asarray(x, np.float32), mask, more)
    halves = 2 if program.row.out else 1  # What was asked for is so for float32 too.
    assert_outputs(program, y, wide[0], times=2, halves=halves)
    assert_outputs(program, y_eval, wide[2], times=2, halves=halves)
    assert all(
        value.dtype == jnp.float32 for k, value in new.items() if k != "shuffles"
    )
    assert_states(program, new, wide[1], size_of(case.numbers()), times=2)


@proves(Law.JIT, share=1, programs=2, where=lambda p: is_full(p) and not p.moving)
def jit_equals_eager(case: Case) -> None:
    """The compiled step is the one that runs operation by operation."""
    program = case.program
    with program.precision():
        norm, _ = compiled(program.row, program.param_dtype)
        params, state = case.start()
        mask, more = case.mask(), case.more()
        x = case.hide(case.numbers(), mask)
        y, new, y_eval = case.step(params, state, x, mask, more)
        params, state, new = jax.tree.map(jnp.asarray, (params, state, new))
        eager, after = norm.apply(params, state, x, True, mask=mask, **more)
        evaluated, _ = norm.apply(params, new, x, False, mask=mask, **more)
        size = fold_size(program, params, state, case.numbers())
        assert_outputs(program, y, eager, times=2, size=size, halves=2)
        assert_outputs(program, y_eval, evaluated, times=2, size=size, halves=2)
        assert_states(program, new, after, size_of(case.numbers()), times=2)


@proves(
    Law.FLAX,
    share=2,
    programs=2,
    where=lambda p: is_full(p) and p.row.modules is None,
)
def functional_equals_linen_equals_nnx(case: Case) -> None:
    """Bit by bit, each compiled."""
    program = case.program
    with program.precision():
        params, state = case.start()
        mask, more = case.mask(), case.more()
        given = params, state, case.hide(case.numbers(), mask), mask, more
        expected = case.step(*given)
        dtype, num_features = program.param_dtype, program.num_features
        assert_same(as_linen(program.row, dtype)(*given), expected)
        assert_same(as_nnx(program.row, dtype, num_features)(*given), expected)


proves(
    "batch_norm equals linen.BatchNorm equals nnx.BatchNorm of its options, bitwise",
    share=2,
    programs=4,
    where=lambda p: is_full(p) and p.row.modules is not None,
    claims=Law.FLAX,
)(functional_equals_linen_equals_nnx)
