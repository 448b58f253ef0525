"""Leakage: how much one example's output depends on those it comes with.

In training batch norm tells each example about its mates, which a model can exploit
(Wu and Johnson 2021, section 6) and a contrastive one will. The probe keeps an example,
exchanges the others, and looks at what became of it behind every norm layer.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbn._values import as_array, check_key, is_number, shown
from jaxbn.base import Array
from jaxbn.diagnostics._examples import (
    Place,
    find_place,
    own_outputs,
    with_noise,
    with_other_mates,
)
from jaxbn.tree import Call, check_known, watch
from jaxbn.tree._watch import check_model


class Leakage(NamedTuple):
    """What a change of its mates did to one example.

    A change is relative, `|y' - y| / |y|` over what is the example's; inf where it is
    not finite. Several calls of one layer, and layers stacked by a scan, count as one.

    Attributes:
        layers: by path, in the order they are called, the change behind each norm
            layer: what it and all before it have leaked.
        local: likewise what the layer alone leaks: its input for the example is kept,
            that for the others is not.
        output: the change of the model's output.
        gradient: `|d(c . y_i) / d x_mates| / |d(c . y_i) / d x_i|` for a random c; None
            if x has no gradient, being integers.
    """

    layers: dict[str, float]
    local: dict[str, float]
    output: float
    gradient: float | None


def probe_leakage(
    model: Any,
    variables: Any,
    x: Array,
    *args: Any,
    example: int = 0,
    key: Array | None = None,
    mates: Array | None = None,
    **kwargs: Any,
) -> Leakage:
    """Returns how much the output for one example depends on its mates, by layer.

    All batches go through one program, so that where nothing leaks the result is
    exactly 0: in evaluation, and with norms that know no batch. Products are in full
    precision (`jax.default_matmul_precision('highest')`), also where a GPU would round
    their factors to TF32.

    Args:
        model: a linen or nnx module that takes `x` first. Examples lie along axis 0, of
            `x`, of a floating array of the output and of what each norm layer is given;
            there each may fill several rows, one behind the other, as after
            `x.reshape(-1, C)` of [N, T, C].
        variables: of it; None for what an nnx model holds.
        x: [N, ...] a batch.
        *args: of the call, behind `x`, such as `True` for training.
        example: which one is kept.
        key: for the exchange and the direction of the gradient; a fixed one if None.
        mates: [N, ...] what to exchange the others with; x with noise of its deviation
            by default. To be given where x are integers.
        **kwargs: of the call.

    Returns:
        A `Leakage`. Noise from rounding is some 1e-7 where something leaks.

    Raises:
        ValueError: if `x` has fewer than two examples, no such example, or `mates`
            another shape; if the examples are not along axis 0 of the output or of the
            input of a layer.

    Example:
        >>> from flax import linen as nn
        >>> model = nn.BatchNorm()
        >>> x = jax.random.normal(jax.random.key(1), (8, 3))
        >>> variables = model.init(jax.random.key(0), x, use_running_average=True)
        >>> probe_leakage(model, variables, x, use_running_average=True).output
        0.0
        >>> probe_leakage(model, variables, x, use_running_average=False).output > 0.01
        True

    References:
        Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, section 6.
    """
    check_model(model, variables)
    check_known("probe_leakage", variables, x, args, kwargs, mates)
    x = as_array("x", x)
    if key is not None:
        check_key(key)
    place = find_place(x, example)
    noise, *keys = jax.random.split(jax.random.key(0) if key is None else key, 3)
    other = with_other_mates(x, mates, place, noise)
    order: list[str] = []
    job = Job(model, place, order, args, kwargs)
    run = jax.jit(functools.partial(_run, job))
    with jax.default_matmul_precision("highest"):
        before = run(variables, x, False, keys)
        after = run(variables, other, False, keys)
        apart = run(variables, x, True, keys)
    changes = jax.tree.map(_change, before.behind, after.behind)
    alone = jax.tree.map(_change, before.alone, apart.alone)
    return Leakage(
        {path: changes[path] for path in order},
        {path: alone[path] for path in order},
        _change(before.output, after.output),
        None if before.slopes is None else _ratio(*before.slopes),
    )


def check_leakage(leakage: Any) -> None:
    """Refuses what `probe_leakage` does not return.

    Raises:
        ValueError: unless it is a leakage, of numbers by layer.
    """
    known = isinstance(leakage, Leakage) and all(
        isinstance(part, Mapping) and all(map(is_number, part.values()))
        for part in (leakage.layers, leakage.local)
    )
    known = known and list(leakage.layers) == list(leakage.local)
    if not known or not all(
        value is None or is_number(value)
        for value in (leakage.output, leakage.gradient)
    ):
        raise ValueError(
            f"leakage is {shown(leakage)}, expected a Leakage; pass what probe_leakage "
            "returns"
        )


class Job(NamedTuple):
    """What stays the same while batches pass."""

    model: Any
    place: Place
    order: list[str]
    args: tuple
    kwargs: dict


class Seen(NamedTuple):
    """What one run shows of the example.

    Attributes:
        behind: by path, its outputs of each layer, flattened.
        alone: likewise where its mates are exchanged in front of that layer, if so.
        output: of the model, flattened.
        slopes: the norms of the gradients by its mates and by itself, if any.
    """

    behind: dict[str, Array]
    alone: dict[str, Array]
    output: Array
    slopes: tuple[Array, Array] | None


def _run(job: Job, variables: Any, x: Array, noisy: Array, keys: list[Array]) -> Seen:
    """Returns what becomes of the example everywhere."""
    place = job.place

    def note(call: Call) -> tuple[Array, dict[str, Array]]:
        if call.path not in job.order:
            job.order.append(call.path)
        if not place.fits(call.x):
            raise ValueError(
                f"layer {call.path!r} is given an array of shape {call.x.shape}, "
                f"expected {place.count} examples along its axis 0; probe a model that "
                "keeps them there"
            )
        away = noisy & ~place.is_own(call.x)
        mixed = jnp.where(away, with_noise(call.x, keys[0]), call.x)
        found = {"behind": call.proceed(), "alone": call.proceed(x=mixed)}
        notes = {name: place.own(y) for name, y in found.items()}
        for name, earlier in call.notes.items():
            notes[name] = jnp.concatenate([earlier, notes[name]])
        return found["behind"], notes

    def forward(x: Array) -> tuple[Array, tuple[Array, dict]]:
        output, notes = watch(job.model, note)(variables, x, *job.args, **job.kwargs)
        mine = jnp.concatenate(own_outputs(output, place))
        c = jax.random.normal(keys[1], mine.shape, mine.dtype)
        return jnp.sum(c * mine).real, (mine, notes)

    slopes = None
    if jnp.issubdtype(x.dtype, jnp.inexact):
        slope, (mine, notes) = jax.grad(forward, has_aux=True)(x)
        others = jnp.where(place.is_own(x), 0, slope)
        slopes = jnp.linalg.norm(jnp.ravel(others)), jnp.linalg.norm(place.own(slope))
    else:
        _, (mine, notes) = forward(x)
    behind, alone = (
        {path: layer[name] for path, layer in notes.items()}
        for name in ("behind", "alone")
    )
    return Seen(behind, alone, mine, slopes)


def _change(before: Array, after: Array) -> float:
    """Returns `|after - before| / |before|`; what is NaN in both has not changed."""
    same = (before == after) | (jnp.isnan(before) & jnp.isnan(after))
    moved = jnp.where(same, 0, after - before)
    return _ratio(jnp.linalg.norm(jnp.ravel(moved)), jnp.linalg.norm(jnp.ravel(before)))


def _ratio(part: Array, whole: Array) -> float:
    """Returns `part / whole`, 0 of 0 being 0, and inf what is not finite."""
    ratio = float(part / jnp.where(whole > 0, whole, 1)) if float(part) else 0.0
    return ratio if math.isfinite(ratio) else math.inf
