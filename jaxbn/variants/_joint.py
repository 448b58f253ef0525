"""Joint normalization: several arrays that share one mean and one variance.

The levels of a feature pyramid, the two batches of CrossQ: what belongs together does
not have to be one array. Moments are measured apart and added; nothing is concatenated.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxbn._values import shown
from jaxbn.base import Array, Axes, AxisIndexGroups, AxisName, DType, Params, State
from jaxbn.core import (
    Moments,
    batch_moments,
    feature_axes,
    feature_shape,
    merge_moments,
    normalize,
    reduce_moments,
)
from jaxbn.core._arrays import as_inexact
from jaxbn.core._checks import check_options, check_params, check_state, check_switch
from jaxbn.core._devices import axis_names, is_bound, mesh_size
from jaxbn.core._running import absorb, needs_count


def apply_jointly(
    params: Params,
    state: State,
    xs: Sequence[ArrayLike],
    train: bool,
    *,
    masks: Sequence[ArrayLike | None] | None = None,
    momentum: float | Array | None = 0.99,
    epsilon: float = 1e-5,
    axis: Axes = -1,
    axis_name: AxisName | None = None,
    axis_index_groups: AxisIndexGroups | None = None,
    dtype: DType | None = None,
    update_stats: bool | None = None,
    unbiased: bool = False,
    debias: bool = False,
    skip_nonfinite: bool = True,
) -> tuple[tuple[Array, ...], State]:
    """Returns the arrays normalized as the one batch they make, and the new state.

    Equal to batch norm of all elements in one array; every element weighs the same, so
    larger arrays weigh more. Calling a norm once an array instead, as heads shared by
    feature levels usually do, normalizes each by itself while the running statistics
    mix them, which Wu and Johnson find to cost 5 points of AP (their table 5).

    Args:
        params: as for `bn_apply`.
        state: as for `bn_apply`.
        xs: arrays [..., C], of any ranks and sizes; all see the same channels.
        train: a Python bool; evaluation normalizes by the running statistics.
        masks: one an array, or None for none; as for `bn_apply`.
        momentum: the weight of the old value.
        epsilon: added to the variance, inside the root.
        axis: the feature axis, or several, of each array.
        axis_name: the axis of devices to pool over: one collective for all arrays. Of
            a mesh, under jit, arrays are of all devices already.
        axis_index_groups: as for `bn_apply`.
        dtype: of the results; that of each array by default.
        update_stats: whether the state absorbs the batch; `train` by default, in
            evaluation too.
        unbiased: absorb the variance with n/(n-1).
        debias: remove the initial value from the average.
        skip_nonfinite: channels with a non-finite statistic keep their state.

    Returns:
        A tuple like `xs`, and the state.

    Raises:
        ValueError: if there are no arrays, masks of another number, or as `bn_apply`.

    Example:
        >>> from jaxbn.core import bn_init
        >>> params, state = bn_init(1)
        >>> xs = jnp.array([[0.0]]), jnp.array([[[3.0], [6.0]]])
        >>> ys, state = apply_jointly(params, state, xs, True, momentum=0.0)
        >>> state['mean'], state['var']
        (Array([3.], dtype=float32), Array([6.], dtype=float32))

    References:
        Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, section 5.2.
    """
    for name, given in (("xs", xs), ("masks", [] if masks is None else masks)):
        listed = hasattr(given, "__len__") and getattr(given, "shape", (0,)) != ()
        if isinstance(given, str | Mapping) or not listed:
            raise ValueError(
                f"{name} is {shown(given)}, expected a list; pass (x,) for one array"
            )
    masks = [None] * len(xs) if masks is None else masks
    if not len(xs) or len(masks) != len(xs):
        raise ValueError(
            f"there are {len(xs)} arrays and {len(masks)} masks, expected one mask an "
            "array, and an array; pass None where all counts"
        )
    train = check_switch("train", train)
    fixed: dict[str, Any] = {"epsilon": epsilon, "axis": axis, "dtype": dtype}
    check_options(
        momentum,
        epsilon,
        debias,
        axis_name,
        axis_index_groups,
        unbiased=unbiased,
        skip_nonfinite=skip_nonfinite,
    )
    arrays = [as_inexact(x) for x in xs]
    update = train if update_stats is None else update_stats
    update = check_switch("update_stats", update)
    for x in arrays:
        shape = feature_shape(x, feature_axes(axis, x.ndim))
        check_params(params, shape, x)
        if update or not train:
            check_state(state, shape, counts=update and needs_count(momentum, debias))
    pairs = list(zip(arrays, masks, strict=True))
    nothing = jnp.zeros(())
    mean, var = state.get("mean", nothing), state.get("var", nothing)
    parts = dict(fixed)
    if train or update:
        each = [batch_moments(x, axis=axis, mask=mask) for x, mask in pairs]
        moments = merge_moments(Moments(*map(jnp.stack, zip(*each, strict=True))))
        names = axis_names(axis_name)
        bound = tuple(filter(is_bound, names))
        mesh_size(tuple(name for name in names if name not in bound))  # Is it there?
        moments = reduce_moments(moments, bound, axis_index_groups)
        if train:
            mean, var, parts["delta"] = moments.shift, moments.var, moments.delta
        if update:
            rule: dict[str, Any] = {"unbiased": unbiased, "debias": debias}
            rule |= {"momentum": momentum, "skip_nonfinite": skip_nonfinite}
            state = absorb(state, moments, **rule)
    affine = params.get("scale"), params.get("bias")
    ys = (normalize(x, mean, var, *affine, mask=mask, **parts) for x, mask in pairs)
    return tuple(ys), state
