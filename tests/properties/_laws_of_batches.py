"""Laws of what is in a batch: its order, its channels, what is hidden or repeated."""

import functools
import math

import jax
import numpy as np
from catalog import Law

from tests.properties._cases import Case, cases
from tests.properties._programs import Program
from tests.properties._property import has_examples, is_full, proves
from tests.properties._rounding import (
    assert_outputs,
    assert_states,
    size_in_evaluation,
    size_of,
)


def take(program: Program, order, x, mask, more):
    """Returns examples in that order, with what belongs to them."""
    x = np.take(x, order, program.along)
    if program.mask in ("example", "position"):
        mask = np.take(mask, order, 0)
    elif program.mask == "element":
        mask = np.take(mask, order, program.along)
    if np.ndim(more.get("domain", 0)):
        more = {**more, "domain": more["domain"][order]}
    return x, mask, more


def by_example(program: Program) -> bool:
    """Returns whether masks can leave out examples."""
    return has_examples(program) and program.mask in ("example", "position", "element")


def assert_alike(program: Program, actual, expected, params, x, *, times=2) -> None:
    """Asserts that two results of a step agree, both rounded."""
    (y, new, y_eval), (y_other, after, evaluated) = actual, expected
    assert_outputs(program, y, y_other, times=times, halves=2)
    assert_states(program, new, after, size_of(x), times=times)
    size = size_in_evaluation(program, params, after, x)
    assert_outputs(program, y_eval, evaluated, times=times, size=size, halves=2)


@proves(Law.PERMUTING, share=8, programs=12, where=has_examples)
def permuting_examples_permutes_outputs(case: Case) -> None:
    """With their masks and domains."""
    program = case.program
    with program.precision():
        params, state = case.start()
        mask, more = case.mask(), case.more()
        x = case.hide(case.numbers(), mask)
        order = case.rng(4).permutation(program.examples)
        y, new, y_eval = case.step(params, state, x, mask, more)
        moved = case.step(params, state, *take(program, order, x, mask, more))
        expected = [np.take(a, order, program.along) for a in (y, y_eval)]
        expected = expected[0], new, expected[1]
        assert_alike(program, moved, expected, params, case.numbers())


@proves(Law.CHANNELS, share=7, programs=14, where=is_full)
def channels_do_not_talk(case: Case) -> None:
    """Whatever is in one, the others do not differ in a bit."""
    program = case.program
    poison = (np.nan, np.inf, -np.inf, 1e30)[case.pick % 4]
    with program.precision():
        params, state = case.start()
        mask, more = case.mask(), case.more()
        x = case.hide(case.numbers(), mask)
        dirty, channel = np.array(x), channel_of(program, case.pick // 4)
        here = at(program, channel)
        with np.errstate(over="ignore"):
            value = np.asarray(poison).astype(x.dtype)
        where = case.rng(5).random(dirty[here].shape) < 0.5
        where.reshape(-1)[:1] = True
        dirty[here] = np.where(where, value, dirty[here])
        clean = case.step(params, state, x, mask, more)
        other = case.step(params, state, dirty, mask, more)
        for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(other), strict=True):
            a, b = np.array(a), np.array(b)
            if a.shape == program.shape:
                a[here] = b[here] = 0
            elif a.ndim:
                a[(..., *channel)] = b[(..., *channel)] = 0
            np.testing.assert_array_equal(a, b)


def channel_of(program: Program, pick: int) -> tuple[int, ...]:
    """Returns the index of one of the channels."""
    index = pick % math.prod(program.num_features)
    return tuple(map(int, np.unravel_index(index, program.num_features)))


def at(program: Program, channel: tuple[int, ...]) -> tuple:
    """Returns where a channel is in `x`."""
    where: list = [slice(None)] * len(program.shape)
    for axis, place in zip(program.features, channel, strict=True):
        where[axis] = place
    return tuple(where)


def is_exact_in_integers(program: Program) -> bool:
    """Returns whether integers of 20 bits are what they are, and epsilon nothing."""
    small = program.row.epsilon <= 1e-5
    return is_full(program) and small and program.dtype not in ("float16", "bfloat16")


@proves(
    Law.AFFINE,
    share=6,
    programs=10,
    strategy=functools.partial(cases, locations=(0.0, 30.0), spreads=(30.0,)),
    where=is_exact_in_integers,
)
def a_linear_map_of_a_channel_normalizes_to_the_same(case: Case) -> None:
    """Of integers that both hold exactly, and that epsilon is nothing against."""
    program, rng = case.program, case.rng(6)
    shape = [n if a in program.features else 1 for a, n in enumerate(program.shape)]
    a, b = rng.choice([0.25, 0.5, 2.0, 8.0], shape), rng.integers(-500, 500, shape)
    with program.precision():
        params, state = case.start()
        mask, more = case.mask(), case.more()
        unit = 2.0**30 if program.dtype == "float64" else 2.0**10
        x = (np.round(case.numbers()) * unit).astype(program.dtype)
        mapped = (a * x + unit * b).astype(program.dtype)
        y, _, _ = case.step(params, state, case.hide(x, mask), mask, more)
        again, _, _ = case.step(params, state, case.hide(mapped, mask), mask, more)
        assert_outputs(program, again, y, times=2, halves=2)


@proves(Law.MASKED, share=10, programs=7, where=by_example)
def masked_equals_removed(case: Case) -> None:
    """A third of the examples is left out, wherever they are; and what a mask hides."""
    program = case.program
    kept = program.examples - max(program.examples // 3, 1)
    with program.precision():
        params, state = case.start()
        mask, more = case.mask(), case.more()
        chosen = case.rng(7).permutation(program.examples)[:kept]
        removed = np.setdiff1d(np.arange(program.examples), chosen)
        chosen = np.sort(chosen)
        mask, clean = np.array(mask), case.numbers()
        along = program.along if program.mask == "element" else 0
        np.moveaxis(mask, along, 0)[removed] = 0
        x = case.hide(clean, mask)
        y, new, y_eval = case.step(params, state, x, mask, more)
        expected = case.step(params, state, *take(program, chosen, x, mask, more))
        assert np.all(np.take(y, removed, program.along) == 0)
        assert np.all(np.take(y_eval, removed, program.along) == 0)
        y, y_eval = (np.take(a, chosen, program.along) for a in (y, y_eval))
        assert_alike(program, (y, new, y_eval), expected, params, clean)


@proves(
    Law.WEIGHTS,
    share=6,
    programs=5,
    where=lambda p: by_example(p) and p.weights != "bool",
)
def a_weight_of_k_equals_k_copies(case: Case) -> None:
    """Of examples whose elements weigh something already."""
    program = case.program
    copies = program.examples + program.examples // 2
    with program.precision():
        params, state = case.start()
        mask, more = case.mask(), case.more()
        drawn = case.rng(8).integers(0, program.examples, copies)
        times = np.bincount(drawn, minlength=program.examples)
        along = program.along if program.mask == "element" else 0
        shape = [1] * mask.ndim
        shape[along] = -1
        weights = (mask * times.reshape(shape)).astype(mask.dtype)
        x = case.hide(case.numbers(), mask)
        y, new, y_eval = case.step(params, state, x, weights, more)
        order = np.repeat(np.arange(program.examples), times)
        expected = case.step(params, state, *take(program, order, x, mask, more))
        y, y_eval = (np.take(a, order, program.along) for a in (y, y_eval))
        larger = program.with_examples(copies)
        assert_alike(larger, (y, new, y_eval), expected, params, case.numbers())
