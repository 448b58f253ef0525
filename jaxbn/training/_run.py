"""A run as a command: every end has a code, and every failure one line."""

import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxbn.data import Dataset, DatasetUnavailable, load
from jaxbn.data._load import MEMORY_LIMIT
from jaxbn.data._split import in_memory
from jaxbn.training._check_config import check_config
from jaxbn.training._config import ConfigError, TrainConfig
from jaxbn.training._divergence import Diverged
from jaxbn.training._lifeline import leave
from jaxbn.training._lock import hold_lock
from jaxbn.training._loop import Run
from jaxbn.training._parallel import start_parallel
from jaxbn.training._processes import check_same, share_text, start_processes
from jaxbn.training._signals import Interrupted, stop_on_signals
from jaxbn.training._trained import facts_of, write_data
from jaxbn.training._workdir import check_workdir, open_workdir

DONE, FAILED, BAD_FLAGS, DIVERGED, INTERRUPTED = 0, 1, 2, 3, 130
SECONDS_TO_TELL = 3.0
"""How long an error of a collective waits for word of a lost process."""


def fit(config: TrainConfig) -> dict[str, Any]:
    """Trains as `config` says and returns what `summary.json` holds.

    In a process that does not lead others the summary is {}.

    Raises:
        ConfigError: if the configuration cannot be run.
        DatasetUnavailable: if the data set cannot be had.
        Diverged: if an arm met a step that is not finite and was ended there; the
            others, and what they leave, are complete.
        Interrupted: if a signal ended the run, after everything was saved.
    """
    check_config(config)
    processes = start_processes(config)
    parallel = start_parallel(config)
    if processes.leads:
        check_workdir(config)  # Before the data, which may take a while.
    dataset = load(
        config.dataset,
        data_dir=config.data_dir,
        train_limit=config.train_limit,
        test_limit=config.test_limit,
        seed=config.seed,
        image_size=config.image_size,
    )
    if not config.augment:  # Then a picture is the same in each epoch.
        dataset = dataset._replace(train=in_memory(dataset.train, MEMORY_LIMIT))
    num_train = len(dataset.train.labels)
    if num_train < config.batch_size:
        raise ConfigError(
            f"--batch_size is {config.batch_size}, but {config.dataset} has "
            f"{num_train} training examples; pass a smaller --batch_size"
        )
    check_same(processes, what_decides(config, dataset))
    mine = str(open_workdir(config)) if processes.leads else ""
    workdir = Path(share_text(processes, mine))
    with contextlib.ExitStack() as stack:
        if processes.leads:
            stack.enter_context(hold_lock(workdir))
            write_data(workdir, dataset)
        run = Run(config, processes, parallel, dataset, workdir)
        stack.push(lambda kind, *_: run.report.close(failed=kind is not None))
        run.restore()
        stop = stack.enter_context(stop_on_signals())
        try:
            summary = run.train(stop)
        except (Interrupted, Diverged):
            processes.end()  # All of them stop here: none is lost to the others.
            raise
    processes.end()
    return summary


def what_decides(config: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    """Returns what all processes of a run have to have in common, by name."""
    own = {"process_id", "data_dir", "workdir"}
    flags = dataclasses.asdict(config)
    found = {f"--{name}": value for name, value in flags.items() if name not in own}
    means = [f"{mean:.3g}" for mean in dataset.mean]  # As far as machines agree.
    return found | facts_of(dataset) | {"the mean of the training examples": means}


def main(prog: str, arguments: Sequence[str] | None = None) -> int:
    """Flags to configuration to exit code: `train.py`, and `jaxbn train`.

    Args:
        prog: what is called, for its help.
        arguments: those of the process by default.
    """
    import tyro

    code = run(tyro.cli(TrainConfig, prog=prog, args=arguments))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Nothing is left to interrupt.
    if code:
        leave(code)  # Threads of a save that failed may wait for what never comes.
    return code


def run(config: TrainConfig) -> int:
    """Trains as `config` says and returns the exit code of the process.

    0 done; 1 a failure that one line on standard error explains; 2 flags that cannot
    be run; 3 diverged, in one arm at least; 130 interrupted, after saving. Of several
    processes one that fails does not return but leaves, so that the others see it go.
    """
    code = _run(config)
    if code != DONE and _several_processes():
        leave(code)
    return code


def _run(config: TrainConfig) -> int:
    try:
        fit(config)
    except ConfigError as error:
        return _say(error, BAD_FLAGS)
    except Diverged as error:
        return _say(error, DIVERGED)
    except Interrupted as error:
        return _say(error, INTERRUPTED)
    except KeyboardInterrupt:
        return _say("interrupted at once; the last checkpoint is whole", INTERRUPTED)
    except (DatasetUnavailable, OSError, ValueError) as error:
        return _say(error, FAILED)
    except Exception as error:
        if not _several_processes():
            raise
        # Was it that another process is gone? Then the lifeline says so, and ends this.
        time.sleep(SECONDS_TO_TELL)
        return _say(f"{type(error).__name__}: {error}", FAILED)
    return DONE


def _several_processes() -> bool:
    return jax.process_count() > 1


def _say(error: object, code: int) -> int:
    if isinstance(error, OSError) and error.strerror and error.filename:
        error = f"{error.filename} cannot be read or written: {error.strerror}"
    first = str(error).strip().splitlines() or [type(error).__name__]
    print(f"train.py: {first[0]}", file=sys.stderr, flush=True)
    return code
