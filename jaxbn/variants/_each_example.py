"""Each example by itself: what the norms that know no batch are made of."""

from collections.abc import Sequence
from typing import Any

from jax.typing import ArrayLike

from jaxbn.base import Array, DType, Norm, Params, State
from jaxbn.core import batch_norm, feature_axes
from jaxbn.core._arrays import as_inexact, expand
from jaxbn.core._checks import check_params
from jaxbn.core._mask import as_weights, conceal
from jaxbn.core._moments import measure
from jaxbn.core._normalize import standardize


def each_example(
    within: Any, axis: int, epsilon: float, dtype: DType | None, options: dict[str, Any]
) -> Norm:
    """Returns the pair that normalizes by `within`, then scales and adds the bias.

    Raises:
        ValueError: if `axis` is not a single one.
    """
    if not isinstance(axis, int):
        raise ValueError(
            f"axis is {axis}, expected one int: these norms have one feature axis; "
            "flatten several into one"
        )
    start = batch_norm(axis=axis, epsilon=epsilon, dtype=dtype, **options).init

    def init(
        num_features: int | Sequence[int], *, key: Array | None = None
    ) -> tuple[Params, State]:
        return start(num_features, key=key)[0], {}

    def apply(
        params: Params,
        state: State,
        x: ArrayLike,
        train: bool,
        *,
        mask: ArrayLike | None = None,
        **overrides: Any,
    ) -> tuple[Array, State]:
        x = as_inexact(x)
        features = feature_axes(axis, x.ndim)
        check_params(params, (x.shape[features[0]],), x)
        weights = as_weights(mask, x, features)
        y = within(x, weights, features[0], epsilon)
        if "scale" in params:
            y = y * expand(params["scale"], features, x.ndim)
        if "bias" in params:
            y = y + expand(params["bias"], features, x.ndim)
        return conceal(y.astype(dtype or x.dtype), weights), state

    return Norm(init, apply, axis)


def by_group(
    x: Array, weights: Array | None, axis: int, epsilon: float, num_groups: int | None
) -> Array:
    """Returns `x` normalized by the moments of each example's groups of channels."""
    channels = x.shape[axis]
    groups = channels if num_groups is None else num_groups
    if channels % groups:
        raise ValueError(
            f"num_groups is {groups} for {channels} channels, expected a divisor of "
            "them; pass one"
        )

    def cut(a: Array) -> Array:  # [..., C, ...] to [..., groups, C / groups, ...]
        inside = (groups, a.shape[axis] // groups) if a.shape[axis] > 1 else (1, 1)
        return a.reshape(*a.shape[:axis], *inside, *a.shape[axis + 1 :])

    examples = 0 if axis else 2  # where `cut` leaves them
    features = tuple(sorted((examples, axis))) if x.ndim > 1 else (axis,)
    parts = None if weights is None else cut(weights)
    return _standardize(cut(x), parts, features, epsilon).reshape(x.shape)


def by_position(x: Array, weights: Array | None, axis: int, epsilon: float) -> Array:
    """Returns `x` normalized by the moments of each position's channels."""
    features = tuple(a for a in range(x.ndim) if a != axis)
    return _standardize(x, weights, features, epsilon)


def _standardize(
    x: Array, weights: Array | None, features: tuple[int, ...], epsilon: float
) -> Array:
    moments = measure(x, weights, features)
    fixed = moments.shift, moments.delta, moments.var, None, None
    return standardize(conceal(x, weights), *fixed, epsilon, features)
