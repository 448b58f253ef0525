"""Parallelism: the one place that knows how several devices share a batch.

All three ways run the same pure functions and give the same numbers. Under `pmap` and
`shard_map` a function sees its device's share, and collectives along the axis 'devices'
join them; under `jit` it sees the whole batch, and the compiler splits the work along
the sharding of the rows. The devices may belong to several processes: each of them
hands over what lies on its own.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxbn.training._check_config import check_sharing
from jaxbn.training._config import ConfigError, TrainConfig

AXIS = "devices"
REPLICATED, OWN, ROWS, SPLIT, NUMBER = "replicated", "own", "rows", "split", "number"
"""What an argument or result is: the same on all devices; one for each, stacked where
all are seen, [D, ...]; a batch [B, ...] or batches [steps, B] split over devices; a
plain number."""
_SPECS = {REPLICATED: P(), OWN: P(AXIS), ROWS: P(AXIS), SPLIT: P(None, AXIS)}
_SPECS |= {NUMBER: P()}


class Parallel(NamedTuple):
    """How a run is spread.

    Attributes:
        mode: 'jit', 'shard_map' or 'pmap'.
        devices: those that share a batch, of all processes.
        apart: whether devices keep running statistics of their own.
    """

    mode: str
    devices: tuple[jax.Device, ...]
    apart: bool = False

    @property
    def axis_name(self) -> str | None:
        """The axis that steps may reduce over; None where they see everything."""
        return None if self.mode == "jit" else AXIS

    @property
    def norm_axis(self) -> str | None:
        """The axis that a norm pools over; under jit it is one of the mesh."""
        return AXIS if len(self.devices) > 1 else None

    @property
    def mesh(self) -> Mesh:
        """The devices as a mesh of one axis."""
        return Mesh(np.array(self.devices), (AXIS,))

    @property
    def statistics(self) -> str:
        """What running statistics are while training: `OWN` or `REPLICATED`."""
        return OWN if self.apart else REPLICATED

    @property
    def local(self) -> list[int]:
        """Which of the devices belong to this process."""
        here = jax.process_index()
        return [i for i, d in enumerate(self.devices) if d.process_index == here]


def start_parallel(config: TrainConfig) -> Parallel:
    """Returns how the run is spread; splits the CPU if that is asked for.

    Raises:
        ConfigError: if there are not as many devices, or they do not divide the batch,
            or cannot form the normalization batch.
    """
    asked = config.num_devices
    devices = jax.devices()[:asked]
    if asked is not None and len(devices) < asked:
        raise ConfigError(
            f"--num_devices is {asked}, but there are {len(devices)} "
            f"{devices[0].platform} devices; ask for fewer, or start a new process"
        )
    if asked is not None and len(devices) < len(jax.devices()) and _several():
        raise ConfigError(
            f"--num_devices is {asked}, but the {jax.process_count()} processes have "
            f"{len(jax.devices())}; use them all"
        )
    groups = check_sharing(config, len(devices))
    auto = "jit" if len(devices) == 1 else "pmap"
    mode = auto if config.parallel == "auto" else config.parallel
    return Parallel(mode, tuple(devices), groups is not None and len(devices) > 1)


def _several() -> bool:
    return jax.process_count() > 1


def put(parallel: Parallel, tree: Any, kind: Any = REPLICATED) -> Any:
    """Returns the arrays of `tree` on the devices.

    Args:
        parallel: how.
        tree: of arrays that are the same in all processes.
        kind: `REPLICATED`, `OWN` or `SPLIT`, or a tree of them.
    """
    if parallel.mode != "pmap":
        return _each(kind, lambda k, x: _lay(parallel, np.asarray(x), _SPECS[k]), tree)
    if not jax.tree.leaves(tree):
        return tree
    mine = parallel.local

    def stack(kind: str, x: Any) -> np.ndarray:
        x = np.asarray(x)
        if kind == REPLICATED:
            return np.broadcast_to(x, (len(mine), *x.shape))
        if kind == SPLIT:
            x = np.stack(np.split(x, len(parallel.devices), axis=1))
        return x[mine]

    return _copier(parallel.devices)(_each(kind, stack, tree))


@functools.cache
def _copier(devices: tuple[jax.Device, ...]) -> Callable[[Any], Any]:
    """Returns what lays a tree [D, ...] on devices, compiled once for each shape."""
    return jax.pmap(lambda tree: tree, axis_name=AXIS, devices=devices)


def put_rows(parallel: Parallel, tree: Any) -> Any:
    """Returns a batch of kind `ROWS`; `tree` has this process's rows, [b, ...]."""
    if parallel.mode == "pmap":
        shares = len(parallel.local)
        return jax.tree.map(lambda x: x.reshape(shares, -1, *x.shape[1:]), tree)
    sharding = NamedSharding(parallel.mesh, P(AXIS))
    place = jax.make_array_from_process_local_data
    return jax.tree.map(lambda x: place(sharding, x), tree)


