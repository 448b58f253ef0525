"""Shards: parts of one array, cut along its examples, with statistics of their own.

A shard is a ghost batch, or under jit the share of a device. Cut apart, the array has
an axis of shards in front, which serves as one more feature axis: the same arithmetic
gives [shards, C] numbers for C. Where shards are normalized together their moments
become those of groups, [groups, C], and come back by `to_shards`, whose transpose is a
sum.

Where shards lie on devices, the only thing that crosses is one small array of moments
forward and one of sums backward; apart from that each shard is worked on where it lies.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jax.sharding import reshard

from jaxbn.base import Array, AxisName
from jaxbn.core._by_index import measure_by_index
from jaxbn.core._devices import axis_names, is_bound, mesh_size
from jaxbn.core._layout import is_explicit, keep
from jaxbn.core._moments import Moments, measure, merge_moments
from jaxbn.core._plan import Batch, Plan
from jaxbn.core._reduce import pack, reduce_moments, select, unpack


def cut(x: Array, axis: int, plan: Plan) -> Array:
    """Returns `x` as [shards, B / shards, ...]; `axis` is that of its B examples.

    As [B, ...] where groups are by index and each example is a shard: behind an axis of
    one, XLA's CPU library sums eight times as slowly. A mask that does not vary along
    the examples has one shard.
    """
    x = jnp.moveaxis(x, axis, 0)
    if plan.num_groups:
        return x
    shards = plan.shards if x.shape[0] != 1 else 1
    x = x.reshape(shards, x.shape[0] // shards, *x.shape[1:])
    return spread_out(x, plan) if shards != 1 else x


def features_when_cut(
    features: tuple[int, ...], axis: int, plan: Plan
) -> tuple[int, ...]:
    """Returns the feature axes of what `cut` returns, that of the shards first."""
    within = 0 if plan.num_groups else 1
    return 0, *(a + within if a > axis else a + within + 1 for a in features)


def join(x: Array, axis: int, plan: Plan) -> Array:
    """Returns the array that `cut` was given."""
    if not plan.num_groups:
        x = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
    return jnp.moveaxis(x, 0, axis)


def measure_shards(
    x: Array,
    weights: Array | None,
    features: tuple[int, ...],
    plan: Plan,
    index: Array | None = None,
) -> Moments:
    """Returns the moments of each shard, fields [shards, C]; without shards, [C]."""
    if not plan.shards:
        return measure(x, weights, features)
    if weights is not None:
        weights = jnp.broadcast_to(weights, (x.shape[0], *weights.shape[1:]))
    if index is None:
        return measure(x, weights, features)
    return measure_by_index(x, weights, features, index, plan.num_groups)


def merge_shards(moments: Moments, plan: Plan) -> Moments:
    """Returns what shards that belong together counted, [groups, C]."""
    if plan.shard_groups is None:
        return moments
    everywhere = gather_shards(moments, plan)

    def merge(members: Array) -> Moments:
        return merge_moments(select(everywhere, members))

    return jax.vmap(merge, in_axes=1)(membership(plan.shard_groups))


def pooled_moments(moments: Moments, plan: Plan, by_device: bool) -> Moments:
    """Returns what running statistics absorb: groups, or shards apart, pooled.

    That is everything counted, [C], or what each device normalized, [devices, C].
    """
    if not plan.shards:
        return moments
    if not by_device:
        apart = plan.shard_groups is None
        return merge_moments(gather_shards(moments, plan) if apart else moments)
    if plan.shard_groups is not None:
        return Moments(*(to_shards(field, plan) for field in moments))
    devices = mesh_size(plan.laid_along)
    shape = devices, plan.shards // devices
    return merge_moments(
        Moments(*(f.reshape(*shape, *f.shape[1:]) for f in moments)), 1
    )


def sum_shards(value: Array, plan: Plan) -> Array:
    """Returns the sums [groups, ...] over the shards of each group, [shards, ...]."""
    if plan.shard_groups is None:
        return value
    return jnp.sum(keep(membership(plan.shard_groups), value[:, None]), 0)


def to_shards(groups: Array, plan: Plan) -> Array:
    """Returns to each shard what its group has, [shards, ...]; linear."""
    if plan.shard_groups is None:
        return groups
    members = membership(plan.shard_groups)
    return spread_out(jnp.sum(keep(members, groups[None]), 1), plan)


def per_group(per_channel: Array | None, batch: Batch) -> Array | None:
    """Returns a parameter [C] as every row has it, [1, C]; one of each row as it is."""
    if per_channel is None or not batch.plan.shards:
        return per_channel
    stacked = per_channel.ndim == len(batch.features)
    return per_channel if stacked else per_channel[None]


def membership(shard_groups: tuple[int, ...]) -> Array:
    """Returns [shards, groups] bool: which shard is in which group."""
    return jnp.eye(max(shard_groups) + 1, dtype=bool)[jnp.array(shard_groups)]


def spread_out(x: Array, plan: Plan) -> Array:
    """Returns `x` with its shards on the devices of the plan."""
    return _lay(x, plan.laid_along, plan) if plan.laid_along else x


def gather_shards(moments: Moments, plan: Plan) -> Moments:
    """Returns the moments of all shards on all devices: one all-gather."""
    if not plan.laid_along:
        return moments
    packed = _lay(jnp.swapaxes(pack(moments), 0, 1), None, plan)
    return unpack(packed, moments)


def _lay(x: Array, shards: tuple[str, ...] | None, plan: Plan) -> Array:
    """Returns `x` with its first axis along mesh axes or on all, the rest as it is."""
    if is_explicit(plan.laid_along):
        return reshard(x, P(shards, *jax.typeof(x).sharding.spec[1:]))
    free = [P.UNCONSTRAINED] * (x.ndim - 1)
    return lax.with_sharding_constraint(x, P(shards, *free))


def merge_replicas(moments: Moments, axis_name: AxisName | None = None) -> Moments:
    """Returns the merge of the moments of replicas, wherever they are.

    Args:
        moments: [K, C], stacked over replicas, or [C], those of this device.
        axis_name: None for stacked ones, wherever they lie. An axis of the mesh in
            context that stacked ones lie along: one all-gather brings them together.
            An axis of pmap, vmap or shard_map: one all-reduce does. Both kinds: both.

    Returns:
        Moments, each field [C].

    Raises:
        ValueError: if there is no such axis.

    Example:
        >>> from jaxbn.core import batch_moments
        >>> replicas = jax.vmap(batch_moments)(jnp.array([[[0.0]], [[4.0]]]))
        >>> merge_replicas(replicas).var
        Array([4.], dtype=float32)
    """
    names = axis_names(axis_name)
    bound = tuple(filter(is_bound, names))
    if not names or stacks_along(names):
        laid_along = tuple(name for name in names if name not in bound)
        moments = merge_moments(gather_shards(moments, Plan(laid_along=laid_along)))
    return reduce_moments(moments, bound)


def stacks_along(axis_name: AxisName) -> bool:
    """Returns whether replicas along `axis_name` are stacked here.

    Args:
        axis_name: an axis (or several) of devices.

    Returns:
        False where functions run once a device, True under jit, where one array holds
        what all of them have.

    Raises:
        ValueError: if there is no such axis.
    """
    unbound = tuple(n for n in axis_names(axis_name) if not is_bound(n))
    mesh_size(unbound)  # Refuses a name that is not of the mesh either.
    return bool(unbound)
