"""What checks cost: a look at every step, and digests of every array of a checkpoint.

    python -m benchmarks.checks [--repeats N] [--json FILE]

Steps of `train.py` that are judged, and left out where they are not finite, beside
steps that nobody looks at; and the time of the digests within that of saving and of
loading a checkpoint, by its size.
"""

import functools
import tempfile
import time
from pathlib import Path
from statistics import median
from unittest import mock

import jax.numpy as jnp
import numpy as np

from benchmarks._alone import Figures, markdown, run_alone
from benchmarks._loops import of_jaxbn
from benchmarks._turns import in_turn
from benchmarks.training import SETTINGS, config_of, noise
from jaxbn.data import epoch_indices
from jaxbn.training import _step
from jaxbn.training._checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from jaxbn.training._digest import digests_of
from jaxbn.training._processes import Processes

MEGABYTES = (1, 10, 100)


def judge_steps(repeats: int) -> Figures:
    """Returns milliseconds of a step by model, judged and not."""
    found: Figures = {}
    for model, (size, num, shape) in SETTINGS.items():
        config, dataset = config_of(model, size), noise(num, shape)
        rows = epoch_indices(0, num, size, 0)
        judged = of_jaxbn(config, dataset)
        blind = of_jaxbn(config, dataset)
        fine = jnp.array(True)
        with mock.patch.object(_step, "is_finite", return_value=fine):
            blind.advance(rows)  # Traced here, compiled once.
        loops = {"judged": judged, "not judged": blind}
        runs = {k: functools.partial(loop.advance, rows) for k, loop in loops.items()}
        times = in_turn(runs, repeats)
        found[model] = {name: t.median / len(rows) for name, t in times.items()}
    return found


def seconds_of(function, *values):
    """Returns what a call gives, and the seconds that it took."""
    began = time.perf_counter()
    result = function(*values)
    return result, time.perf_counter() - began


def store(megabytes: int, repeats: int) -> Figures:
    """Returns seconds of saving, of loading, and of the digests in either."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=25_000).astype(np.float32) for _ in range(10 * megabytes)]
    state = {str(i): array for i, array in enumerate(arrays)}
    kept = Checkpoint({"batch": state}, {}, {"epoch": 1}, {})
    times: dict[str, list[float]] = {"digests": [], "saving": [], "loading": []}
    with tempfile.TemporaryDirectory() as place:
        for turn in range(repeats + 1):
            folder = Path(place)
            _, digests = seconds_of(digests_of, kept.states)
            _, saving = seconds_of(save_checkpoint, folder, turn, kept, 1, Processes())
            found, loading = seconds_of(
                read_checkpoint, folder / f"step_{turn:08d}", kept
            )
            assert isinstance(found, Checkpoint), found
            if turn:
                for name, value in zip(times, (digests, saving, loading), strict=True):
                    times[name].append(value)
    return {name: median(values) for name, values in times.items()}


def measure(repeats: int = 9) -> Figures:
    """Returns what steps and checkpoints cost."""
    stored = {f"{size} MB": store(size, repeats) for size in MEGABYTES}
    return {"steps": judge_steps(repeats), "checkpoints": stored}


def table(figures: Figures) -> str:
    """Returns both, one under the other."""
    steps = []
    for name, row in figures["steps"].items():
        blind, judged = row["not judged"], row["judged"]
        steps.append([name, f"{blind:.3f}", f"{judged:.3f}", f"{judged / blind:.2f}"])
    stored = []
    for size, row in figures["checkpoints"].items():
        times = [row[k] for k in ("digests", "saving", "loading")]
        shares = [times[0] / time for time in times[1:]]
        shown = [f"{1e3 * t:.0f}" for t in times] + [f"{s:.2f}" for s in shares]
        stored.append([size, *shown])
    head = ["model", "ms a step, not judged", "judged and left out", "ratio"]
    of_saving = ["digests / saving", "digests / loading"]
    kept = ["checkpoint", "ms of digests", "saving", "loading", *of_saving]
    return markdown(head, steps) + "\n\n" + markdown(kept, stored)


if __name__ == "__main__":
    run_alone(measure, table, __doc__)
