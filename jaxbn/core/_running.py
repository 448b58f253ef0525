"""Running statistics: how a state absorbs the moments of a batch.

All three averages are one update with three rates,

    new = (1 - rate) * old + rate * batch

    exponential            rate = 1 - momentum
    cumulative             rate = 1 / (count + 1)
    debiased exponential   rate = (1 - momentum) / (1 - momentum^(count + 1))

The last two start at rate 1: what the state was initialized with leaves no trace, and
after one step evaluation uses the statistics of that batch exactly. `count` is kept
per channel because a channel may sit a batch out.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from jaxbn._values import shown
from jaxbn.base import Array, State
from jaxbn.core._arrays import stats_dtype
from jaxbn.core._checks import check_options, check_state
from jaxbn.core._layout import laid_like
from jaxbn.core._moments import Moments, as_divisor, check_moments


def update_running(
    state: State,
    moments: Moments,
    *,
    momentum: float | Array | None = 0.99,
    debias: bool = False,
    unbiased: bool = False,
    skip_nonfinite: bool = True,
) -> State:
    """Returns the state after absorbing the moments of one batch.

    A channel that counted nothing keeps its statistics, and so does one whose batch
    mean or variance is not finite: a single inf would otherwise stay in an average for
    ever.

    Args:
        state: `{'mean': [C], 'var': [C]}` and 'count' where the rate needs it; other
            keys are carried along.
        moments: of the batch, each field [C].
        momentum: the weight of the old value, as in Flax, Keras and Haiku (PyTorch's
            momentum is the weight of the new one); None for the cumulative average.
        debias: remove the initial value from the exponential average.
        unbiased: absorb `var * n / (n - 1)` with n the sum of weights (1 where n <= 1),
            as PyTorch does; Flax, Keras and Haiku absorb the biased variance.
        skip_nonfinite: False lets non-finite statistics in, as all others do.

    Returns:
        A dict with the keys, shapes, dtypes and layout of `state`.

    Raises:
        ValueError: if options, state and moments do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxbn.core import batch_moments
        >>> state = {'mean': jnp.zeros(1), 'var': jnp.ones(1)}
        >>> moments = batch_moments(jnp.array([[0.0], [2.0], [4.0]]))
        >>> update_running(state, moments, momentum=0.9, unbiased=True)
        {'mean': Array([0.2], dtype=float32), 'var': Array([1.3], dtype=float32)}

    References:
        Ioffe and Szegedy, 2015, algorithm 2, for the unbiased variance.
        Kingma and Ba, Adam, 2015, section 3, for the debiased average.
    """
    check_options(
        momentum, 0.0, debias, unbiased=unbiased, skip_nonfinite=skip_nonfinite
    )
    check_moments(moments)
    check_state(state, moments.total.shape, counts=needs_count(momentum, debias))
    rule = {"momentum": momentum, "debias": debias, "unbiased": unbiased}
    return absorb(state, moments, skip_nonfinite=skip_nonfinite, **rule)


def absorb(
    state: State,
    moments: Moments,
    *,
    momentum: Any,
    debias: bool,
    unbiased: bool,
    skip_nonfinite: bool,
) -> State:
    """Does what `update_running` does, with options and a state that are checked.

    Raises:
        ValueError: if `momentum` is neither a number nor one a channel.
    """
    if jnp.shape(0 if momentum is None else momentum) not in ((), moments.total.shape):
        raise ValueError(
            f"momentum is {shown(momentum)}, expected a number, or one a channel, of "
            f"shape {moments.total.shape}; pass a number"
        )
    counts = needs_count(momentum, debias)
    moments = Moments(*(laid_like(field, state["mean"]) for field in moments))
    total, mean, var = moments.total, moments.mean, moments.var
    count = state["count"].astype(var.dtype) if counts else None
    if momentum is not None and not isinstance(momentum, int | float):
        momentum = jnp.asarray(momentum, var.dtype)  # 1 - momentum in its digits.
    keep, rate = averaging_weights(momentum, count)
    if unbiased:
        var = jnp.where(total > 1, var * (total / as_divisor(total - 1)), var)
    valid = total > 0
    if skip_nonfinite:
        valid &= jnp.isfinite(mean) & jnp.isfinite(var)
    new = {}
    for key, batch in (("mean", mean), ("var", var)):
        old = state[key]
        wide = old.astype(jnp.promote_types(old.dtype, stats_dtype(batch.dtype)))
        batch = lax.select(valid, batch, jnp.zeros_like(batch))
        mixed = (keep * wide + rate * batch).astype(wide.dtype)
        new[key] = lax.select(valid, mixed, wide).astype(old.dtype)
    if counts:
        new["count"] = state["count"] + valid.astype(state["count"].dtype)
    return {**state, **new}


def needs_count(momentum: object, debias: bool) -> bool:
    """Returns whether the rate depends on how many batches were absorbed."""
    return momentum is None or debias


def averaging_weights(
    momentum: float | Array | None, count: Array | None
) -> tuple[float | Array, float | Array]:
    """Returns the weights of the old and the new value.

    `count` is the number of batches absorbed so far, None for the plain average.
    """
    if momentum is None:
        rate = 1 / (jnp.asarray(count) + 1)
        return 1 - rate, rate
    if count is None:
        return momentum, 1 - momentum
    # 1 - momentum^t cancels for a momentum near 1; its logarithm keeps the digits.
    logarithm = jnp.log1p(jnp.asarray(momentum - 1, count.dtype))
    before = jnp.expm1(jnp.maximum(count, 1) * logarithm)
    after = jnp.expm1((count + 1) * logarithm)
    keep = jnp.where(count == 0, 0.0, momentum * (before / after))
    rate = (1 - momentum) / -after
    # The smaller one has its digits, the other makes 1 of both: means would drift.
    smaller = ~(keep >= rate)
    return jnp.where(smaller, keep, 1 - rate), jnp.where(smaller, 1 - keep, rate)
