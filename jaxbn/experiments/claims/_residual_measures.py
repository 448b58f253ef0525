"""Measures of residual nets with ghost batches: what an arm finds, seeds first.

An arm is trained from the beginning and looked at with several statistics: of the
mini-batches, of the population, of the moving average, frozen ones, of target images.
`kept` writes what it found to a file of each seed, and takes it from there.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxbn.base import Norm
from jaxbn.data import Split, corrupt
from jaxbn.experiments._fingerprint import fingerprint, versions
from jaxbn.experiments._harness import Settings
from jaxbn.experiments._measure import logits, precise
from jaxbn.experiments._numbers import as_plain, restored
from jaxbn.experiments._runs import Runs
from jaxbn.experiments.claims._residual_training import (
    FROZEN,
    PLAIN,
    Size,
    Task,
    ghost,
    train,
)
from jaxbn.training._files import write_json

CORRUPTIONS = {"contrast": 4, "noise": 2, "blur": 3}
"""Kinds of target images, and how strongly they are changed."""


def measure_sweep(task: Task, runs: Runs, together: int) -> dict[str, Any]:
    """Returns the errors of new runs that normalize so many images together.

    Training is forked after 4/5 of the epochs: once as before, once with the precise
    statistics of that moment, frozen.
    """
    size, norm = task.size, ghost(together)
    fork, middle = size.epochs * 4 // 5, together == size.middle
    curves, observe = watching(task)
    watch = {"observe": observe} if middle else {}
    runs = train(task, norm, runs, size.batch, range(fork), **watch)
    halted = runs._replace(batch_stats=population(task, runs))
    rest = range(fork, size.epochs)
    frozen = train(task, FROZEN, halted, size.batch, rest)
    runs = train(task, norm, runs, size.batch, rest, **watch)
    stats = population(task, runs)
    tested = [error(task, runs, task.tested, norm=ghost(n)) for n in size.sizes]
    found = {
        "train_mb": error(task, runs, task.known, norm=norm),
        "train_pop": error(task, runs, task.known, stats),
        "val_mb": np.stack(tested, 1),
        "val_pop": error(task, runs, task.tested, stats),
        "frozen": error(task, frozen, task.tested, frozen.batch_stats),
    }
    if not middle:
        return found
    return {**found, "averages": stacked(curves), "shift": shifted(task, runs, stats)}


def measure_averages(task: Task, runs: Runs, batch: int) -> dict[str, Any]:
    """Returns the errors after each epoch of SGD with another batch."""
    curves, observe = watching(task)
    norm = ghost(task.size.middle)
    train(task, norm, runs, batch, range(task.size.epochs), observe)
    return {"averages": stacked(curves)}


Curves = dict[str, list[np.ndarray]]


def watching(task: Task) -> tuple[Curves, Callable[[Runs], None]]:
    """Returns curves of errors by kind of statistics, and what adds a point to them."""
    curves: Curves = {"moving": [], "precise": []}

    def observe(runs: Runs) -> None:
        kinds = {"moving": runs.batch_stats, "precise": population(task, runs)}
        for kind, stats in kinds.items():
            curves[kind].append(error(task, runs, task.tested, stats))

    return curves, observe


def stacked(curves: Curves) -> dict[str, np.ndarray]:
    """Returns curves [R, epochs]."""
    return {kind: np.stack(points, 1) for kind, points in curves.items()}


def shifted(task: Task, runs: Runs, source: Any) -> dict[str, Any]:
    """Returns the errors on changed images, with source and with target statistics.

    Clean ones are also tested with those of images of less contrast.
    """
    found = {}
    for kind in ("clean", *CORRUPTIONS):
        tested, target = (
            changed(task, split, kind) for split in (task.tested, task.target)
        )
        stats = population(task, runs, target.inputs)
        found[kind] = {
            "source": error(task, runs, tested, source),
            "target": error(task, runs, tested, stats),
        }
        if kind == "contrast":
            found["clean"]["of contrast"] = error(task, runs, task.tested, stats)
    return found


def changed(task: Task, split: Split, kind: str) -> Split:
    """Returns a split with its images changed on [0, 1], standardized as before."""
    if kind == "clean":
        return split
    mean, std = task.images.mean, task.images.std
    pixels = np.clip(split.inputs * std + mean, 0, 1)
    return Split((corrupt(pixels, kind, CORRUPTIONS[kind]) - mean) / std, split.labels)


def population(task: Task, runs: Runs, inputs: Any = None) -> Any:
    """Returns the precise statistics of `inputs` in a single pass, [R, ...].

    They are of augmented training images unless given.
    """
    inputs = task.measured if inputs is None else inputs
    model = task.model(PLAIN)
    return precise(model, runs.params, runs.batch_stats, inputs, batch=len(inputs))


def error(
    task: Task, runs: Runs, split: Split, stats: Any = None, *, norm: Norm = PLAIN
) -> np.ndarray:
    """Returns the error in percent, [R]; of a net that diverged that of chance.

    With `stats` [R, ...] they normalize, else the mini-batches, as `norm` says.
    """
    size, model, batches = task.size.batch, task.model(norm), stats is None
    stats = runs.batch_stats if batches else stats
    found = [
        logits(model, runs.params, stats, inputs, train=batches, batch=size)
        for inputs in np.split(split.inputs, len(split.labels) // size)
    ]
    said = np.concatenate(found, 1)
    wrong = 100 * (said.argmax(-1) != split.labels).mean(-1)
    chance = 100 * (1 - 1 / task.images.num_classes)
    return np.where(np.isfinite(said).all((1, 2)), wrong, chance)


def facts_of(settings: Settings, size: Size, arm: str) -> dict[str, Any]:
    """Returns what decides the numbers of an arm, beside the seed."""
    facts = {
        "arm": arm,
        "size": size._asdict(),
        "dataset": settings.dataset,
        "platform": jax.default_backend(),
        "code": fingerprint("residual_net", "measure"),
        "versions": versions(),
    }
    return as_plain(facts)


def kept(
    folder: Path | None,
    facts: dict[str, Any],
    seeds: Sequence[int],
    find: Callable[[], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Returns what an arm found by seed: read, or else found by `find()` and written.

    Args:
        folder: of the files; None for none.
        facts: without which a file is not taken.
        seeds: that `find` trains, [R] along the first axis.
        find: trains and measures the arm.
    """
    paths = [folder / f"{facts['arm']}-seed-{seed}.json" for seed in seeds if folder]
    there = [json.loads(path.read_text()) for path in paths if path.exists()]
    if len(there) == len(seeds) and all(each["facts"] == facts for each in there):
        return [restored(each["found"]) for each in there]
    found = jax.tree.map(np.asarray, find())
    rows = [
        as_plain(jax.tree.map(lambda a, i=i: a[i], found)) for i in range(len(seeds))
    ]
    for path, row in zip(paths, rows, strict=False):
        write_json(path, {"facts": facts, "found": row})
    return [restored(row) for row in rows]
