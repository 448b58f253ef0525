"""Leakage: how much one example's output depends on those it comes with.

In training batch norm tells each example about its mates, which a model can exploit
(Wu and Johnson 2021, section 6) and a contrastive one will. The probe keeps an example,
exchanges the others, and looks at what became of it behind every norm layer.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbn.base import Array
from jaxbn.tree import Call, watch


class Leakage(NamedTuple):
    """What a change of its mates did to one example.

    Attributes:
        layers: by path, in the order they are called, the relative change behind each
            norm layer, `|y' - y| / |y|` of that example.
        output: of the model's output.
        gradient: `|d(c . y_i) / d x_mates| / |d(c . y_i) / d x_i|` for a random c.
    """

    layers: dict[str, float]
    output: float
    gradient: float


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

    Both batches go through one program, so that where nothing leaks the result is
    exactly 0: in evaluation, and with norms that know no batch.

    Args:
        model: a linen or nnx module that takes `x` first, examples along axis 0 there
            and behind each norm layer.
        variables: of it; None for what an nnx model holds.
        x: [N, ...] a batch.
        *args: of the call, behind `x`, such as `True` for training.
        example: which one is kept.
        key: for the exchange and the direction of the gradient; a fixed one if None.
        mates: [N, ...] what to exchange the others with; x with noise of the
            deviation of x by default.
        **kwargs: of the call.

    Returns:
        A `Leakage`. Noise from rounding is some 1e-7 where something leaks.

    Raises:
        ValueError: if `x` has fewer than two examples, no such example, or `mates`
            another shape.

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
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[0] < 2 or not -len(x) <= example < len(x):
        raise ValueError(
            f"x has shape {x.shape} and example is {example}, expected at least two "
            "examples and one of them; pass a batch"
        )
    key = jax.random.key(0) if key is None else key
    noise, direction = jax.random.split(key)
    if mates is None:
        mates = x + jnp.std(x) * jax.random.normal(noise, x.shape, x.dtype)
    if jnp.shape(mates) != x.shape:
        raise ValueError(
            f"mates has shape {jnp.shape(mates)}, expected {x.shape}, that of x; give "
            "another example for each"
        )
    kept = (jnp.arange(len(x)) == example % len(x)).reshape(-1, *[1] * (x.ndim - 1))
    other = jnp.where(kept, x, jnp.asarray(mates, x.dtype))
    order: list[str] = []
    run = jax.jit(functools.partial(_run, model, example, order, args, kwargs))
    before, after = run(variables, x, direction), run(variables, other, direction)
    changes = jax.tree.map(_change, before[0], after[0])
    layers = {path: changes["/" + path] for path in order}
    mine, others = before[1]
    gradient = float(others / mine) if float(mine) else 0.0
    return Leakage(layers, changes[""], gradient)


def _run(
    model: Any,
    example: int,
    order: list[str],
    args: tuple,
    kwargs: dict,
    variables: Any,
    x: Array,
    direction: Array,
) -> tuple[dict[str, Array], tuple[Array, Array]]:
    """Returns what becomes of the example everywhere, and two norms of a gradient."""

    def note(call: Call) -> tuple[Array, dict[str, Array]]:
        y = call.proceed()
        if call.path not in order:
            order.append(call.path)
        return y, {"y": y[example]}

    def forward(x: Array) -> tuple[Array, dict[str, Array]]:
        output, notes = watch(model, note)(variables, x, *args, **kwargs)
        mine = jnp.concatenate(
            [jnp.ravel(leaf[example]) for leaf in jax.tree.leaves(output)]
        )
        c = jax.random.normal(direction, mine.shape, mine.dtype)
        seen = {"/" + path: layer["y"] for path, layer in notes.items()}
        return jnp.sum(c * mine).real, {"": mine, **seen}

    slope, seen = jax.grad(forward, has_aux=True)(x)
    mine = jnp.linalg.norm(jnp.ravel(slope[example]))
    others = jnp.linalg.norm(jnp.ravel(slope.at[example].set(0)))
    return seen, (mine, others)


def _change(before: Array, after: Array) -> float:
    size = jnp.linalg.norm(jnp.ravel(before))
    moved = jnp.linalg.norm(jnp.ravel(after - before))
    return float(moved / jnp.where(size > 0, size, 1))
