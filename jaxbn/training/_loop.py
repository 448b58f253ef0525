"""The loop: epochs of chunks of steps, with evaluations and checkpoints between."""

import contextlib
import time
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from jaxbn.core import describe_groups
from jaxbn.data import Dataset, epoch_indices, num_batches, random_crops, read_rows
from jaxbn.training._arms import create_arm, step_by_step
from jaxbn.training._checkpoint import Checkpoint, load_newest, save_checkpoint
from jaxbn.training._config import TrainConfig
from jaxbn.training._console import memory_in_use
from jaxbn.training._diagnosis import diagnose
from jaxbn.training._divergence import Diverged, all_finite, find_culprit
from jaxbn.training._feed import Examples, Feed, place
from jaxbn.training._metrics import averages, no_metrics
from jaxbn.training._optim import create_schedule
from jaxbn.training._parallel import OWN, Parallel, fetch, put
from jaxbn.training._processes import Processes, agree
from jaxbn.training._report import Report, size_of
from jaxbn.training._score import histograms, population_of, score_test
from jaxbn.training._signals import Interrupted, StopRequest
from jaxbn.training._state import own_copies

CHUNK_SECONDS = 0.5
"""About how long the devices work between looks at signals and the bar."""


class Run:
    """A training run: the arms, and where they are.

    Args:
        config: checked.
        processes: that train together.
        parallel: how the run is spread over devices.
        dataset: what is learned.
        workdir: where everything is written, seen by all processes.
    """

    def __init__(
        self,
        config: TrainConfig,
        processes: Processes,
        parallel: Parallel,
        dataset: Dataset,
        workdir: Path,
    ):
        self.config, self.processes, self.parallel = config, processes, parallel
        self.dataset, self.workdir = dataset, workdir
        self.report = Report(config, workdir if processes.leads else None)
        num_train = len(dataset.train.labels)
        self.steps = num_batches(num_train, config.batch_size, drop_last=True)
        self.arms, self.states, self.metrics = {}, {}, {}
        for name in config.norms:
            arm, state = create_arm(config, parallel, dataset, name, self.steps)
            self.arms[name], self.states[name] = arm, state
            self.metrics[name] = no_metrics()
        self.learning_rate = jax.jit(create_schedule(config, self.steps))
        self.epoch = self.position = 0
        self.chunk, self.speed = 1, 0.0
        self.asked = False
        self.ended: dict[str, str] = {}
        self.seen_bad: dict[str, int] = {}

    def restore(self) -> None:
        """Goes back to the newest checkpoint, if resuming; places all on devices."""
        past: dict[str, Any] = {}
        replicas: dict[str, Any] = {}
        if self.config.resume:
            states, metrics = jax.tree.map(np.asarray, (self.states, self.metrics))
            like = Checkpoint(states, metrics, {}, {})
            folder, warn = self.workdir / "checkpoints", self.report.console.warn
            found = load_newest(folder, like, warn, self.processes)
            if found is not None:
                self.states, self.metrics, past, replicas = found
                self.epoch, self.position = past["epoch"], past["position"]
                self.ended = dict(past.get("ended", {}))
        for name, arm in self.arms.items():
            state = self.states[name]
            if self.parallel.apart:
                devices = len(self.parallel.devices)
                own = own_copies(state.batch_stats, replicas.get(name), devices)
                state = state._replace(batch_stats=own)
            self.states[name] = put(self.parallel, state, arm.kinds)
        self.metrics = put(self.parallel, self.metrics)
        slow = step_by_step(self.config, self.parallel)
        self.train_set = place(self.parallel, self.dataset.train, slow)
        self.test_set = place(self.parallel, self.dataset.test, slow)
        self.report.open(past, self.parallel.devices)
        if past:
            line = f"resuming after step {self.done} in {self.workdir}"
            self.report.console.say(line)

    @property
    def done(self) -> int:
        """Steps taken by each arm."""
        return self.epoch * self.steps + self.position

    def train(self, stop: StopRequest) -> dict[str, Any]:
        """Trains to the end, or until `stop` is asked for; returns the summary."""
        config, report = self.config, self.report
        devices, size = len(self.parallel.devices), config.normalization_batch_size
        together = describe_groups(size, config.batch_size, devices)
        params = {name: self.states[name].params for name in self.arms}
        sizes = {k: size_of(fetch(self.parallel, v)) for k, v in params.items()}
        report.introduce(self.parallel, together, self.dataset, self.steps, sizes)
        self.compile()
        report.console.start(config.num_epochs * self.steps, self.done)
        began = time.perf_counter()
        while self.epoch < config.num_epochs:
            with self.profiled():
                self.train_epoch(stop)
            self.epoch, self.position = self.epoch + 1, 0
            last = self.epoch == config.num_epochs
            if last or self.epoch % config.eval_every == 0:
                self.evaluate()
            fresh = {name: no_metrics() for name in self.arms}
            self.metrics, self.seen_bad = put(self.parallel, fresh), {}
            best = self.report.best.get("step") == self.done
            if last or best or self.epoch % config.checkpoint_every == 0:
                self.save()
            if self.asked and not last:
                self.interrupt()
        summary = report.conclude(self.done, time.perf_counter() - began)
        if self.ended:
            raise Diverged("; ".join(self.ended.values()))
        return summary

    @property
    def going(self) -> list[str]:
        """Arms that have not been ended."""
        return [name for name in self.arms if name not in self.ended]

    def compile(self) -> None:
        """Compiles the training programs, by running no step, and says how long."""
        began = time.perf_counter()
        with self.feed() as feed:
            data, rows = next(feed.take(self.position, self.position + 1))[:2]
        for name, arm in self.arms.items():
            none = np.int32(0), np.int32(0)
            state, metrics = self.states[name], self.metrics[name]
            result = arm.train(state, metrics, data, rows, *none)
            self.states[name], self.metrics[name] = jax.block_until_ready(result)
        seconds = time.perf_counter() - began
        self.report.console.say(f"compiled in {seconds:.1f} s")
        self.report.add_timing({"compile_seconds": seconds})

    def rows(self) -> np.ndarray:
        """Returns the batches of this epoch, [steps, B]."""
        num, config = len(self.dataset.train.labels), self.config
        return epoch_indices(config.seed, num, config.batch_size, self.epoch)

    def train_epoch(self, stop: StopRequest) -> None:
        """Takes the steps of this epoch that are left, in chunks."""
        with self.feed() as feed:
            while self.position < self.steps:
                began, first = time.perf_counter(), self.position
                self.position = min(first + self.chunk, self.steps)
                self.train_chunk(feed, first, self.position)
                for name in self.going:
                    self.look_for_divergence(name)
                self.choose_chunk(stop, first, time.perf_counter() - began)
                if self.asked and self.position < self.steps:
                    self.interrupt()

    def choose_chunk(self, stop: StopRequest, first: int, seconds: float) -> None:
        """Says how fast the steps since `first` were, and how many come next."""
        images = (self.position - first) * self.config.batch_size * len(self.going)
        self.speed = images / seconds
        longer = round(self.chunk * CHUNK_SECONDS / seconds)
        chunk = min(max(longer, 1), 4 * self.chunk, self.steps)
        self.asked, self.chunk = agree(self.processes, bool(stop), chunk)
        memory = memory_in_use(self.parallel)
        self.report.console.advance(self.done, self.speed, memory)

    def interrupt(self) -> NoReturn:
        """Saves, and stops where the run is."""
        self.save()
        self.report.write()
        raise Interrupted(
            f"interrupted after step {self.done}, saved; go on with --resume "
            f"--workdir={self.workdir} and the same flags"
        )

    def train_chunk(self, feed: Feed, first: int, last: int) -> None:
        """Takes the steps from `first` to `last` of the epoch, each arm its own."""
        for piece in feed.take(first, last):
            for name in self.going:
                state, metrics = self.states[name], self.metrics[name]
                result = self.arms[name].train(state, metrics, *piece)
                self.states[name], self.metrics[name] = result
        jax.block_until_ready((self.states, self.metrics))

    def look_for_divergence(self, name: str) -> None:
        """Says what was not finite in the steps of an arm, and ends it if so asked.

        Raises:
            Diverged: if no arm is left.
        """
        bad = int(fetch(self.parallel, self.metrics[name].bad))
        if bad <= self.seen_bad.get(name, 0):
            return
        self.seen_bad[name] = bad
        if self.config.on_nonfinite != "stop":
            done = {"skip": "left out", "warn": "taken all the same"}
            self.report.console.warn(
                f"{name}: {bad} steps of epoch {self.epoch + 1} were not finite and "
                f"{done[self.config.on_nonfinite]}"
            )
            return
        arm, state = self.arms[name], self.states[name]
        stats = population_of(arm, self.parallel, state)
        state = fetch(self.parallel, state._replace(batch_stats=stats))
        step = int(state.step)
        examples = self.train_examples().source
        batch = read_rows(examples, self.rows()[step - self.epoch * self.steps])
        culprit = find_culprit(arm.job, state, batch)
        self.ended[name] = (
            f"{name} diverged in step {step + 1}: {culprit} is not finite"
        )
        if not self.going:
            raise Diverged("; ".join(self.ended.values()))
        self.report.console.warn(f"{self.ended[name]}; the other arms go on")

    def train_examples(self) -> Examples:
        """Returns the training set; pictures are cropped anew in each epoch."""
        if not self.config.augment:
            return self.train_set
        crops = random_crops(self.dataset.train, self.config.seed, self.epoch)
        return self.train_set._replace(source=crops)

    def feed(self) -> contextlib.closing[Feed]:
        """Returns what is left of this epoch, to be taken in chunks."""
        examples, rows = self.train_examples(), self.rows()
        return contextlib.closing(Feed(self.parallel, examples, rows, self.position))

    def evaluate(self) -> None:
        """Reports how each arm does on the test split, and what its layers see."""
        config, parallel = self.config, self.parallel
        batches = -(-config.precise_num_samples // config.batch_size)
        train_rows = self.rows()[:batches]
        for name, arm in self.arms.items():
            if name in self.ended:
                self.report.add(self.row_of_the_ended(name), self.speed)
                continue
            state = self.states[name]
            metrics = fetch(parallel, self.metrics[name])
            sums = averages(metrics, arm.job.task)
            if config.on_nonfinite == "skip":
                sums["skipped"] = int(metrics.bad)
            row = {"epoch": self.epoch, "step": self.done, "norm": name}
            rate = self.learning_rate(np.int32(self.done - 1))
            row |= {"learning_rate": np.asarray(rate).item()}
            row |= {f"train_{what}": value for what, value in sums.items()}
            sets = self.train_examples(), train_rows, self.test_set
            row |= score_test(arm, parallel, state, *sets)
            self.report.add(row, self.speed)
            layers = histograms(arm, parallel, state, self.dataset)
            entry = {"epoch": self.epoch, "norm": name, "layers": layers}
            self.report.add_histograms(entry)
            if config.diagnose:
                folder = self.workdir if self.processes.leads else None
                probed = arm, parallel, state, self.dataset, folder, self.epoch
                found = diagnose(*probed, config.bn_momentum)
                self.report.say(f"{name}: {found or 'no statistics'}")
        self.report.write()
        memory = memory_in_use(parallel)
        timing = {"step": self.done, "images_per_second": self.speed, "memory": memory}
        self.report.add_timing(timing)

    def row_of_the_ended(self, name: str) -> dict[str, Any]:
        """Returns the row of an arm that has diverged, without numbers."""
        row = {"epoch": self.epoch, "step": self.done, "norm": name}
        names = ["loss"] + ["accuracy"] * (self.arms[name].job.task != "regression")
        return row | {f"{part}_{n}": None for part in ("train", "test") for n in names}

    def save(self) -> None:
        """Writes a checkpoint of where the run is; its statistics are pooled.

        Where the run only warns, one that is not finite is not written.
        """
        parallel, states, replicas = self.parallel, {}, {}
        for name, arm in self.arms.items():
            state = self.states[name]
            stats = population_of(arm, parallel, state)
            states[name] = fetch(parallel, state._replace(batch_stats=stats))
            if parallel.apart:
                replicas[name] = fetch(parallel, state.batch_stats, OWN)
        lost = [name for name in states if not all_finite(states[name])]
        if lost:
            self.report.console.warn(
                f"step {self.done} is not saved: {', '.join(lost)} is not finite"
            )
            return
        record = {"epoch": self.epoch, "position": self.position, "ended": self.ended}
        record |= self.report.record()
        metrics = fetch(parallel, self.metrics)
        checkpoint = Checkpoint(states, metrics, record, replicas)
        folder, keep = self.workdir / "checkpoints", self.config.keep
        save_checkpoint(folder, self.done, checkpoint, keep, self.processes)

    def profiled(self) -> contextlib.AbstractContextManager[Any]:
        """Returns a context that traces the second epoch, if that is asked for."""
        second = self.epoch == min(1, self.config.num_epochs - 1)
        if not (self.config.profile and second and self.processes.leads):
            return contextlib.nullcontext()
        return jax.profiler.trace(str(self.workdir / "profile"))
