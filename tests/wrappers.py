"""Ways to run one function on eight devices, and what they send across.

`spread` hides how. Mapped wrappers call the function once a device with its shard;
under jit it is called once with the arrays of all, laid over a mesh, and `axis_name` is
that of the mesh in context.
"""

import contextlib

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxbn.diagnostics import find_collectives

MESHES = ("pmap", "typed shard_map", "untyped shard_map")
MAPPED = (*MESHES, "vmap")
JITS = ("jit", "explicit jit")


def spread(f, wrapper, mesh, shards):
    """Returns `f(shared, *shards)` compiled for eight devices, results stacked.

    Under jit what comes out with the examples of all devices is cut into shards again;
    other results are as `f` returned them.
    """
    in_axes = (None, *[0] * shards)
    if wrapper == "pmap":
        return jax.pmap(f, "devices", in_axes=in_axes)
    if wrapper == "vmap":
        return jax.jit(jax.vmap(f, in_axes, axis_name="devices"))
    if wrapper in JITS:
        return jax.jit(_joined(f))

    def local(shared, *shards):
        out = f(shared, *[shard[0] for shard in shards])
        return jax.tree.map(lambda value: value[None], out)

    return jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(), *[P("devices")] * shards),
            out_specs=P("devices"),
            check_vma=wrapper == "typed shard_map",
        )
    )


def _joined(f):
    def whole(shared, *shards):
        examples = shards[0].shape[0] * shards[0].shape[1]
        out = f(shared, *[s.reshape(examples, *s.shape[2:]) for s in shards])

        def cut(value):
            if value.ndim == 0 or value.shape[0] != examples:
                return value
            return value.reshape(*shards[0].shape[:2], *value.shape[1:])

        return jax.tree.map(cut, out)

    return whole


def in_context(wrapper, mesh):
    """Returns the mesh context that `wrapper` needs, or none."""
    if wrapper not in JITS:
        return contextlib.nullcontext()
    return jax.set_mesh(as_typed(wrapper, mesh))


def as_typed(wrapper, mesh):
    """Returns `mesh` with the kind of axis that `wrapper` names."""
    kind = AxisType.Explicit if wrapper == "explicit jit" else AxisType.Auto
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(kind,))


def lay(tree, wrapper, mesh, by_device=True):
    """Returns arrays [8, ...] where `wrapper` expects them."""
    if wrapper not in JITS:
        return tree
    spec = P("devices") if by_device else P()
    return jax.device_put(tree, NamedSharding(as_typed(wrapper, mesh), spec))


def collectives(step, *arguments):
    """Returns the names of the collectives in the compiled `step`."""
    return [name for name, _ in traffic(step, *arguments)]


def traffic(step, *arguments):
    """Returns (name, bytes of the result) of each collective in the compiled `step`."""
    found = find_collectives(step.lower(*arguments).compile())
    return [tuple(collective) for collective in found]
