"""Statistics from source, target, the mini-batch or a mixture, under shift.

An MLP is trained on clean MNIST, batches of 128 normalized in groups of 32, and tested
on seven corruptions at five strengths (`jaxbn.data.corrupt`; inversion is the negative
control) and on USPS, resized to the box that MNIST's digits fill. Nothing is trained on
the target; only what normalizes differs:

    source      precise statistics of the training images
    target      those of the first 1,000 target images, which are not tested on
    mini-batch  of the 32 test images at hand (`adaptive_norm(prior_count=0)`)
    mixed       16 parts the source's, 32 the mini-batch's (`prior_count=16`)

Claims (Wu and Johnson 2021, table 4; Schneider et al. 2020; Li et al. 2016).
1. Target statistics repair contrast: 50 points less error at strength 4.
2. They help against noise: at least 1 point at strength 3.
3. Those of another domain hurt: clean images with the statistics of contrast at
   strength 5 have at least 30 points more error.
4. Without a shift they cost nothing: with the statistics of 1,000 clean test images
   the error differs by less than 0.3 points.
5. A prior helps small batches and large ones need none: under noise the error of n = 8
   is at least 4 points smaller with N = 16 than with N = 0, at n = 128 they differ by
   less than 0.5.
6. For a large shift the prior hurts: under contrast at n = 8 by at least 10 points.
7. What no statistic holds is not repaired: on inverted images (strength 5) target
   statistics leave more than 50 % error in every seed.
8. On USPS the error is smaller with target statistics.

    python -m jaxbn.experiments domain_shift --workdir=W --data_dir=DIR
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbn import adaptive_norm, batch_norm
from jaxbn.data import CORRUPTIONS, Split, corrupt, load
from jaxbn.experiments._draw import band, bars, legend_below
from jaxbn.experiments._harness import Result, Settings
from jaxbn.experiments._images import Images, load_images
from jaxbn.experiments._measure import errors, precise, shuffled_split
from jaxbn.experiments._runs import classification, fit, sgd, start
from jaxbn.experiments._samplers import at_random
from jaxbn.experiments._verdicts import Verdict, always, greater, jointly, less, within
from jaxbn.models import create_model

SOURCE = "Wu and Johnson 2021, section 5.1, table 4"
STRENGTHS = (1, 2, 3, 4, 5)
SOURCES = ("source", "target", "mini-batch", "mixed")
TOGETHER, PRIOR = 32, 16


class Size(NamedTuple):
    """How much is run.

    Attributes:
        train: training examples; None for all.
        target: test examples that target statistics are measured on.
        test: others that are tested on, a multiple of all batches.
        epochs: passes over the training examples.
        batches: n, of test images that come together.
        priors: N, in examples.
        model: its name.
        options: of the model.
        pool: pixels of a side that become one.
    """

    train: int | None
    target: int
    test: int
    epochs: int
    batches: tuple[int, ...]
    priors: tuple[int, ...]
    model: str = "mlp"
    options: tuple[tuple[str, Any], ...] = (("hidden", (128,) * 3),)
    pool: int = 2


DEEP = ("resnet20", (("width", 16),), 1)
SIZES = {
    "smoke": Size(1_280, 128, 128, 2, (8, 32), (0, 16), "mlp", (("hidden", (32,)),)),
    "small": Size(10_000, 1_000, 3_840, 10, (8, 32, 128), (0, 16, 64)),
    "full": Size(None, 1_000, 8_960, 20, (8, 32, 128), (0, 16, 64), *DEEP),
}


def run(settings: Settings) -> Result:
    """Runs the experiment; see the top of the file."""
    size = SIZES[settings.size]
    limits = {"train": size.train, "test": size.target + size.test}
    images = load_images(settings, "mnist", **limits, pool=size.pool)
    images = images._replace(test=shuffled_split(images.test))
    evaluate = Evaluation(settings, size, images)
    clean = images.test
    found: dict[str, Any] = {"clean": evaluate.by_source(clean)}
    for kind in CORRUPTIONS:
        each = [
            evaluate.by_source(evaluate.corrupted(clean, kind, strength))
            for strength in STRENGTHS
        ]
        found[kind] = {
            name: np.stack([one[name] for one in each], 1) for name in SOURCES
        }
    if settings.size != "smoke" and settings.dataset in (None, "mnist"):
        found["usps"] = evaluate.by_source(usps_like(settings, size, images))
    dim = evaluate.corrupted(clean, "contrast", 5)
    wrong = evaluate.statistics(dim.inputs[: size.target])
    rest = Split(*(column[size.target :] for column in clean))
    found["clean"]["of contrast"] = evaluate.error(evaluate.plain, wrong, rest)
    found["mixing"] = {
        kind: evaluate.mixing(evaluate.corrupted(clean, kind, strength))
        for kind, strength in (("noise", 3), ("contrast", 4))
    }
    columns = ("test images", *(f"{name}, error %" for name in SOURCES))
    rows = [
        (
            f"{kind} {strength}",
            *(found[kind][name][:, strength - 1] for name in SOURCES),
        )
        for kind in CORRUPTIONS
        for strength in STRENGTHS
    ]
    whole = [name for name in ("clean", "usps") if name in found]
    rows = [(name, *(found[name][key] for key in SOURCES)) for name in whole] + rows
    drawn = functools.partial(draw, found, size)
    return Result(columns, rows, verdicts(found), drawn, found, (10, 9))


class Evaluation:
    """Trained nets, one a seed, and their errors by where statistics are from."""

    def __init__(self, settings: Settings, size: Size, images: Images) -> None:
        """Trains the nets."""
        self.size, self.images = size, images
        self.plain = self.model(batch_norm())
        seeds = np.arange(settings.seeds)
        inputs, labels = images.train
        model = self.model(batch_norm(momentum=0.9, normalization_batch_size=TOGETHER))
        steps = size.epochs * (len(labels) // 128)
        optimizer = sgd(0.05, steps, weight_decay=5e-4)
        self.runs, _ = fit(
            classification(model),
            start(model, inputs[:2], seeds, optimizer),
            images.train,
            at_random(seeds, len(labels), 128),
            range(size.epochs),
            optimizer=optimizer,
        )
        self.source = self.statistics(np.asarray(inputs))
        self.mixtures = {
            prior: self.model(adaptive_norm(prior_count=prior))
            for prior in sorted({0, PRIOR, *size.priors})
        }

    def model(self, norm: Any) -> Any:
        """Returns the net with `norm` in its layers."""
        options = dict(self.size.options)
        return create_model(self.size.model, self.images.num_classes, norm, **options)

    def statistics(self, inputs: np.ndarray) -> Any:
        """Returns the precise statistics over `inputs`."""
        return precise(self.plain, self.runs.params, self.runs.batch_stats, inputs)

    def error(self, model: Any, stats: Any, split: Split, **how: Any) -> np.ndarray:
        """Returns the errors in percent, [S]."""
        return errors(model, self.runs.params, stats, split, **how)

    def corrupted(self, split: Split, kind: str, strength: int) -> Split:
        """Returns a split corrupted on [0, 1] and standardized as before."""
        mean, std = self.images.mean, self.images.std
        pixels = np.clip(split.inputs * std + mean, 0, 1)
        changed = corrupt(pixels, kind, strength, seed=strength)
        return Split((changed - mean) / std, split.labels)

    def by_source(self, split: Split) -> dict[str, np.ndarray]:
        """Returns the errors by where statistics are from, [S] each."""
        target = self.statistics(split.inputs[: self.size.target])
        rest = Split(*(column[self.size.target :] for column in split))
        found = (
            self.error(self.plain, self.source, rest),
            self.error(self.plain, target, rest),
            self.error(self.mixtures[0], self.source, rest, batch=TOGETHER),
            self.error(self.mixtures[PRIOR], self.source, rest, batch=TOGETHER),
        )
        return dict(zip(SOURCES, found, strict=True))

    def mixing(self, split: Split) -> dict[str, np.ndarray]:
        """Returns the errors [S, n] for each prior N."""
        rest = Split(*(column[self.size.target :] for column in split))

        def of(prior: int, batch: int) -> np.ndarray:
            return self.error(self.mixtures[prior], self.source, rest, batch=batch)

        return {
            str(prior): np.stack([of(prior, n) for n in self.size.batches], 1)
            for prior in self.size.priors
        }


def usps_like(settings: Settings, size: Size, images: Images) -> Split:
    """Returns images of USPS with the pixels and the standardization of `images`.

    A digit of USPS fills its image, one of MNIST a box of 20 of 28 pixels.
    """
    usps = load(
        "usps", data_dir=settings.data_dir, train_limit=size.target + size.test
    ).train
    pixels = np.asarray(usps.inputs[:], np.float32) / 255
    side = images.test.inputs.shape[1]
    box, edge = side - 2 * (side // 7), side // 7
    resized = jax.image.resize(pixels, (len(pixels), box, box, 1), "linear")
    framed = np.pad(resized, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    inputs = (framed - images.mean) / images.std
    labels = np.asarray(usps.labels[:])
    whole = (len(labels) - size.target) // 128 * 128 + size.target
    return Split(inputs[:whole], labels[:whole])


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """Returns whether the claims held."""
    clean, noise, dim = found["clean"], found["noise"], found["contrast"]
    mixing = found["mixing"]
    said = [
        greater(
            "target statistics take 50 points of error off contrast at strength 4",
            dim["source"][:, 3],
            dim["target"][:, 3],
            by=50,
            source="40.8 to 33.1 % on ImageNet-C",
        ),
        greater(
            "and 1 point off noise at strength 3",
            noise["source"][:, 2],
            noise["target"][:, 2],
            by=1,
            source="64.4 to 52.5 %",
        ),
        greater(
            "clean images with the statistics of contrast have 30 points more error",
            clean["of contrast"],
            clean["source"],
            by=30,
            source="39.7 for 23.4 %",
        ),
        within(
            "without a shift other statistics change less than 0.3 points",
            clean["target"],
            clean["source"],
            0.3,
            source="23.8 for 23.4 %",
        ),
        jointly(
            "under noise N = 16 helps small batches, and large ones need no prior",
            [
                greater(
                    "n = 8, by 4 points",
                    mixing["noise"]["0"][:, 0],
                    mixing["noise"]["16"][:, 0],
                    by=4,
                ),
                within(
                    "n = 128, within 0.5",
                    mixing["noise"]["0"][:, -1],
                    mixing["noise"]["16"][:, -1],
                    0.5,
                ),
            ],
        ),
        greater(
            "under contrast at n = 8 the prior costs 10 points",
            mixing["contrast"]["16"][:, 0],
            mixing["contrast"]["0"][:, 0],
            by=10,
        ),
        always(
            "target statistics leave more than 50 % error on inverted images",
            found["inversion"]["target"][:, 4] > 50,
            f"{found['inversion']['target'][:, 4].mean():.1f} %",
        ),
    ]
    if "usps" in found:
        claim = "on USPS the error is smaller with target statistics"
        said.append(less(claim, found["usps"]["target"], found["usps"]["source"]))
    return said


def draw(found: dict[str, Any], size: Size, figure: Any) -> None:
    """Draws error against strength by kind, clean and USPS, and against n."""
    panels = figure.subplots(3, 3)
    for axes, kind in zip(panels.flat, CORRUPTIONS, strict=False):
        for name, marker in zip(SOURCES, "osD^", strict=True):
            values = found[kind][name]
            band(axes, STRENGTHS, values, name, marker=marker, markersize=4)
        axes.set(title=kind, ylim=(0, 100), xticks=STRENGTHS)
        axes.set(xlabel="strength", ylabel="error, %")
    whole = [name for name in ("clean", "usps") if name in found]
    groups: dict[str, Any] = {
        key: np.stack([found[name][key] for name in whole], 1) for key in SOURCES
    }
    bars(panels[2, 1], [name.replace("usps", "USPS") for name in whole], groups)
    panels[2, 1].set(title="clean and USPS", ylabel="error, %")
    last = panels[2, 2]
    lines = found["mixing"]["noise"].items()
    for (prior, values), color in zip(lines, ("C4", "C5", "C6"), strict=False):
        band(last, size.batches, values, f"N = {prior}", color=color)
    last.set(title="noise, strength 3", xlabel="n, test images together", xscale="log")
    last.set_xticks(size.batches, [str(n) for n in size.batches])
    last.minorticks_off()
    last.set_ylabel("error, %")
    last.legend(fontsize=8)
    legend_below(figure)
