"""Adaptive norm: at test time the statistics of the test batch have a say.

    mean = (N mean_running + n mean_batch) / (N + n),   var likewise

with n the examples of the batch and N, the prior, how many the running ones stand for.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxbn._values import check_flags, is_number, shown
from jaxbn.base import Array, Axes, Norm, Params, State
from jaxbn.core import Moments, batch_norm, feature_axes
from jaxbn.core._arrays import as_inexact
from jaxbn.core._checks import check_switch
from jaxbn.core._moments import as_divisor
from jaxbn.core._normalize import inverse_deviation


def adaptive_norm(
    *,
    prior_count: float = 16.0,
    adapt_mean: bool = True,
    adapt_var: bool = True,
    stream_momentum: float | None = None,
    epsilon: float = 1e-5,
    axis: Axes = -1,
    **options: Any,
) -> Norm:
    """Returns batch norm that evaluates with statistics of the test batch mixed in.

    For test data unlike the training data: other cameras, weather, corruptions. In
    training it is batch norm.

    Args:
        prior_count: N, in examples. 0: the batch alone decides (prediction-time batch
            norm; outputs then depend on which examples come together). inf: the running
            statistics alone. The more test examples come together, the less it matters;
            for a large shift a prior hurts.
        adapt_mean: whether the mean is mixed; False keeps the running one.
        adapt_var: whether the variance is.
        stream_momentum: the weight of the old value where evaluation is called with
            `update_stats=True`: the running statistics then absorb the batch first, and
            the result is mixed as usual. None: they never move in evaluation, whatever
            `update_stats` says.
        epsilon: added to the variance, inside the root.
        axis: the feature axis, or several.
        **options: the keyword options of `batch_norm`. With an `axis_name` the batch is
            that of all devices, in evaluation too, which costs its collective.

    Returns:
        A `Norm` with the parameters and the state of batch norm.

    Raises:
        ValueError: if `prior_count` is negative or NaN, or `stream_momentum` not
            between 0 and 1.

    Example:
        >>> import jax.numpy as jnp
        >>> norm = adaptive_norm(prior_count=2, epsilon=0.0)
        >>> params, state = norm.init(1)  # mean 0, var 1
        >>> y, _ = norm.apply(params, state, jnp.array([[3.0], [5.0]]), False)
        >>> y.ravel()  # mean 2, var 1
        Array([1., 3.], dtype=float32)

    References:
        Schneider et al., Improving robustness against common corruptions by covariate
        shift adaptation, 2020, equation 1. https://arxiv.org/abs/2006.16971
        Nado et al., Evaluating prediction-time batch normalization, 2020.
        https://arxiv.org/abs/2006.10963
    """
    check_flags(adapt_mean=adapt_mean, adapt_var=adapt_var)
    if not is_number(prior_count) or not prior_count >= 0:
        raise ValueError(
            f"prior_count is {shown(prior_count)}, expected a number >= 0 of examples; "
            "0 for the batch alone, inf for the running statistics alone"
        )
    given = stream_momentum is not None
    if given and not (is_number(stream_momentum) and 0 <= stream_momentum <= 1):
        raise ValueError(
            f"stream_momentum is {shown(stream_momentum)}, expected a number from 0 to "
            "1, the weight of the old value; None for no stream"
        )
    norm = batch_norm(axis=axis, epsilon=epsilon, **options)
    prior_count = float(prior_count)
    nothing = math.isinf(prior_count) or not (adapt_mean or adapt_var)

    def apply(
        params: Params,
        state: State,
        x: ArrayLike,
        train: bool,
        *,
        mask: ArrayLike | None = None,
        **overrides: Any,
    ) -> tuple[Array, State]:
        train, x = check_switch("train", train), as_inexact(x)
        running = overrides.pop("use_running_average", None)
        update = overrides.pop("update_stats", None)
        running = (not train) if running is None else running
        update = train if update is None else update
        running = check_switch("use_running_average", running)
        update = check_switch("update_stats", update)
        if not train and stream_momentum is None:
            update = False
        if update and not train:
            stream = {**overrides, "momentum": stream_momentum, "debias": False}
            switches = {"use_running_average": False, "update_stats": True}
            _, state = norm.apply(
                params, state, x, False, mask=mask, **stream, **switches
            )
            update = False
        overrides["update_stats"] = update
        if nothing or not running:
            overrides["use_running_average"] = running
            return norm.apply(params, state, x, train, mask=mask, **overrides)
        overrides |= {
            "use_running_average": False,
            "adjust": Mixture(
                prior_count, adapt_mean, adapt_var, epsilon, positions(x, axis)
            ),
        }
        return norm.apply(params, state, x, train, mask=mask, **overrides)

    return norm._replace(apply=apply, epsilon=epsilon if nothing else None)


def positions(x: Array, axis: Axes) -> int:
    """Returns how many elements an example has in each channel."""
    features = feature_axes(axis, x.ndim)
    return math.prod([x.shape[a] for a in range(x.ndim) if a not in features][1:])


@dataclasses.dataclass(frozen=True)
class Mixture:
    """What `bn_apply` adjusts by: from the batch's statistics to the mixed ones."""

    prior_count: float
    adapt_mean: bool
    adapt_var: bool
    epsilon: float
    each: int

    def __call__(self, state: State, moments: Moments) -> tuple[Array, Array]:
        """Returns gain and offset of what the batch normalized."""
        count = moments.total / max(self.each, 1)
        both = count + self.prior_count
        weight = count / as_divisor(both)
        # Not 1 - weight, which loses the digits of a variance far below the other.
        kept = jnp.where(both > 0, self.prior_count / as_divisor(both), 1)
        apart = (moments.shift - state["mean"]) + moments.delta
        apart = kept * apart if self.adapt_mean else apart
        var = state["var"]
        if self.adapt_var:
            var = kept * var + weight * moments.var
        inverse = inverse_deviation(var, self.epsilon)
        gain = inverse * jnp.sqrt(moments.var + self.epsilon)
        return gain, inverse * apart
