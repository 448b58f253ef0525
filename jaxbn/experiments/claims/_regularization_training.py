"""The training of `regularization`: ghost batches, and dropout and L2 with choices."""

import functools
from typing import Any, NamedTuple

import numpy as np

from jaxbn import batch_norm, ghost_norm
from jaxbn.data import Split
from jaxbn.experiments._images import Images
from jaxbn.experiments._measure import errors, precise, shuffled_split
from jaxbn.experiments._runs import classification, fit, sgd, start
from jaxbn.experiments._samplers import at_random
from jaxbn.experiments.claims._dropout import (
    DropoutMLP,
    regularized,
    with_strengths,
    without_strengths,
)
from jaxbn.models import create_model

GHOST_RATE = 0.1
KINDS = {
    "neither": ((0, 0),),
    "dropout": ((0.2, 0), (0.5, 0)),
    "L2": ((0, 1e-3), (0, 1e-2)),
}
"""The strengths of dropout and L2 that are tried."""
NORMS = {"batch norm": batch_norm(momentum=0.9), "none": None}


class Size(NamedTuple):
    """How much is run; `ghosts` are the sizes of ghost batches, the last of all."""

    train: int
    validation: int
    test: int | None
    epochs: int
    ghosts: tuple[int, ...]
    batch: int
    rates: tuple[float, ...]
    hidden: tuple[int, ...]


def train_ghosts(
    size: Size, images: Images, seeds: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the errors [S] by the size of the ghost batches."""
    inputs, labels = images.train
    batch, hidden = size.ghosts[-1], size.hidden
    plain = create_model("mlp", images.num_classes, batch_norm(), hidden=hidden)
    rows = at_random(seeds, len(labels), batch)
    step = sgd(GHOST_RATE, len(labels) // batch * size.epochs)
    first = start(plain, inputs[:2], seeds, step)
    orders = shuffled_split(images.train), shuffled_split(images.test)
    found = {}
    for ghost in size.ghosts:
        norm = ghost_norm(size=ghost, momentum=0.9)
        model = create_model("mlp", images.num_classes, norm, hidden=hidden)
        runs, _ = fit(
            classification(model),
            first,
            images.train,
            rows,
            range(size.epochs),
            optimizer=step,
        )
        found_of = functools.partial(errors, params=runs.params)
        mini = {"stats": runs.batch_stats, "train": True, "batch": batch}
        stats = precise(plain, runs.params, runs.batch_stats, inputs)
        found[str(ghost)] = {
            "train_mini": found_of(model, split=orders[0], **mini),
            "test_mini": found_of(model, split=orders[1], **mini),
            "train_population": found_of(plain, stats=stats, split=images.train),
            "test_population": found_of(plain, stats=stats, split=images.test),
        }
    return found


def train_arms(
    size: Size, images: Images, validation: Split, seeds: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Returns the errors [S] of each arm where its validation error is smallest."""
    inputs, labels = images.train
    tried = [
        (kind, dropout, l2, rate)
        for kind, strengths in KINDS.items()
        for dropout, l2 in strengths
        for rate in size.rates
    ]
    dropout, l2, rates = (
        np.repeat([each[i] for each in tried], len(seeds)) for i in (1, 2, 3)
    )
    lanes = np.tile(seeds, len(tried))
    rows = at_random(lanes, len(labels), size.batch)
    step = sgd(1.0, len(labels) // size.batch * size.epochs)
    found = {}
    for name, norm in NORMS.items():
        model = DropoutMLP(images.num_classes, norm, size.hidden)
        places = np.full(len(size.hidden), float(norm is None))
        places[-1] = 1.0
        runs = start(model, inputs[:2], lanes, step)
        runs, _ = fit(
            regularized(model),
            with_strengths(runs, dropout[:, None] * places[None], l2),
            images.train,
            rows,
            range(size.epochs),
            optimizer=step,
            rates=rates,
        )
        stats = without_strengths(runs)
        parts = {"train": images.train, "validation": validation, "test": images.test}
        measured = {
            part: errors(model, runs.params, stats, split).reshape(-1, len(seeds))
            for part, split in parts.items()
        }
        for kind in KINDS:
            own = [i for i, each in enumerate(tried) if each[0] == kind]
            best = min(own, key=lambda i: measured["validation"][i].mean())
            settings = dict(
                zip(("dropout", "l2", "rate"), tried[best][1:], strict=True)
            )
            numbers = {part: values[best] for part, values in measured.items()}
            found[f"{name}, {kind}"] = {**settings, **numbers}
    return found
