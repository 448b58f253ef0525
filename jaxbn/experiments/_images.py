"""Images of an experiment: standardized floats, small enough for two cores."""

from typing import NamedTuple

import numpy as np

from jaxbn.data import Split, load, to_float
from jaxbn.experiments._harness import Settings


class Images(NamedTuple):
    """A data set as arrays.

    Attributes:
        train: float32 inputs [N, H, W, C], standardized, and int32 labels [N].
        test: the same.
        num_classes: of the labels.
        mean: [C] that was subtracted, of images on [0, 1].
        std: [C] that it was divided by.
    """

    train: Split
    test: Split
    num_classes: int
    mean: np.ndarray
    std: np.ndarray


def load_images(
    settings: Settings,
    own: str,
    *,
    train: int | None,
    test: int | None,
    pool: int = 1,
) -> Images:
    """Returns the data set of the settings: the one named, `own`, or digits at smoke.

    Args:
        settings: of the run.
        own: the name of the set that the experiment takes unless told otherwise.
        train: how many training examples, the first ones; None for all.
        test: how many test examples.
        pool: images of 28 pixels or more become the means of so many squared.

    Raises:
        DatasetUnavailable: (a ValueError) if the set cannot be had.
        ValueError: if it has fewer examples than are asked for; at smoke those will do.
    """
    name = settings.dataset or ("digits" if settings.size == "smoke" else own)
    limits = {"train_limit": train, "test_limit": test}
    data = load(name, data_dir=settings.data_dir, **limits)
    for what, split in (("train", data.train), ("test", data.test)):
        asked, there = limits[f"{what}_limit"], len(split.labels)
        if settings.size != "smoke" and asked is not None and there < asked:
            raise ValueError(
                f"{name} has {there} {what} examples, this experiment takes {asked} at "
                f"size {settings.size}; choose a larger set, or --size=smoke"
            )

    def prepare(split: Split) -> Split:
        inputs = np.asarray(to_float(split.inputs[:], data.mean, data.std))
        if inputs.shape[1] >= 28:
            inputs = pooled(inputs, pool)
        return Split(inputs, np.asarray(split.labels[:]))

    parts = prepare(data.train), prepare(data.test)
    return Images(*parts, data.num_classes, data.mean, data.std)


def pooled(images: np.ndarray, size: int) -> np.ndarray:
    """Returns the means of squares of `size` pixels.

    Example:
        >>> pooled(np.arange(4.0).reshape(1, 2, 2, 1), 2).ravel()
        array([1.5])
    """
    n, height, width, channels = images.shape
    squares = images.reshape(n, height // size, size, width // size, size, channels)
    return squares.mean((2, 4))
