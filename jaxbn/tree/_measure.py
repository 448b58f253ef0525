"""Measuring: the moments of what a layer is given, in the shape of its statistics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxbn.core import Moments, batch_moments, merge_moments
from jaxbn.tree._call import Call
from jaxbn.tree._variables import has_statistics


def is_measured(call: Call) -> bool:
    """Returns whether a layer has statistics that data may move."""
    return has_statistics(call.state) and (call.norm is None or call.norm.moves)


def moments_of(call: Call) -> Moments:
    """Returns the moments of what a layer is given, of the shape of its statistics.

    Raises:
        ValueError: if it has several rows of statistics and does not say of what.
    """
    moments = each_part(
        call, lambda mask: batch_moments(call.x, axis=call.axis, mask=mask)
    )
    if moments.total.shape != call.state["mean"].shape:
        raise ValueError(
            f"layer {call.path!r} has statistics of shape "
            f"{call.state['mean'].shape} for data with {moments.total.shape}, expected "
            "the same, or a norm that says in parts= of which examples each row is"
        )
    return moments


def merge_two(a: Moments, b: Moments) -> Moments:
    """Returns the moments of both."""
    return merge_moments(Moments(*(jnp.stack(pair) for pair in zip(a, b, strict=True))))


def each_part(call: Call, measure: Callable[[Any], Any]) -> Any:
    """Returns `measure(mask)`, stacked over the parts if a layer has several rows."""
    if call.norm is None or call.norm.parts is None:
        return measure(call.mask)
    train = not call.use_running_average
    parts = call.norm.parts(call.x, train, mask=call.mask, **call.overrides)
    return jax.vmap(measure)(parts)
