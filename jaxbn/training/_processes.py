"""Processes: several of them, on one machine or many, that train one network.

Each runs the same program on its own devices and hands over its own part of every
batch. Process 0 speaks and writes; what it alone knows (a checkpoint, when a signal
came) it shares. When one is lost the others end at once, saying which: see `_lifeline`.
"""

import contextlib
import json
import os
import socket
import sys
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxbn._values import shown
from jaxbn.training._config import ConfigError, TrainConfig
from jaxbn.training._lifeline import Invitation, Lifeline, join, leave, listen

FAILED = 1
START_SECONDS = 60
"""How long processes wait for each other at the start."""


class Processes(NamedTuple):
    """Those that train together, seen from one of them.

    Attributes:
        index: of this one.
        count: of all.
        lifeline: what tells when one is lost; None if there is only one.
    """

    index: int = 0
    count: int = 1
    lifeline: Lifeline | None = None

    @property
    def leads(self) -> bool:
        """Whether this process speaks and writes."""
        return self.index == 0

    def meet(self, where: str) -> None:
        """Waits until all have come here."""
        if self.count > 1:
            multihost_utils.sync_global_devices(where)

    def end(self) -> None:
        """Waits until all have come to their end, which none takes for a loss then."""
        self.meet("end")
        if self.lifeline is not None:
            self.lifeline.close()


def start_processes(config: TrainConfig) -> Processes:
    """Starts JAX, with the other processes if there are any, and the devices asked for.

    Raises:
        ConfigError: if the processes do not find each other, or cannot share the
            devices asked for.
    """
    count = config.num_processes or num_tasks()
    split_cpu(config, count)
    if config.num_processes is not None:
        connect(config.coordinator_address, count, config.process_id)
    elif count > 1:
        connect()
    if jax.process_count() == 1:
        return Processes()
    return Processes(jax.process_index(), jax.process_count(), tie(config))


def split_cpu(config: TrainConfig, processes: int) -> None:
    """Splits the CPU into as many devices as each of the processes is to have."""
    asked = config.num_devices
    if asked is None:
        return
    if asked % processes:
        raise ConfigError(
            f"--num_devices is {asked}, expected a multiple of the {processes} "
            "processes that share them"
        )
    if asked // processes > max(getattr(jax.config, "jax_num_cpu_devices", 1), 1):
        # Too late once JAX has started: then the devices are what they are.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", asked // processes)


def num_tasks() -> int:
    """Returns how many processes a launcher that JAX knows has started; 1 without."""
    names = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    tasks = [os.environ.get(name, "") for name in names]
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return max(len(hosts), *(int(task) for task in tasks if task.isdigit()), 1)


def connect(*where: Any) -> None:
    """Joins the other processes: at the coordinator's address, or where JAX finds it.

    Raises:
        ConfigError: if they have not all come in time.
    """
    try:
        jax.distributed.initialize(*where, initialization_timeout=START_SECONDS)
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"the processes did not find each other: {first}") from None


def tie(config: TrainConfig) -> Lifeline:
    """Ties this process to the others; losing one ends it with a line that says so."""
    index, count = jax.process_index(), jax.process_count()

    def end(lost: int) -> None:
        print(
            f"train.py: process {lost} of {count} was lost; process {index} ends too. "
            "The last checkpoint is whole: start all again with --resume",
            file=sys.stderr,
        )
        leave(FAILED)

    if index == 0:
        host = (config.coordinator_address or "").rpartition(":")[0].strip("[]")
        host = socket.gethostbyname(host or socket.gethostname())
        lifeline, invitation = listen(count, end, host=host)
        _broadcast(invitation.pack())
        return lifeline
    return join(Invitation.unpack(_broadcast(bytes(64))), index, end)


def _broadcast(data: bytes) -> bytes:
    """Returns what process 0 passes; as many bytes in all."""
    array = multihost_utils.broadcast_one_to_all(np.frombuffer(data, np.uint8))
    return np.asarray(array, np.uint8).tobytes()


def agree(processes: Processes, stop: bool, chunk: int) -> tuple[bool, int]:
    """Returns whether any process was asked to stop, and the chunk of process 0.

    Processes have to run the same programs in the same order.
    """
    if processes.count == 1:
        return stop, chunk
    votes = multihost_utils.process_allgather(np.array([stop, chunk], np.int32))
    return bool(votes[:, 0].any()), int(votes[0, 1])


def share(processes: Processes, array: np.ndarray) -> np.ndarray:
    """Returns the array of process 0, of the same shape in all."""
    if processes.count == 1:
        return array
    return np.asarray(multihost_utils.broadcast_one_to_all(array))


def share_text(processes: Processes, text: str) -> str:
    """Returns the text of process 0."""
    data = np.frombuffer(text.encode(), np.uint8)
    size = int(share(processes, np.array(data.size)))
    data = data if processes.leads else np.zeros(size, np.uint8)
    return share(processes, data).astype(np.uint8).tobytes().decode()


def check_same(processes: Processes, mine: dict[str, Any]) -> None:
    """Refuses a process that is about to do something else than process 0.

    They would wait for each other for ever.

    Args:
        processes: that call this.
        mine: what has to be the same, by name, ready for JSON.

    Raises:
        ConfigError: naming the first that is not.
    """
    first = json.loads(share_text(processes, json.dumps(mine)))
    for name, value in json.loads(json.dumps(mine)).items():
        if value != first.get(name):
            raise ConfigError(
                f"{name} is {shown(value)} in process {processes.index} and "
                f"{shown(first.get(name))} in process 0; start all with the same "
                "flags, on the same data"
            )
