"""Several domains in small batches: group norm, or statistics of each domain.

The five levels of `multi_domain`, with SGD batches of 2, 4 and 8 images at each level
in place of 128, the learning rate in proportion to them, and one epoch. Designed after
group norm had been worse than domain-specific statistics with 128: the source's
detector sees few images a device, and statistics of few examples are what group norm
does without.

Claims (Wu and Johnson 2021, table 5: AP 39.5 with group norm, 39.1 with domain-specific
statistics).
1. With 2 images a domain group norm is better than domain-specific statistics.
2. With 4 images a domain group norm is better than domain-specific statistics.
3. With 8 images a domain group norm is worse, the reverse of what the source has.

    python -m jaxbn.experiments domain_batches --workdir=W --data_dir=DIR

Measured numbers: docs/experiments/results.md. All were chosen on the seeds 0 to 4,
where group norm was better by 36 and 2.2 points and worse by 2.4.
"""

import functools
from typing import Any

import numpy as np

from jaxbn import batch_norm, domain_norm, group_norm
from jaxbn.experiments._draw import MARKERS, band, legend_below
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._images import load_images
from jaxbn.experiments._measure import precise
from jaxbn.experiments._verdicts import Verdict, greater, less
from jaxbn.experiments.claims._domains import Size, Task, error_of, train
from jaxbn.experiments.claims._multi_domain import LEVELS

SOURCE = "Wu and Johnson 2021, section 5.2, table 5"
SIZES = {
    "smoke": Size(256, 200, 1, "mlp", (("hidden", (32,)),), 1),
    "small": Size(8_000, 2_000, 1),
    "full": Size(None, None, 4, "resnet20", (("width", 16),), 1),
}
BATCHES = (2, 4, 8)
CHOSEN = "design and claim were chosen on the seeds 0 to 4"
ARMS = {"specific": "domain-specific statistics", "group": "group norm"}


def measure(settings: Settings) -> dict[str, Any]:
    """Returns test errors in percent; see the top of the file."""
    size = SIZES[settings.size]
    limits = {"train": size.train, "test": size.test, "pool": size.pool}
    images = load_images(settings, "fashion_mnist", **limits)
    seeds = np.array(settings.seed_numbers)
    each = []
    for batch in BATCHES:
        task = Task(size._replace(batch=batch), images, *LEVELS, seeds)
        each.append(measure_arms(task, batch / 32))
    found = {arm: np.stack([one[arm] for one in each], 1) for arm in ARMS}
    return {"batches": BATCHES, **found}


def measure_arms(task: Task, rate: float) -> dict[str, np.ndarray]:
    """Returns the errors of both arms, [S], means over domains."""
    apart = task.model(domain_norm(len(task.scales), batch_norm()), True)
    params, stats = train(task, apart, rate)
    stats = precise(apart, params, stats, task.images.train.inputs)
    group = task.model(group_norm(8), False)
    alone, _ = train(task, group, rate)
    return {
        "specific": error_of(apart, params, stats, task),
        "group": error_of(group, alone, {}, task),
    }


def show(found: dict[str, Any]) -> Result:
    """Returns what the numbers show."""
    columns = ("test error % with images a domain", *map(str, found["batches"]))
    rows = [(label, *found[arm].T) for arm, label in ARMS.items()]
    drawn = functools.partial(draw, found)
    return Result(columns, rows, verdicts(found), drawn, found, (7, 4.5))


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Returns the claims."""
    claim = (
        "in batches of {} images a domain group norm is {} than domain-specific "
        "statistics"
    )
    group, specific = found["group"].T, found["specific"].T
    better = [
        less(
            claim.format(batch, "better"),
            group[i],
            specific[i],
            changed=CHOSEN,
            source=source,
        )
        for i, (batch, source) in enumerate(((2, "AP 39.5 and 39.1"), (4, "")))
    ]
    worse = greater(
        claim.format(8, "worse"),
        group[2],
        specific[2],
        changed=f"{CHOSEN}; the reverse of what the source has",
    )
    return [*better, worse]


def draw(found: dict[str, Any], figure: Any) -> None:
    """Draws the test errors against the images of a batch."""
    axes = figure.subplots()
    lines = ("-", "--")
    for (arm, label), line, marker in zip(ARMS.items(), lines, MARKERS, strict=False):
        band(axes, found["batches"], found[arm], label, marker=marker, linestyle=line)
    axes.set(xlabel="images a domain in a batch of SGD", ylabel="test error, %")
    axes.set_xscale("log", base=2)
    axes.set_xticks(found["batches"], list(map(str, found["batches"])))
    legend_below(figure, columns=2)
