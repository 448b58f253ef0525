"""One net on several domains: statistics and affine shared, or one each.

Part (a), as a detector's head that five feature levels share: each image comes as five
levels, scaled by 1/4, 1/2, 1, 2, 4 and shifted by -3, -1.5, 0, 1.5, 3 (images are
standardized), and one MLP classifies all of them. Part (b): digits and their negatives,
trained on together. In SGD, domains are normalized as the one batch they make
('shared'; what `apply_jointly` does) or each by itself ('specific', `domain_norm`); the
population statistics of the trained net, measured as it was trained, are the total
variance of all domains or those of each; scale and bias are shared or not.

Claims (Wu and Johnson 2021, table 5); in percent of error, mean over domains.
1. After training with shared statistics, specific population statistics are over 2
   points worse than shared ones.
2. After training with specific statistics, shared population statistics are over 20
   points worse than specific ones.
3. A shared population has to be of total variance: the mean of the domains' variances,
   which running averages called once a level end in, is over 5 points worse.
4. Group norm does better than specific statistics.
5. Claim 2 holds where scale and bias are specific, too.
6. Sharing scale and bias or not makes less than 1 point of difference.
7. Claims 1 and 2 hold for digits and their negatives, by over 2 points.

    python -m jaxbn.experiments multi_domain --workdir=W --data_dir=DIR

Measured numbers: docs/experiments/results.md. The bounds come from pilot runs, but for
those of 7, which were set before the first run. 4 was not reproduced in a first run,
where group norm was worse than specific statistics in this MLP; nothing else was tried.
The source's collapse in claim 1 shows with negatives, less with levels: these have the
same classes in the same shares, which those of a detector have not.
"""

import functools
from typing import Any, Literal

import numpy as np

from jaxbn import batch_norm, domain_norm, group_norm
from jaxbn.base import Norm
from jaxbn.experiments._draw import bars, legend_below, spread
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._images import load_images
from jaxbn.experiments._measure import precise
from jaxbn.experiments._verdicts import (
    BEFORE,
    PILOT,
    Verdict,
    greater,
    jointly,
    less,
    within,
)
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


def measure(settings: Settings) -> dict[str, Any]:
    """Returns the errors by part and row; see the top of the file."""
    size = SIZES[settings.size]
    if settings.dataset is not None and size.everything:
        raise ConfigError(
            f"dataset is {settings.dataset!r}, expected none: multi_domain learns "
            "Fashion-MNIST in part (a) and MNIST in (b); leave it out, or ask for size "
            "smoke, which is part (a) alone"
        )
    seeds = np.array(settings.seed_numbers)
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
    return found


def show(found: dict[str, Any]) -> Result:
    """Returns what the numbers show."""
    columns = ("statistics in SGD, of the population, affine", "five levels, error %")
    columns += ("digits and negatives, error %", "source")
    rows = [
        (name, error, found.get("negatives", {}).get(name, ""), PAPER.get(name, ""))
        for name, error in found["levels"].items()
    ]
    drawn = functools.partial(draw, found)
    return Result(columns, rows, verdicts(found), drawn, found, (8, 7))


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
        said = {"chosen": PILOT, "source": source}
        return greater(claim, levels[row], levels[than], by=by, **said)

    pooled, apart = "shared, shared, shared", "specific, specific, shared"
    mixed, usual = "shared, specific, shared", "specific, shared, shared"
    said = [
        worse(
            "trained with shared statistics, domain-specific population statistics are "
            "over 2 points worse than shared",
            mixed,
            pooled,
            2,
        ),
        worse(
            "trained with domain-specific statistics, shared population statistics are "
            "over 20 points worse than specific",
            usual,
            apart,
            20,
        ),
        worse(
            "trained with shared statistics, the mean of the domains' variances is "
            "over 5 points worse than the total",
            "shared, mean variance, shared",
            pooled,
            5,
        ),
        less(
            "group norm is better than domain-specific statistics",
            levels["group norm"],
            levels[apart],
            source="AP 39.5 and 39.1",
        ),
    ]
    if "negatives" in found:
        own = "specific, shared, specific", "specific, specific, specific"
        claim = (
            "sharing scale and bias among domains changes the error by less than 1 "
            "point"
        )
        source = "AP 39.2 and 39.1"
        pair = found["negatives"]
        said += [
            worse(
                "trained with domain-specific statistics, scale and bias, shared "
                "population statistics are 20 points worse",
                *own,
                20,
            ),
            within(
                claim,
                levels[own[1]],
                levels[apart],
                1,
                chosen=PILOT,
                source=source,
            ),
            jointly(
                "on digits and their negatives, population statistics unlike those of "
                "training are over 2 points worse",
                [
                    greater(name, pair[row], pair[than], by=2, chosen=BEFORE)
                    for name, row, than in (
                        ("trained with shared", mixed, pooled),
                        ("trained with specific", usual, apart),
                    )
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
                mean, width = np.mean(errors[name]), spread(errors[name])
                axes.axhline(mean, color="k", linestyle=style, label=name)
                axes.axhspan(mean - width, mean + width, color="k", alpha=0.15)
        axes.set(title=titles[part], ylabel="error, %")
        axes.tick_params(labelsize=9)
    legend_below(figure, columns=3)
