"""Batch renormalization: a batch's statistics, corrected towards the running ones.

    y = (xhat * r + d) * scale + bias,      xhat = (x - mean_B) / deviation_B
    r = clip(deviation_B / deviation, 1/r_max, r_max)
    d = clip((mean_B - mean) / deviation, -d_max, d_max)

Gradients pass through xhat and not through r and d.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxbn._values import check_flags, is_number, shown
from jaxbn.base import Array, Axes, Norm, State
from jaxbn.core import Moments, batch_norm
from jaxbn.core._normalize import inverse_deviation


def batch_renorm(
    *,
    r_max: float = 3.0,
    d_max: float = 5.0,
    warmup_steps: int = 5_000,
    r_steps: int = 40_000,
    d_steps: int = 25_000,
    epsilon: float = 1e-5,
    axis: Axes = -1,
    **options: Any,
) -> Norm:
    """Returns batch renormalization, whose training looks like its evaluation.

    As long as the corrections are within their limits the output is that of evaluation
    with the running statistics, though gradients see those of the batch. The limits
    open with the steps a channel has absorbed: up to `warmup_steps` it is batch norm,
    then they grow linearly to `r_max` at `r_steps` and `d_max` at `d_steps`.

    Args:
        r_max: the limit of r, 3 as in the paper; 1 for none of it.
        d_max: the limit of d, 5 as in the paper; 0 for none of it.
        warmup_steps: of plain batch norm, 5,000 as in the paper.
        r_steps: when r_max is reached, 40,000 as in the paper.
        d_steps: when d_max is reached, 25,000 as in the paper. CrossQ's schedule is
            `warmup_steps=r_steps=d_steps=100_000`, momentum 0.99: a switch.
        epsilon: added to both variances, inside the roots. (The paper adds it to the
            deviation, Keras's implementation to the variance.)
        axis: the feature axis, or several.
        **options: the keyword options of `batch_norm`. The average is debiased, so that
            the first batches correct nothing they do not know: `debias` is True.

    Returns:
        A `Norm`. Its state is {'mean', 'var', 'count'}, [C] each; 'count' is the step
        of the schedule. Evaluation is that of batch norm.

    Raises:
        ValueError: on limits below 1 or 0, steps that go backwards, or `debias=False`.

    Example:
        >>> import jax.numpy as jnp
        >>> norm = batch_renorm(warmup_steps=1, r_steps=1, d_steps=1)
        >>> params, state = norm.init(1)
        >>> _, state = norm.apply(params, state, jnp.array([[-1.0], [1.0]]), True)
        >>> y, _ = norm.apply(params, state, jnp.array([[1.0], [2.0]]), True)
        >>> y.round(2).ravel()  # as in evaluation: mean 0, deviation 1
        Array([1., 2.], dtype=float32)

    The paper, and Keras's `renorm=True`, average the deviation, here as everywhere in
    jaxbn the variance is averaged; Keras has a momentum of its own for what corrects.

    References:
        Ioffe, Batch Renormalization, 2017, section 3. https://arxiv.org/abs/1702.03275
        Bhatt et al., CrossQ, 2024. https://arxiv.org/abs/1902.05605
    """
    limits, steps = (r_max, d_max), (warmup_steps, r_steps, d_steps)
    if not all(map(is_number, limits)) or not (
        1 <= r_max < math.inf and 0 <= d_max < math.inf
    ):
        raise ValueError(
            f"r_max is {shown(r_max)} and d_max is {shown(d_max)}, expected "
            "r_max >= 1 and d_max >= 0, finite; 1 and 0 are plain batch norm"
        )
    known = all(is_number(n) and n < 2**31 for n in steps)
    if not known or not 0 <= warmup_steps <= min(r_steps, d_steps):
        given = map(shown, steps)
        raise ValueError(
            "warmup_steps is {}, r_steps {} and d_steps {}, "
            "expected 0 <= warmup_steps <= r_steps and d_steps; equal ones "
            "switch".format(*given)
        )
    check_flags(debias=options.get("debias", True))
    if not options.get("debias", True):
        raise ValueError(
            "debias is False, expected True: the average of the first steps would "
            "correct towards its initial value; leave it out"
        )

    adjust = Correction(
        float(r_max), float(d_max), warmup_steps, r_steps, d_steps, epsilon
    )
    options = {**options, "debias": options.get("momentum", 0.99) is not None}
    return batch_norm(axis=axis, epsilon=epsilon, adjust=adjust, **options)


@dataclasses.dataclass(frozen=True)
class Correction:
    """What `bn_apply` adjusts by: r and d, within the limits of the step."""

    r_max: float
    d_max: float
    warmup_steps: int
    r_steps: int
    d_steps: int
    epsilon: float

    def __call__(self, state: State, moments: Moments) -> tuple[Array, Array]:
        """Returns r and d, 1 and 0 where there is nothing to correct towards."""
        count = state["count"].astype(moments.var.dtype)  # Limits in its digits.
        start = self.warmup_steps
        r_limit = 1 + (self.r_max - 1) * ramp(count, start, self.r_steps)
        d_limit = self.d_max * ramp(count, start, self.d_steps)
        inverse = inverse_deviation(state["var"], self.epsilon)
        r = inverse * jnp.sqrt(moments.var + self.epsilon)
        d = inverse * ((moments.shift - state["mean"]) + moments.delta)
        known = (count > 0) & (moments.total > 0)
        r = jnp.where(known, jnp.clip(r, 1 / r_limit, r_limit), 1)
        d = jnp.where(known, limit(d, d_limit), 0)
        return lax.stop_gradient(r), lax.stop_gradient(d)


def ramp(count: Array, start: int, end: int) -> Array:
    """Returns 0 up to `start`, 1 from `end` on, and a line between them."""
    return jnp.clip((count - start + (start == end)) / max(end - start, 1), 0, 1)


def limit(d: Array, largest: Array) -> Array:
    """Returns `d` within `largest` of 0, in the plane where it is complex."""
    if not jnp.iscomplexobj(d):
        return jnp.clip(d, -largest, largest)
    size = jnp.abs(d)
    return jnp.where(size > largest, d * (largest / jnp.where(size > 0, size, 1)), d)
