"""One net on several domains: statistics and affine shared, or one each.

Part (a), as a detector's head that five feature levels share: each image comes as five
levels, scaled by 1/4, 1/2, 1, 2, 4 and shifted by -3, -1.5, 0, 1.5, 3 (images are
standardized), and one MLP classifies all of them. Part (b): digits and their negatives,
trained on together. In SGD, domains are normalized as the one batch they make
('shared'; what `apply_jointly` does) or each by itself ('specific', `domain_norm`); the
population statistics of the trained net, measured as it was trained, are the total
variance of all domains or those of each; scale and bias are shared or not.

Claims (Wu and Johnson 2021, table 5); in percent of error, mean over domains.
1. Shared in SGD, specific population: at least 2 points worse than shared in both.
2. Specific in SGD, shared population: at least 20 points worse than specific in both.
3. A shared population has to be of total variance: the mean of the domains' variances,
   which running averages called once a level end in, is at least 5 points worse.
4. Group norm does better still than specific statistics.
5. The same as 2 where scale and bias are specific too.
6. Sharing scale and bias or not makes less than 1 point of difference.
7. The first two hold for digits and their negatives, by at least 2 points.

    python -m jaxbn.experiments multi_domain --workdir=W --data_dir=DIR

Measured on two x86-64 cores in use by others too (jax 0.10.2, 21 November 2026), MLP of
3 x 128, 14 x 14 pixels, 10,000 training and 2,000 test images of Fashion-MNIST (a) and
MNIST (b), 6 epochs, 5 seeds, 211 s; error in percent, mean and standard deviation over
seeds, and the source's AP:

    SGD       population  affine      five levels     negatives     source
    shared    shared      shared      16.8 +- 0.4     4.6 +- 0.3    39.1
    shared    specific    shared      20.3 +- 0.3    96.4 +- 1.1     2.1
    specific  shared      shared      52.5 +- 2.5    30.5 +- 5.5    34.1
    specific  specific    shared      13.7 +- 0.5     4.1 +- 0.2    39.1
    specific  shared      specific    52.1 +- 2.8    22.2 +- 4.9    35.5
    specific  specific    specific    13.9 +- 0.4     3.7 +- 0.3    39.2
    group norm                        18.5 +- 0.5     6.0 +- 0.5    39.5
    no norm                           19.6 +- 0.6     7.1 +- 0.4    38.7

1 held (3.5 +- 0.8 points, the interval), 2 held (38.8 +- 2.8), 3 held (21.1 +- 6.2), 5
held (38.1 +- 3.2), 6 held (0.25 +- 0.43), 7 held (91.8 +- 1.7 and 26.4 +- 6.6). 4 was
not reproduced: in this MLP group norm is 4.8 +- 0.7 points worse than specific
statistics; nothing else was tried. The source's collapse in the second row shows with
negatives, less with levels: these have the same classes in the same shares, which those
of a detector have not.
"""

import functools
from typing import Any, Literal

import numpy as np

from jaxbn import batch_norm, domain_norm, group_norm
from jaxbn.base import Norm
from jaxbn.experiments._draw import bars, legend_below
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._images import load_images
from jaxbn.experiments._measure import precise
from jaxbn.experiments._verdicts import Verdict, greater, jointly, less, within
from jaxbn.experiments.claims._domains import (
    Size,
    Task,
    error_of,
    of_population,
    together,
    train,
)
from jaxbn.training import ConfigError

SOURCE = "Wu and Johnson 2021, section 5.2, table 5"
LEVELS = ((0.25, 0.5, 1.0, 2.0, 4.0), (-3.0, -1.5, 0.0, 1.5, 3.0))
"""Scales and shifts of standardized images."""
TRAINED = (("shared", "shared"), ("specific", "shared"), ("specific", "specific"))
"""SGD statistics and affine."""
POPULATIONS = ("shared", "specific", "mean variance")
PAPER = {
    "shared, shared, shared": "AP 39.1",
    "shared, specific, shared": "AP 2.1",
    "specific, shared, shared": "AP 34.1",
    "specific, specific, shared": "AP 39.1",
    "specific, shared, specific": "AP 35.5",
    "specific, specific, specific": "AP 39.2",
    "group norm": "AP 39.5",
    "no norm": "AP 38.7",
}
"""SGD statistics, population statistics, affine; what the source reports."""


SIZES = {
    "smoke": Size(640, 200, 2, "mlp", (("hidden", (32,)),), 1, 64, 2, False),
    "small": Size(10_000, 2_000, 6),
    "full": Size(None, None, 20, "resnet20", (("width", 16),), 1),
}


AFFINES: dict[str, Literal["shared", "per_domain"]] = {
    "shared": "shared",
    "specific": "per_domain",
}


