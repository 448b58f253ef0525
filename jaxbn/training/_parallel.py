"""Parallelism: the one place that knows how several devices share a batch.

All three ways run the same pure functions and give the same numbers. Under `pmap` and
`shard_map` a function sees its device's share, and collectives along the axis 'devices'
join them; under `jit` it sees the whole batch, and the compiler splits the work along
the sharding of the rows. What is replicated has one copy a device.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxbn.training._config import ConfigError, TrainConfig

AXIS = "devices"
REPLICATED, SPLIT, NUMBER = "replicated", "split", "number"
"""What an argument of a distributed function is: made by `replicate`, by `split`, or a
plain number."""


class Parallel(NamedTuple):
    """How a run is spread.

    Attributes:
        mode: 'jit', 'shard_map' or 'pmap'.
        devices: those that share a batch.
    """

    mode: str
    devices: tuple[jax.Device, ...]

    @property
    def axis_name(self) -> str | None:
        """The axis that functions may reduce over; None where they see everything."""
        return None if self.mode == "jit" else AXIS

    @property
    def mesh(self) -> Mesh:
        """The devices as a mesh of one axis."""
        return Mesh(np.array(self.devices), (AXIS,))


def start_parallel(config: TrainConfig) -> Parallel:
    """Returns how the run is spread; splits the CPU if that is asked for.

    Raises:
        ConfigError: if there are not as many devices, or they do not divide the batch.
    """
    asked = config.num_devices
    if asked is not None and asked > _virtual_devices():
        # Too late once JAX has started: then the devices are what they are.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", asked)
    devices = jax.devices()[:asked]
    if asked is not None and len(devices) < asked:
        raise ConfigError(
            f"num_devices is {asked}, but there are {len(devices)} "
            f"{devices[0].platform} devices; ask for fewer, or start a new process"
        )
    if config.batch_size % len(devices):
        raise ConfigError(
            f"batch_size is {config.batch_size}, expected a multiple of the "
            f"{len(devices)} devices that share it"
        )
    auto = "jit" if len(devices) == 1 else "pmap"
    mode = auto if config.parallel == "auto" else config.parallel
    return Parallel(mode, tuple(devices))


def _virtual_devices() -> int:
    """Returns into how many devices JAX was asked to split the CPU."""
    return max(getattr(jax.config, "jax_num_cpu_devices", 1), 1)


def replicate(parallel: Parallel, tree: Any) -> Any:
    """Returns `tree` with a copy on each device."""
    if parallel.mode != "pmap":
        return jax.device_put(tree, NamedSharding(parallel.mesh, P()))
    copy = jax.pmap(
        lambda _, tree: tree,
        axis_name=AXIS,
        in_axes=(0, None),
        devices=parallel.devices,
    )
    return copy(np.zeros(len(parallel.devices)), tree)


def fetch(parallel: Parallel, tree: Any) -> Any:
    """Returns a replicated `tree` as NumPy arrays."""

    def first(x: jax.Array) -> np.ndarray:
        here = np.asarray(x.addressable_data(0))
        return np.asarray(here[0]) if parallel.mode == "pmap" else here

    return jax.tree.map(first, tree)


def split(parallel: Parallel, rows: np.ndarray) -> jax.Array | np.ndarray:
    """Returns `rows` [steps, B] with the columns of each device on it."""
    if parallel.mode != "pmap":
        return jax.device_put(rows, NamedSharding(parallel.mesh, P(None, AXIS)))
    shares = np.split(rows, len(parallel.devices), axis=1)
    return np.stack(shares)


def distribute(
    parallel: Parallel,
    function: Callable[..., Any],
    kinds: tuple[str, ...],
    *,
    donate: tuple[int, ...] = (),
) -> Callable[..., Any]:
    """Returns `function` compiled to run on all devices; its results are replicated.

    Args:
        parallel: how.
        function: of one device's share of the `SPLIT` arguments.
        kinds: what each argument is.
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
    if parallel.mode == "shard_map":
        specs = tuple(P(None, AXIS) if kind == SPLIT else P() for kind in kinds)
        function = jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False
        )
    return jax.jit(
        function, donate_argnums=donate, out_shardings=NamedSharding(mesh, P())
    )