def own_rows(parallel: Parallel, rows: np.ndarray) -> np.ndarray:
    """Returns the columns of [steps, B] that this process's devices take."""
    shares = np.split(rows, len(parallel.devices), axis=1)
    return np.concatenate([shares[i] for i in parallel.local], axis=1)


def fetch(parallel: Parallel, tree: Any, kind: Any = REPLICATED) -> Any:
    """Returns what `put` was given, as NumPy arrays in every process."""

    def first(x: jax.Array) -> np.ndarray:
        here = np.asarray(x.addressable_data(0))
        return np.asarray(here[0]) if parallel.mode == "pmap" else here

    def everyone(x: jax.Array) -> np.ndarray:
        if _several():
            return np.asarray(multihost_utils.process_allgather(x, tiled=True))
        return np.asarray(x)

    return _each(kind, lambda k, x: everyone(x) if k == OWN else first(x), tree)


def distribute(
    parallel: Parallel,
    function: Callable[..., Any],
    kinds: tuple[Any, ...],
    results: Any = REPLICATED,
    *,
    donate: tuple[int, ...] = (),
) -> Callable[..., Any]:
    """Returns `function` compiled to run on all devices.

    Args:
        parallel: how.
        function: of one device's share of what is split and of its own of what is `OWN`
            under pmap and shard_map, of everything under jit.
        kinds: what each argument is; a kind, or a tree of kinds.
        results: what is returned, likewise.
        donate: arguments whose memory the results may take.
    """
    if parallel.mode == "pmap":
        return jax.pmap(
            function,
            axis_name=AXIS,
            in_axes=tuple(None if kind == NUMBER else 0 for kind in kinds),
            devices=parallel.devices,
            donate_argnums=donate,
        )
    mesh = parallel.mesh
    specs, out_specs = (_each(k, lambda k, _: _SPECS[k], k) for k in (kinds, results))
    shardings = _each(results, lambda k, _: NamedSharding(mesh, _SPECS[k]), results)
    if parallel.mode == "jit":
        whole = jax.jit(function, donate_argnums=donate, out_shardings=shardings)

        def in_mesh(*arguments: Any) -> Any:
            with jax.set_mesh(mesh):  # Where a norm finds its axis under jit.
                return whole(*arguments)

        return in_mesh

    def local(*arguments: Any) -> Any:
        own = _each(kinds, lambda k, x: x[0] if k == OWN else x, arguments)
        out = function(*own)
        return _each(results, lambda k, x: x[None] if k == OWN else x, out)

    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=False
    )
    return jax.jit(mapped, donate_argnums=donate, out_shardings=shardings)


def _lay(parallel: Parallel, x: np.ndarray, spec: P) -> jax.Array:
    sharding = NamedSharding(parallel.mesh, spec)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _each(kinds: Any, function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Returns `function(kind, array)` of all arrays; `kinds` is a prefix of `tree`."""

    def of_part(kind: str, part: Any) -> Any:
        return jax.tree.map(lambda x: function(kind, x), part)

    return jax.tree.map(of_part, kinds, tree)
