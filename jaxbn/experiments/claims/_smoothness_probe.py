"""Probing along the gradient step: landscape, moments and gradients of many runs.

The part of `smoothness` that looks, with noise behind the norms if a run has it: its
strength travels with the running statistics, as 'noise'.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

import jaxbn.linen
from jaxbn.base import Array
from jaxbn.data import Split, gather
from jaxbn.diagnostics._landscape import _along
from jaxbn.experiments._runs import Loss, Runs, classification

RATE = 0.1
LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the probed steps, in units of the one about to be taken."""
REFERENCE = 500
"""Images on which the moments are measured."""


def disturbed(model: Any) -> Loss:
    """Returns the loss with noise, of the strength that `stats` say, behind the norms.

    Each channel's noise has a mean and a spread of its own, and the same `key` gives
    the same noise.
    """
    plain = classification(model)

    def loss(params: Any, stats: Any, batch: Split, key: Array) -> tuple[Array, Any]:
        with nn.intercept_methods(noise_behind(stats["noise"], key)):
            return plain(params, stats, batch, key)

    return loss


def noise_behind(strength: Array, key: Array) -> Callable[..., Any]:
    """Returns what adds noise to the outputs of norm layers; see `disturbed`."""

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y = call(*args, **kwargs)
        module = context.module
        of_norm = isinstance(module, jaxbn.linen.Norm)
        if not of_norm or context.method_name != "__call__":
            return y
        place = jax.random.fold_in(key, int(str(module.name).removeprefix("bn")))
        keys = jax.random.split(place, 3)
        channels = (1,) * (y.ndim - 1) + y.shape[-1:]
        mean = jax.random.uniform(keys[0], channels, minval=-1, maxval=1)
        spread = jax.random.uniform(keys[1], channels)
        return y + strength * (mean + spread * jax.random.normal(keys[2], y.shape))

    return intercept


def make_look(model: Any, loss: Loss, data: Any) -> Callable[..., Any]:
    """Returns `look(runs, rows [R, B])`, what lies ahead of each run, each [R].

    `low` and `high` of the loss along the step, `change` of the gradient and `beta`,
    both the largest, `loss`, `jump` of the moments and `cosine` of the gradients.
    """
    lengths = RATE * jnp.asarray(LENGTHS)
    reference = Split(data.inputs[:REFERENCE], data.labels[:REFERENCE])

    def one(runs: Runs, rows: Array, data: Any, reference: Any) -> dict[str, Array]:
        params, stats = runs.params, runs.batch_stats
        keys = [
            jax.random.fold_in(jax.random.key(runs.seed), runs.step + i) for i in (0, 1)
        ]
        batch = gather(data, rows)

        def value(params: Any) -> Array:
            return loss(params, stats, batch, keys[0])[0]

        losses, changes, here, size = _along(value, params, lengths)
        slope = jax.grad(value)(params)
        after = jax.tree.map(lambda p, g: p - RATE * g, params, slope)
        moments = [
            relu_moments(model, p, stats, reference.inputs, key)
            for p, key in zip((params, after), keys, strict=True)
        ]
        jumps = [
            jnp.abs(new[0] - old[0]) / jnp.maximum(old[1], 1e-3)
            for old, new in zip(*moments, strict=True)
        ]
        return {
            "low": losses.min(),
            "high": losses.max(),
            "change": changes.max(),
            "beta": (changes / (lengths * size)).max(),
            "loss": here,
            "jump": jnp.stack([jump.mean() for jump in jumps]).mean(),
            "cosine": mean_cosine(value, params, slope),
        }

    looking = jax.jit(jax.vmap(one, (0, 0, None, None)))
    return lambda runs, rows: looking(runs, jnp.asarray(rows), data, reference)


def relu_moments(
    model: Any, params: Any, stats: Any, inputs: Array, key: Array
) -> list[tuple[Array, Array]]:
    """Returns the mean and the deviation of each relu's input in training, [C]."""
    variables = {"params": params, "batch_stats": stats}
    collections = ["batch_stats", "intermediates"]
    with nn.intercept_methods(noise_behind(stats["noise"], key)):
        _, seen = model.apply(variables, inputs, True, mutable=collections)
    inputs_of = [value[0] for value in seen["intermediates"].values()]
    return [(x.mean(0), x.std(0)) for x in inputs_of]


def depths(names: Iterable[str]) -> dict[str, int]:
    """Returns which layer each part of a net belongs to; the head is the last.

    Example:
        >>> depths(["dense9", "bn9", "dense10", "bn10", "head"])
        {'dense9': 9, 'bn9': 9, 'dense10': 10, 'bn10': 10, 'head': 11}
    """
    hidden = {n: int(re.split(r"\D+", n)[-1]) for n in names if n != "head"}
    return {**hidden, "head": 1 + max(hidden.values())}


def mean_cosine(value: Callable[[Any], Array], params: Any, slope: Any) -> Array:
    """Returns how alike a layer's gradients are once the layers below have moved.

    The mean cosine over all layers but the first, of the gradient with all layers where
    they are and with those below it a step of `RATE` further.
    """
    depth = depths(params)
    top = depth["head"]

    def cosine(layer: Array) -> Array:
        moved = {
            name: jax.tree.map(
                lambda p, g, below=depth[name] < layer: p - RATE * below * g,
                params[name],
                slope[name],
            )
            for name in params
        }
        there = jax.grad(value)(moved)

        def inner(a: Any, b: Any) -> Array:
            each = {
                name: sum(jnp.vdot(a[name][k], b[name][k]) for k in a[name])
                for name in a
            }
            chosen = [(depth[name] == layer) * each[name] for name in each]
            return jnp.stack(chosen).sum()

        lengths = inner(slope, slope) * inner(there, there)
        return inner(slope, there) / jnp.sqrt(jnp.maximum(lengths, 1e-30))

    return lax.map(cosine, jnp.arange(2, top + 1)).mean()
