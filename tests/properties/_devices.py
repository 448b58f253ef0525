"""k devices equal one, and groups of them separate runs, however they are mapped."""

import dataclasses
import functools
import math

import jax
import numpy as np
import oracle
from catalog import Law
from wrappers import JITS

from tests.properties import _norms as norms
from tests.properties import _references as references
from tests.properties._cases import Case, calm
from tests.properties._gradients import doubled, draw_like, near_gradients
from tests.properties._on_devices import batch_of, call, hidden, pulled, run
from tests.properties._programs import Program, compiled
from tests.properties._property import proves
from tests.properties._rounding import (
    assert_outputs,
    assert_states,
    pooled_rounding,
    size_of,
)


def is_here(program: Program) -> bool:
    """Returns whether there are as many devices."""
    return program.devices <= len(jax.devices())


def referenced(program: Program):
    """Returns the reference, of a program's size, and the groups to give it."""
    reference, size, share = program.row.reference, program.size, program.shape[0]
    if size is None:
        return reference, program.groups
    if size <= share:
        cut = functools.partial(norms.runs, size, by_size=True)
        local = references.ghosts(reference, cut, program.row.axis)
        return local, [[d] for d in range(program.devices)]
    together, devices = size // share, range(program.devices)
    return reference, [list(devices[d : d + together]) for d in devices[::together]]


@proves(
    Law.DEVICES,
    share=8,
    programs=6,
    where=lambda p: is_here(p) and p.row.reference is not None,
    on_devices=True,
)
def k_devices_equal_the_reference(case: Case) -> None:
    """Devices of a group are one batch; under jit the state is that of all of them."""
    program = case.program
    with program.precision():
        params, state, (x, masks, domains), (y, new, y_eval) = run(case)
        reference, groups = referenced(program)
        each = range(program.devices)
        more = {} if domains is None else {"domain": list(domains)}
        masks = [None] * len(each) if masks is None else list(masks)
        wide = {k: oracle.wide(v) for k, v in state.items()}
        given = {"masks": masks, **more}
        ys, news = reference(
            params, [wide] * len(each), list(x), True, groups=groups, **given
        )
        if program.wrapper in JITS:
            plain = program.row.reference
            _, news = plain(params, [wide] * len(each), list(x), True, **given)
            states = [new] * len(each)
        else:
            states = [{k: v[d] for k, v in new.items()} for d in each]
        evaluated, _ = reference(params, states, list(x), False, groups=groups, **given)
        seen = size_of(x, state["mean"])
        size = program.double * seen / math.sqrt(program.row.epsilon)
        before = pooled_rounding(program, params, wide, x, True)
        for d in each:
            assert_outputs(program, y[d], ys[d], size=size, beside=before)
            pooled = pooled_rounding(program, params, states[d], x, False)
            assert_outputs(program, y_eval[d], evaluated[d], size=size, beside=pooled)
            assert_states(program, states[d], news[d], seen)


def has_formula(program: Program) -> bool:
    """Returns whether gradients of what is normalized together have a formula."""
    known = program.row.gradient is not None and not program.row.out
    ghosts = program.size is not None and program.size < program.shape[0]
    return is_here(program) and known and not ghosts and program.row.epsilon >= 1e-5


@proves(
    "the gradient on k devices is that on one",
    share=3,
    programs=3,
    strategy=calm,
    where=has_formula,
    claims=Law.DEVICES,
    on_devices=True,
)
def the_gradient_on_devices_is_that_of_the_reference(case: Case) -> None:
    """Of losses of all devices; of parameters each has its part, or the sum."""
    case = doubled(case)
    program = case.program
    with program.precision():
        params, state = case.start()
        x, masks, _ = batch_of(case)
        cotangent = draw_like(x, case.rng(13))
        shards = hidden(case, x, masks), hidden(case, cotangent, masks), masks
        dparams, dx = call(program, pulled(program), (params, state), *shards)
        each = range(program.devices)
        _, groups = referenced(program)
        expected = program.row.gradient(
            params,
            [state] * len(each),
            list(x),
            list(cotangent),
            True,
            masks=[None] * len(each) if masks is None else list(masks),
            groups=groups,
        )
        dxs, dscales, dbiases = map(np.stack, expected)
        near = near_gradients(program, params, x, cotangent)
        near(dx, dxs)
        for key, parts in (("scale", dscales), ("bias", dbiases)):
            if key in params and program.wrapper in (*JITS, "typed shard_map"):
                near(dparams[key], np.broadcast_to(parts.sum(0), dparams[key].shape))
            elif key in params:
                near(dparams[key], parts)


def is_free_of_places(program: Program) -> bool:
    """Returns whether a norm is the same of devices' examples put together."""
    known = program.size is None and program.wrapper not in JITS
    return is_here(program) and known and Law.PERMUTING in program.row.laws


@proves(
    "groups equal separate runs",
    share=5,
    programs=4,
    where=is_free_of_places,
    claims=Law.DEVICES,
    on_devices=True,
)
def groups_equal_separate_runs(case: Case) -> None:
    """Each group is what one device gives with the examples of all of it."""
    program = case.program
    with program.precision():
        params, state, (x, masks, domains), (y, new, _) = run(case)
        _, alone = compiled(program.row, program.param_dtype)
        devices = tuple(range(program.devices))
        for group in program.groups or (devices,):
            mask = joined_mask(program, masks, group)
            more = {}
            if domains is not None:
                more["domain"] = np.concatenate([domains[d] for d in group])
            whole = np.concatenate([x[d] for d in group])
            given = params, state, whole, mask, more
            one, after, _ = jax.tree.map(np.asarray, alone(*given))
            parts = np.split(one, len(group))
            for d, part in zip(group, parts, strict=True):
                assert_outputs(program, y[d], part, times=2, halves=2)
                mine = {key: value[d] for key, value in new.items()}
                assert_states(program, mine, after, size_of(x), times=2)


def joined_mask(program: Program, masks, group):
    """Returns the mask of the examples of a group, in the shape of its data."""
    if masks is None:
        return None
    single = dataclasses.replace(program, devices=1)
    whole = []
    for d in group:
        mask = masks[d]
        if mask.ndim == len(single.rest):
            mask = np.expand_dims(mask, single.features)
        whole.append(np.broadcast_to(mask, program.shape))
    return np.concatenate(whole)
