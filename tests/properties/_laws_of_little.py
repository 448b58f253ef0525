"""Laws of batches of next to nothing: empty, one element, one that is not finite."""

import math

import jax
import numpy as np
from catalog import Law

from tests.properties._cases import Case, spread_over
from tests.properties._laws_of_batches import take
from tests.properties._programs import Program, gradients
from tests.properties._property import is_full, proves
from tests.properties._rounding import assert_same


def nothing(case: Case):
    """Returns data of which nothing counts: all hidden, or no example."""
    program, x, mask = case.program, case.numbers(), case.mask()
    more = case.more()
    if mask is None and program.examples is not None:
        return take(program, np.arange(0), x, mask, more)
    if mask is None:
        return x[:0], mask, more
    mask = np.zeros_like(mask)
    return case.hide(x, mask), mask, more


def can_be_empty(program: Program) -> bool:
    """Returns whether nothing of it may count."""
    return program.mask != "none" or program.examples is not None


@proves(Law.NOTHING, share=6, programs=16, where=can_be_empty)
def nothing_counted_is_finite_and_keeps_the_state(case: Case) -> None:
    """All is 0, and the state is that of before, to the bit."""
    with case.program.precision():
        params, state = case.start()
        x, mask, more = nothing(case)
        y, new, y_eval = case.step(params, state, x, mask, more)
        assert y.shape == x.shape and np.all(y == 0) and np.all(y_eval == 0)
        if case.program.row.shuffled:
            assert new["shuffles"] == state["shuffles"] + 1
            new = {**new, "shuffles": state["shuffles"]}
        assert_same(new, state)


@proves(
    "an empty or all-masked batch has no gradient",
    share=2,
    programs=5,
    where=lambda p: can_be_empty(p) and not p.row.out,
    claims=Law.NOTHING,
)
def nothing_counted_has_no_gradient(case: Case) -> None:
    """Of anything, whatever is hidden in the cotangent."""
    program = case.program
    with program.precision():
        params, state = case.start()
        x, mask, more = nothing(case)
        cotangent = (
            np.ones_like(x) if mask is None else case.hide(np.ones_like(x), mask)
        )
        pull = gradients(program.row, program.param_dtype, program.train)
        _, dparams, dx = pull(params, state, x, cotangent, mask, more)
        assert dx.shape == x.shape and np.all(dx == 0)
        assert jax.tree.structure(dparams) == jax.tree.structure(params)
        assert all(np.all(value == 0) for value in dparams.values())


def can_be_single(program: Program) -> bool:
    """Returns whether a mask can leave one element of each channel, or there is one."""
    masked = program.mask in ("element", "position")
    return is_full(program) and (masked or math.prod(program.rest) == 1)


@proves(Law.SINGLE, share=5, programs=10, where=can_be_single)
def one_element_per_channel_gives_the_bias(case: Case) -> None:
    """Exactly, wherever it is."""
    program = case.program
    with program.precision():
        params, state = case.start()
        mask, more, places = None, case.more(), math.prod(program.rest)
        if "domain" in more:
            more["domain"] = np.clip(more["domain"], 0, program.row.domains - 1)
        counted = np.ones(program.shape, bool)
        if program.mask in ("element", "position"):
            channels = math.prod(program.num_features)
            drawn = case.rng(9).integers(0, places, channels)
            if program.mask == "position":
                drawn[:] = drawn[0]
            hot = (np.arange(places)[:, None] == drawn).reshape(
                *program.rest, *program.num_features
            )
            first = [a for a in range(len(program.shape)) if a not in program.features]
            counted = np.transpose(hot, np.argsort(first + program.features))
            keep = counted
            if program.mask == "position":
                keep = hot.reshape(*program.rest, channels)[..., 0]
            mask = case.weigh(keep, case.rng(10))
        elif program.mask != "none":
            mask = np.ones_like(case.mask())
        x = case.hide(case.numbers(), mask)
        y, _, _ = case.step(params, state, x, mask, more)
        y = np.asarray(y)
        assert np.all(y[~counted] == 0)
        biases = np.asarray(params.get("bias", np.zeros(program.num_features)))
        own = biases.ndim > len(program.num_features)
        near = [
            np.broadcast_to(on_features(program, bias), program.shape).astype(y.dtype)
            for bias in (biases if own else [biases])
        ]
        assert np.all(np.any([y == b for b in near], 0) | ~counted)


def on_features(program: Program, bias: np.ndarray) -> np.ndarray:
    """Returns what is one a channel, in the rank of `x`."""
    rest = [a for a in range(len(program.shape)) if a not in program.features]
    return np.expand_dims(bias, rest)


def domain_at(program: Program, place: tuple[int, ...], more: dict) -> int | None:
    """Returns the domain of an element; None where there are none."""
    if not program.row.domains:
        return None
    domain = more["domain"]
    return int(domain[place[program.along]] if program.by_example else domain)


@proves(Law.NONFINITE, share=5, programs=12, where=is_full)
def a_non_finite_channel_keeps_its_state(case: Case) -> None:
    """Others move as they would have; with `skip_nonfinite=False` it is lost."""
    program, poison = case.program, (np.nan, np.inf, -np.inf, 1e30)[case.pick % 4]
    with program.precision():
        params, state = case.start()
        mask, more = case.mask(some=True), case.more()
        counts = np.ones(program.shape, bool)
        if mask is not None:
            counts = spread_over(program, mask) != 0
        places = np.argwhere(counts)
        if not len(places):  # None of weight, though it is one of the mask's.
            return
        place = tuple(places[case.pick // 4 % len(places)])
        channel = tuple(place[a] for a in program.features)
        x = case.hide(case.numbers(), mask)
        dirty = np.array(x)
        with np.errstate(over="ignore"):
            dirty[place] = np.asarray(poison).astype(x.dtype)
        _, clean, _ = case.step(params, state, x, mask, more)
        _, new, _ = case.step(params, state, dirty, mask, more)
        kept = []
        for key in sorted(set(state) - {"shuffles"}):
            old, moved, found = (
                np.array(s[key])[(..., *channel)] for s in (state, clean, new)
            )
            if np.isfinite(dirty[place]):  # Its square is not, where there are others.
                assert not program.row.skips or np.all(np.isfinite(found))
            elif program.row.skips:
                assert np.all((found == old) | (found == moved))
                kept.append(np.ravel(found == old))
            elif key == "mean":
                assert not np.all(np.isfinite(found))
            rest = [np.array(s[key]) for s in (clean, new)]
            for array in rest:
                array[(..., *channel)] = 0
            np.testing.assert_array_equal(*rest)
        if not kept:
            return
        mine = domain_at(program, place, more)
        if mine is None:
            assert np.any(np.all(kept, 0))
        elif mine in range(program.row.domains):
            assert np.all(kept, 0)[mine]
