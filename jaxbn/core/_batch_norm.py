"""Batch norm: the bricks laid in the usual order, as one function.

moments of the batch  ->  pooled over devices  ->  absorbed by the running
statistics  ->  used to normalize (in training; in evaluation the running ones are)
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
from jax.typing import ArrayLike

from jaxbn._values import as_dtype, check_function
from jaxbn.base import (
    Array,
    Axes,
    AxisIndexGroups,
    AxisName,
    DType,
    Params,
    State,
)
from jaxbn.core._arrays import (
    as_inexact,
    feature_axes,
    feature_shape,
    reduction_axes,
    stats_dtype,
)
from jaxbn.core._checks import (
    check_layout,
    check_options,
    check_params,
    check_state,
    check_state_dtypes,
    check_switch,
    check_tracing,
)
from jaxbn.core._devices import are_mesh_axes, mesh_size
from jaxbn.core._mask import as_weights
from jaxbn.core._moments import Moments
from jaxbn.core._plan import Batch, Plan, by_index, check_groups, make_plan
from jaxbn.core._remat import named_input
from jaxbn.core._running import absorb, needs_count
from jaxbn.core._shards import pooled_moments
from jaxbn.core._training_pass import apply_batch, apply_stored

Adjust: TypeAlias = Callable[[State, Moments], tuple[Array, Array]]
"""`adjust(state, moments) -> (gain, offset)`; see `bn_apply`."""


def bn_apply(
    params: Params,
    state: State,
    x: ArrayLike,
    train: bool,
    *,
    momentum: float | Array | None = 0.99,
    epsilon: float = 1e-5,
    axis: Axes = -1,
    axis_name: AxisName | None = None,
    axis_index_groups: AxisIndexGroups | None = None,
    normalization_batch_size: int | None = None,
    mask: ArrayLike | None = None,
    use_running_average: bool | None = None,
    update_stats: bool | None = None,
    dtype: DType | None = None,
    unbiased: bool = False,
    debias: bool = False,
    skip_nonfinite: bool = True,
    custom_derivative: bool = True,
    adjust: Adjust | None = None,
    group_index: ArrayLike | None = None,
) -> tuple[Array, State]:
    """Returns `x` normalized per channel, and the new running statistics.

        y = (x - mean) / sqrt(var + epsilon) * scale + bias

    In training mean and var are those of the batch over all axes but `axis`, var with
    1/n, and the running ones move by `new = momentum * old + (1 - momentum) * batch`.
    In evaluation the running ones normalize, and the state returned is the state given.

    Args:
        params: `{'scale': [C], 'bias': [C]}`, either or both left out; a subtree of
            Flax's `params`, as it is.
        state: `{'mean': [C], 'var': [C]}`, with 'count' where the average needs it; a
            subtree of Flax's `batch_stats`, as it is. `{}` will do where running
            statistics are neither used nor updated. Under jit over a mesh of D devices
            [C] absorbs what all of them counted, pooled, and [D, C] keeps them apart as
            pmap and shard_map do: each row absorbs what its device was normalized
            with, and local statistics cost no collective; `merge_batch_stats` makes
            [C] of them to evaluate.
        x: [..., C], floating or complex, any rank from 1. Channels last by default.
        train: a Python bool; sets the two switches below.
        momentum: the weight of the old value, 0.99 as in Flax and Keras. PyTorch's
            default of 0.1 is 0.9 here. None: cumulative, all batches weigh the same.
        epsilon: added to the variance inside the root, 1e-5 as in Flax and PyTorch
            (Keras 1e-3).
        axis: the feature axis, or several; parameters follow ascending order.
        axis_name: the axis (or several) of pmap, vmap or shard_map over which devices
            are pooled, weighted by what they counted; under jit, of the mesh in context
            (`jax.set_mesh`) along which the examples of `x`, its first axis that holds
            no features, are split. None: all of `x` and nothing else.
        axis_index_groups: lists of device indices that are normalized together; they
            partition the axis and may be of unequal size.
        normalization_batch_size: how many neighbouring examples are normalized
            together, instead of groups: a divisor of a device's share (ghost batches),
            that share, several devices' or all. The state absorbs the moments of all
            ghost batches of the array as of one batch. None: all there are.
        mask: bool, or real weights >= 0, true where an element counts; broadcastable to
            `x` or to `x` without its feature axes. Masked equals removed: what lies
            behind comes out as 0, sends and receives no gradient, and may be NaN. (Flax
            and Keras leave it out of the statistics but normalize it with them.)
        use_running_average: which statistics normalize; `not train` by default.
        update_stats: whether the state absorbs the batch; `train` by default. Off for a
            second forward pass (SAM, gradient penalties, teachers).
        dtype: of `y`; that of `x` by default. (Flax promotes bfloat16 to the float32
            of its parameters.) Statistics are in at least float32.
        unbiased: absorb the variance with n/(n-1), as PyTorch does.
        debias: remove the initial value from the exponential average; see
            `update_running`. Haiku does so always, keeping two more arrays.
        skip_nonfinite: channels with a non-finite batch statistic keep their state.
        custom_derivative: False leaves the derivative to JAX: same values, more memory.
            An `axis_name` of vmap always does.
        adjust: `adjust(state, moments) -> (gain, offset)`, [C] each: the normalized
            value becomes `gain * xhat + offset` before scale and bias. Batch
            renormalization and adaptation at test time are made of it. It is given the
            state before the update; with several batches in the array everything is
            [batches, C], the state [1, C]. One that is a frozen dataclass is traced
            once for all layers alike.
        group_index: [N] integers, traced or not: which group each example is of, with a
            state, and if wanted parameters, of [groups, C]. Each group is normalized by
            itself and moves its own row; `domain_norm` is made of it. Not with a
            `normalization_batch_size`, nor where the examples lie on a mesh under jit.

    Returns:
        y of the shape of `x`, and the state. A channel that counted nothing (all
        masked, or no example) gives 0 and keeps its state; one that counted a single
        element has variance 0 and gives `bias`, where PyTorch raises an error.

    Raises:
        ValueError: on shapes, dtypes or options that do not fit; the message says what
            came, what was expected and what to do.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxbn.core import bn_init
        >>> params, state = bn_init(1)
        >>> x = jnp.array([[1.0], [3.0]])
        >>> y, state = bn_apply(params, state, x, True, momentum=0.5)
        >>> y
        Array([[-0.999995],
               [ 0.999995]], dtype=float32)
        >>> state
        {'mean': Array([1.], dtype=float32), 'var': Array([1.], dtype=float32)}

    References:
        Ioffe and Szegedy, Batch Normalization, 2015. https://arxiv.org/abs/1502.03167
        Wu and Johnson, Rethinking "Batch", 2021. https://arxiv.org/abs/2105.07576
    """
    train = check_switch("train", train)
    if use_running_average is None:
        use_running_average = not train
    if update_stats is None:
        update_stats = train
    use_running_average = check_switch("use_running_average", use_running_average)
    update_stats = check_switch("update_stats", update_stats)
    size = normalization_batch_size
    check_options(
        momentum,
        epsilon,
        debias,
        axis_name,
        axis_index_groups,
        size,
        unbiased=unbiased,
        skip_nonfinite=skip_nonfinite,
        custom_derivative=custom_derivative,
    )
    x = named_input(as_inexact(x))
    features = feature_axes(axis, x.ndim)
    shape = feature_shape(x, features)
    examples = reduction_axes(features, x.ndim)[:1]
    num_examples = math.prod(x.shape[a] for a in examples)
    index, num_groups = check_groups(group_index, state, num_examples)
    check_params(params, shape, x, num_groups)
    counts = update_stats and needs_count(momentum, debias)
    weights = as_weights(mask, x, features)

    plan = Plan(shards=num_examples if num_groups else 0, num_groups=num_groups)
    if use_running_average:
        check_state(state, shape, counts=counts, devices=num_groups)
    if update_stats or not use_running_average:
        check_tracing(x)
        for axis in examples:
            check_layout(x, axis, axis_name, size)
        plan = make_plan(num_examples, axis_name, axis_index_groups, size)
        laid = mesh_size(plan.laid_along)
        copies = laid if laid > 1 else 0
        if index is not None:
            plan = by_index(plan, num_examples, num_groups, size)
            copies = num_groups
        if update_stats or adjust is not None:
            check_state(state, shape, counts=counts, devices=copies)
        if adjust is not None:
            check_function("adjust", adjust, "(state, moments)")
            _check_one_state(state, plan, len(shape))
    if update_stats:
        check_state_dtypes(state, stats_dtype(x.dtype))

    dtype = x.dtype if dtype is None else as_dtype("dtype", dtype)
    if index is not None and not num_examples:
        return x.astype(dtype), state  # A plan without examples would not group them.
    step = Step(
        Batch(features, epsilon, plan, dtype),
        use_running_average,
        update_stats,
        momentum,
        debias,
        unbiased,
        skip_nonfinite,
        custom_derivative,
    )
    used = {key: state[key] for key in ("mean", "var", "count") if key in state}
    once = step.is_static() and (adjust is None or dataclasses.is_dataclass(adjust))
    take_step = _step_once if once else _take_step
    y, new = take_step(params, used, x, weights, index, step, adjust)
    return y, {**state, **new} if update_stats else state


class Step(NamedTuple):
    """What `bn_apply` was asked for, checked; hashable unless `momentum` is traced."""

    batch: Batch
    use_running_average: bool
    update_stats: bool
    momentum: float | Array | None
    debias: bool
    unbiased: bool
    skip_nonfinite: bool
    custom_derivative: bool

    def is_static(self) -> bool:
        """Returns whether a jit of its own can take it.

        Not with a traced momentum, nor where an axis of vmap is named, which JAX does
        not look up in a nested jit; and a pass over `x` alone is none to keep.
        """
        static = isinstance(self.momentum, float | int | None)
        static &= self.update_stats or not self.use_running_average
        return static and are_mesh_axes(self.batch.plan.axis_name or ())


def _take_step(
    params: Params,
    state: State,
    x: Array,
    weights: Array | None,
    index: Array | None,
    step: Step,
    adjust: Adjust | None = None,
) -> tuple[Array, State]:
    """Returns `y`, and the state, empty where it stays as it is."""
    batch, rank = step.batch, len(step.batch.features)
    given = x, params.get("scale"), params.get("bias"), weights, batch
    stored = apply_stored(*given, index, state) if step.use_running_average else None
    if stored is not None and not step.update_stats:
        return stored, {}
    if adjust is not None:
        adjust = functools.partial(adjust, _by_group(state, batch.plan))
    y, moments = apply_batch(*given, step.custom_derivative, adjust, index)
    y = y if stored is None else stored
    if not step.update_stats:
        return y, {}
    if index is None:
        moments = pooled_moments(moments, batch.plan, state["mean"].ndim > rank)
    return y, absorb(
        state,
        moments,
        momentum=step.momentum,
        debias=step.debias,
        unbiased=step.unbiased,
        skip_nonfinite=step.skip_nonfinite,
    )


_step_once = jax.jit(_take_step, static_argnames=("step", "adjust"))
"""Jitted: layers alike are traced, differentiated and written into a program once."""


def _check_one_state(state: State, plan: Plan, rank: int) -> None:
    """Refuses statistics stacked over devices, where one is asked for."""
    stacked = [key for key, value in state.items() if value.ndim > rank]
    if plan.shards and not plan.num_groups and stacked:
        raise ValueError(
            f"state {stacked} is stacked over devices, expected one for all where "
            "normalized values are adjusted; merge it by merge_batch_stats"
        )


def _by_group(state: State, plan: Plan) -> State:
    """Returns the state as every batch in the array has it, [1, C]; [C] for one."""
    if not plan.shards or plan.num_groups:
        return state
    return {key: value[None] for key, value in state.items()}