def run(settings: Settings) -> Result:
    """Runs the experiment; see the top of the file."""
    size = SIZES[settings.size]
    if settings.dataset is not None and size.everything:
        raise ConfigError(
            f"dataset is {settings.dataset!r}, expected none: multi_domain learns "
            "Fashion-MNIST in part (a) and MNIST in (b); leave it out, or ask for size "
            "smoke, which is part (a) alone"
        )
    seeds = np.arange(settings.seeds)
    limits = {"train": size.train, "test": size.test, "pool": size.pool}
    images = load_images(settings, "fashion_mnist", **limits)
    scales, shifts = (part[: size.levels] for part in LEVELS)
    found = {"levels": run_task(Task(size, images, scales, shifts, seeds))}
    if size.everything:
        digits = load_images(settings, "mnist", **limits)
        white = float(((1 - 2 * digits.mean) / digits.std).mean())
        # On [0, 1] the negative of x is 1 - x.
        pair = Task(size, digits, (1.0, -1.0), (0.0, white), seeds)
        found["negatives"] = run_task(pair)
    columns = ("SGD, population, affine", "five levels, error %")
    columns += ("images and negatives, error %", "source")
    rows = [
        (name, error, found.get("negatives", {}).get(name, ""), PAPER.get(name, ""))
        for name, error in found["levels"].items()
    ]
    return Result(
        columns, rows, verdicts(found), functools.partial(draw, found), found, (10, 6)
    )


def run_task(task: Task) -> dict[str, np.ndarray]:
    """Returns the errors of each row of the table, [S] each."""
    many, found = len(task.scales), {}
    for statistics, affine in TRAINED if task.size.everything else TRAINED[:2]:
        apart = domain_norm(many, batch_norm(), affine=AFFINES[affine])
        norm = apart if statistics == "specific" else together(batch_norm(), apart)
        model, judged = task.model(norm, True), task.model(apart, True)
        params, stats = train(task, model)
        stats = precise(model, params, stats, task.images.train.inputs)
        for population in POPULATIONS:
            used = of_population(stats, population)
            error = error_of(judged, params, used, task)
            found[f"{statistics}, {population}, {affine}"] = error
    controls: dict[str, Norm | None] = {"group norm": group_norm(8)}
    if task.size.everything:
        controls["no norm"] = None
    for name, norm in controls.items():
        model = task.model(norm, False)
        params, _ = train(task, model, 1.0 if norm else 0.2)
        found[name] = error_of(model, params, {}, task)
    return found


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Returns whether the claims held; those on what was run."""
    levels = found["levels"]

    def worse(claim: str, row: str, than: str, by: float) -> Verdict:
        source = f"{PAPER[row]} for {PAPER[than]}" if row in PAPER else ""
        return greater(claim, levels[row], levels[than], by=by, source=source)

    pooled, apart = "shared, shared, shared", "specific, specific, shared"
    mixed, usual = "shared, specific, shared", "specific, shared, shared"
    said = [
        worse("shared in SGD, specific population: 2 points worse", mixed, pooled, 2),
        worse("specific in SGD, shared population: 20 points worse", usual, apart, 20),
        worse(
            "shared in SGD, the mean of variances: 5 points worse than the total",
            "shared, mean variance, shared",
            pooled,
            5,
        ),
        less(
            "group norm is better than specific statistics",
            levels["group norm"],
            levels[apart],
            source="AP 39.5 and 39.1",
        ),
    ]
    if "negatives" in found:
        own = "specific, shared, specific", "specific, specific, specific"
        claim = "the affine, shared or specific, makes less than 1 point"
        source = "AP 39.2 and 39.1"
        pair = found["negatives"]
        said += [
            worse("so it is with a specific affine: 20 points worse", *own, 20),
            within(claim, levels[own[1]], levels[apart], 1, source=source),
            jointly(
                "for digits and their negatives both are 2 points worse",
                [
                    greater("shared in SGD", pair[mixed], pair[pooled], by=2),
                    greater("specific in SGD", pair[usual], pair[apart], by=2),
                ],
            ),
        ]
    return said


def draw(found: dict[str, Any], figure: Any) -> None:
    """Draws the errors of all rows, the levels above, the negatives below."""
    titles = {"levels": "levels through one head", "negatives": "digits and negatives"}
    panels = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    for axes, (part, errors) in zip(panels, found.items(), strict=True):
        arms = [(a, b) for a, b in TRAINED if f"{a}, shared, {b}" in errors]
        names = [f"SGD {where}\naffine {affine}" for where, affine in arms]
        groups: dict[str, Any] = {
            f"population {population}": np.stack(
                [errors[f"{where}, {population}, {own}"] for where, own in arms], 1
            )
            for population in POPULATIONS
        }
        bars(axes, names, groups)
        for name, style in (("group norm", "--"), ("no norm", ":")):
            if name in errors:
                mean = np.mean(errors[name])
                axes.axhline(mean, color="k", linestyle=style, label=name)
        axes.set(title=titles[part], ylabel="error, %")
    legend_below(figure, columns=5)
