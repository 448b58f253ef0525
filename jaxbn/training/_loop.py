"""The loop: epochs of chunks of steps, evaluations, checkpoints, pictures."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxbn.data import Dataset, epoch_indices, load, num_batches, to_float
from jaxbn.training._arms import (
    create_arm,
    pieces,
    place,
    score_test,
    step_by_step,
)
from jaxbn.training._checkpoint import Checkpoint, load_newest, save_checkpoint
from jaxbn.training._config import ConfigError, TrainConfig, check_config
from jaxbn.training._console import Console, memory_in_use
from jaxbn.training._files import write_json
from jaxbn.training._histograms import histograms_of
from jaxbn.training._metrics import averages, no_metrics
from jaxbn.training._optim import create_schedule
from jaxbn.training._parallel import (
    Parallel,
    fetch,
    replicate,
    split,
    start_parallel,
)
from jaxbn.training._plots import plot_activations, plot_curves
from jaxbn.training._records import Records, write_environment
from jaxbn.training._signals import Interrupted, StopRequest, stop_on_signals
from jaxbn.training._step import variables_of
from jaxbn.training._workdir import open_workdir

PROBES = 256
"""Test examples whose activations are drawn."""
CHUNK_SECONDS = 0.5
"""About how long the devices work between looks at signals and the bar."""


def fit(config: TrainConfig) -> dict[str, Any]:
    """Trains as `config` says and returns what `summary.json` holds.

    Raises:
        ConfigError: if the configuration cannot be run.
        DatasetUnavailable: if the data set cannot be had.
        Interrupted: if a signal ended the run, after everything was saved.
    """
    check_config(config)
    console = Console()
    parallel = start_parallel(config)
    dataset = load(
        config.dataset,
        data_dir=config.data_dir,
        train_limit=config.train_limit,
        test_limit=config.test_limit,
        seed=config.seed,
    )
    num_train = len(dataset.train.labels)
    if num_train < config.batch_size:
        raise ConfigError(
            f"batch_size is {config.batch_size}, but {config.dataset} has {num_train} "
            "training examples; pass a smaller --batch_size"
        )
    workdir = open_workdir(config)
    run = Run(config, parallel, dataset, workdir, console)
    run.restore()
    with stop_on_signals() as stop:
        try:
            return run.train(stop)
        finally:
            console.stop()
            run.records.close()


class Run:
    """A training run: the arms, where they are, and what has been recorded.

    Args:
        config: checked.
        parallel: how the run is spread.
        dataset: what is learned.
        workdir: where everything is written.
        console: where it is said.
    """

    def __init__(
        self,
        config: TrainConfig,
        parallel: Parallel,
        dataset: Dataset,
        workdir: Path,
        console: Console,
    ):
        self.config, self.parallel, self.dataset = config, parallel, dataset
        self.workdir, self.console = workdir, console
        self.steps = num_batches(
            len(dataset.train.labels), config.batch_size, drop_last=True
        )
        self.arms, self.states, self.metrics = {}, {}, {}
        for name in config.norms:
            arm, state = create_arm(config, parallel, dataset, name, self.steps)
            self.arms[name], self.states[name] = arm, state
            self.metrics[name] = no_metrics()
        self.epoch = self.position = 0
        self.histograms: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.chunk, self.speed = 1, 0.0
        write_environment(workdir, parallel.devices)

    def restore(self) -> None:
        """Goes back to the newest checkpoint, if resuming; places all on devices."""
        rows: list[dict[str, Any]] = []
        found = None
        if self.config.resume:
            states, metrics = jax.tree.map(np.asarray, (self.states, self.metrics))
            like = Checkpoint(states, metrics, {})
            folder = self.workdir / "checkpoints"
            found = load_newest(folder, like, self.console.warn)
        if found is not None:
            self.states, self.metrics = found.states, found.metrics
            self.epoch, self.position = found.record["epoch"], found.record["position"]
            rows, self.best = list(found.record["rows"]), dict(found.record["best"])
            self.histograms = list(found.record["histograms"])
            self.console.say(f"resuming after step {self.done} in {self.workdir}")
        self.states = replicate(self.parallel, self.states)
        self.metrics = replicate(self.parallel, self.metrics)
        slow = step_by_step(self.config, self.parallel)
        self.train_set = place(self.parallel, self.dataset.train, slow)
        self.test_set = place(self.parallel, self.dataset.test, slow)
        self.records = Records(self.workdir, rows)

    @property
    def done(self) -> int:
        """Steps taken by each arm."""
        return self.epoch * self.steps + self.position

    def train(self, stop: StopRequest) -> dict[str, Any]:
        """Trains to the end, or until `stop` is asked for; returns the summary."""
        config = self.config
        self.introduce()
        self.compile()
        self.console.start(config.num_epochs * self.steps, self.done)
        began = time.perf_counter()
        while self.epoch < config.num_epochs:
            with self.profiled():
                self.train_epoch(stop)
            self.epoch, self.position = self.epoch + 1, 0
            last = self.epoch == config.num_epochs
            if last or self.epoch % config.eval_every == 0:
                self.evaluate()
            self.metrics = replicate(
                self.parallel, {name: no_metrics() for name in self.arms}
            )
            if last or self.epoch % config.checkpoint_every == 0:
                self.save()
        self.console.stop()
        rows = self.records.rows[-len(self.arms) :]
        self.draw()
        summary = {"step": self.done, "seconds": time.perf_counter() - began}
        summary |= {"best": self.best, "final": {row["norm"]: row for row in rows}}
        write_json(self.workdir / "summary.json", summary)
        self.console.conclude(rows, self.workdir)
        return summary

    def introduce(self) -> None:
        """Says what is about to be done."""
        config, devices = self.config, self.parallel.devices
        kind = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
        batch = config.batch_size
        self.console.say(f"workdir {self.workdir}")
        self.console.say(
            f"devices {kind}, {self.parallel.mode}; batch {batch} global, "
            f"{batch // len(devices)} local, {batch} normalized together"
        )
        sizes = [
            f"{name} {sum(p.size for p in jax.tree.leaves(fetched.params)):,}"
            for name, fetched in fetch(self.parallel, self.states).items()
        ]
        self.console.say(
            f"{config.dataset}: {len(self.dataset.train.labels):,} training and "
            f"{len(self.dataset.test.labels):,} test examples; {self.steps} steps an "
            f"epoch, {config.num_epochs} epochs; {config.model}, parameters: "
            f"{', '.join(sizes)}"
        )

    def compile(self) -> None:
        """Compiles the training programs, by running no step, and says how long."""
        began = time.perf_counter()
        data, rows = next(self.train_pieces(self.rows(), 0, 1))[:2]
        for name, arm in self.arms.items():
            none = np.int32(0), np.int32(0)
            state, metrics = self.states[name], self.metrics[name]
            result = arm.train(state, metrics, data, rows, *none)
            self.states[name], self.metrics[name] = jax.block_until_ready(result)
        seconds = time.perf_counter() - began
        self.console.say(f"compiled in {seconds:.1f} s")
        self.records.add_timing({"compile_seconds": seconds})

    def rows(self) -> np.ndarray:
        """Returns the batches of this epoch, [steps, B]."""
        num, config = len(self.dataset.train.labels), self.config
        return epoch_indices(config.seed, num, config.batch_size, self.epoch)

    def train_epoch(self, stop: StopRequest) -> None:
        """Takes the steps of this epoch that are left, all arms in turn, in chunks."""
        rows = self.rows()
        while self.position < self.steps:
            began = time.perf_counter()
            first = self.position
            self.position = min(first + self.chunk, self.steps)
            for name in self.arms:
                self.train_chunk(name, rows, first, self.position)
            seconds = time.perf_counter() - began
            images = (self.position - first) * self.config.batch_size * len(self.arms)
            self.speed = images / seconds
            longer = round(self.chunk * CHUNK_SECONDS / seconds)
            self.chunk = min(max(longer, 1), 4 * self.chunk, self.steps)
            self.console.advance(self.done, self.speed, memory_in_use(self.parallel))
            if stop:
                self.save()
                self.records.write()
                raise Interrupted(
                    f"interrupted after step {self.done}, saved; go on with --resume "
                    f"--workdir={self.workdir} and the same flags"
                )

    def train_chunk(self, name: str, rows: np.ndarray, first: int, last: int) -> None:
        """Takes the steps from `first` to `last` of the epoch with one arm."""
        state, metrics = self.states[name], self.metrics[name]
        for piece in self.train_pieces(rows, first, last):
            state, metrics = self.arms[name].train(state, metrics, *piece)
        self.states[name], self.metrics[name] = jax.block_until_ready((state, metrics))

    def train_pieces(
        self, rows: np.ndarray, first: int, last: int
    ) -> Iterator[tuple[Any, ...]]:
        """Yields data, rows and which of the rows to take, from `first` to `last`."""
        if self.train_set.placed is not None:
            ends = np.int32(first), np.int32(last)
            yield self.train_set.placed, split(self.parallel, rows), *ends
            return
        for piece in pieces(self.parallel, self.train_set, rows[first:last]):
            yield *piece, np.int32(0), np.int32(1)

    def evaluate(self) -> None:
        """Records how each arm does on the test split, and what its layers see."""
        config = self.config
        batches = -(-config.precise_num_samples // config.batch_size)
        train_rows = self.rows()[:batches]
        for name, arm in self.arms.items():
            sums = averages(fetch(self.parallel, self.metrics[name]), arm.job.task)
            row = {"epoch": self.epoch, "step": self.done, "norm": name}
            rate = create_schedule(config, self.steps)(self.done - 1)
            row |= {"learning_rate": np.asarray(rate).item()}
            row |= {f"train_{what}": value for what, value in sums.items()}
            row |= score_test(
                arm,
                self.parallel,
                self.states[name],
                self.train_set,
                train_rows,
                self.test_set,
            )
            self.records.add(row)
            self.console.report(row, config.num_epochs, self.speed)
            self.note_best(row)
            self.add_histograms(name)
        self.records.write()
        memory = memory_in_use(self.parallel)
        timing = {"step": self.done, "images_per_second": self.speed, "memory": memory}
        self.records.add_timing(timing)

    def note_best(self, row: dict[str, Any]) -> None:
        """Remembers the step at which the first arm did best on the test split."""
        if row["norm"] != self.config.norms[0] or row["test_loss"] is None:
            return
        score = row.get("test_accuracy", -row["test_loss"])
        if not self.best or score > self.best["score"]:
            self.best = {"step": row["step"], "score": score}

    def add_histograms(self, name: str) -> None:
        """Keeps the histograms of an arm's activations on a few test examples."""
        arm, probes = self.arms[name], self.dataset.test.inputs[:PROBES]
        state = fetch(self.parallel, self.states[name])
        variables = variables_of(state.params, state.batch_stats)
        probes = to_float(probes, arm.job.mean, arm.job.std)
        layers = histograms_of(arm.probe(variables, probes))
        self.histograms.append({"epoch": self.epoch, "norm": name, "layers": layers})

    def save(self) -> None:
        """Writes a checkpoint of where the run is."""
        record = {"epoch": self.epoch, "position": self.position}
        record |= {"rows": self.records.rows, "histograms": self.histograms}
        record |= {"best": self.best}
        states, metrics = fetch(self.parallel, (self.states, self.metrics))
        folder, keep = self.workdir / "checkpoints", self.config.keep
        save_checkpoint(folder, self.done, Checkpoint(states, metrics, record), keep)

    def draw(self) -> None:
        """Draws the pictures."""
        title = f"{self.config.model} on {self.config.dataset}"
        plot_curves(self.workdir / "curves.png", self.records.rows, title)
        path = self.workdir / "activations.png"
        plot_activations(path, self.histograms, f"{title}: what enters each relu")

    def profiled(self) -> contextlib.AbstractContextManager[Any]:
        """Returns a context that traces the second epoch, if that is asked for."""
        second = self.epoch == min(1, self.config.num_epochs - 1)
        if not (self.config.profile and second):
            return contextlib.nullcontext()
        return jax.profiler.trace(str(self.workdir / "profile"))
