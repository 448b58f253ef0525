"""Samplers: which rows make a batch. Each gives [R, steps, B] for R runs by seed."""

from collections.abc import Callable, Iterable

import numpy as np

from jaxbn.data import epoch_indices

Sampler = Callable[[int], np.ndarray]
"""`rows(epoch) -> int32 [R, steps, B]`, a pure function of the epoch."""


def at_random(seeds: Iterable[int], examples: int, batch_size: int) -> Sampler:
    """Returns the ordinary sampler: each epoch a new order, the rest dropped."""

    seeds = [int(seed) for seed in seeds]

    def rows(epoch: int) -> np.ndarray:
        each = [epoch_indices(seed, examples, batch_size, epoch) for seed in seeds]
        return np.stack(each)

    return rows


def in_patterns(
    seeds: Iterable[int],
    labels: np.ndarray,
    batch_size: int,
    *,
    classes: int,
    images: int,
) -> Sampler:
    """Returns a sampler whose batches are runs of `classes` times `images` examples.

    The classes of a run are drawn without replacement; images of a class come in an
    order of its own, shuffled anew when used up.

    Args:
        seeds: of the runs.
        labels: [N].
        batch_size: a multiple of `classes * images`.
        classes: K, how many a run has.
        images: M, of each.
    """
    seeds = [int(seed) for seed in seeds]
    kinds = [np.flatnonzero(labels == kind) for kind in np.unique(labels)]
    size = classes * images
    if batch_size % size or classes > len(kinds):
        raise ValueError(
            f"batch_size is {batch_size} and runs are of {classes} x {images}, "
            f"expected a multiple of {size} and at most {len(kinds)} classes"
        )
    steps = len(labels) // batch_size

    def of_one(seed: int, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((seed, epoch))
        decks = [rng.permutation(kind) for kind in kinds]
        places = np.zeros(len(kinds), int)
        runs = np.empty((steps * (batch_size // size), classes, images), np.int32)
        for run in runs:
            for i, kind in enumerate(rng.permutation(len(kinds))[:classes]):
                if places[kind] + images > len(decks[kind]):
                    decks[kind], places[kind] = rng.permutation(kinds[kind]), 0
                run[i] = decks[kind][places[kind] : places[kind] + images]
                places[kind] += images
        return runs.reshape(steps, batch_size)

    return lambda epoch: np.stack([of_one(seed, epoch) for seed in seeds])
