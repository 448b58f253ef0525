"""What a data set is here: two splits and the few numbers a training run needs.

A `Split` holds all inputs and all labels; small sets are whole arrays, so that they go
to the device once and an epoch is one `lax.scan` over rows of indices.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxbn._values import as_numbers, as_numpy, shown
from jaxbn.data._column import Column, Rows, as_rows, read_records

STATISTICS_ROWS = 10_000
"""Of a lazy split, so many evenly spaced rows estimate the mean and std."""
ROWS_A_REQUEST = 1024
"""Rows of a lazy split that are read together where all are wanted."""


class Split(NamedTuple):
    """All examples of one split.

    Attributes:
        inputs: uint8 [N, H, W, C] images, or float32 [N, ...].
        labels: int32 [N] classes, or float32 [N, 1] targets.
    """

    inputs: Rows
    labels: Rows


class Loaded(NamedTuple):
    """What is read of a set before its mean and deviation are measured.

    Attributes:
        train: the training split.
        test: the test split.
        num_classes: 0 for regression.
        classes: their names, in order, where the set has some.
        files: a digest of which files it is made of, where it is a folder of them.
    """

    train: Split
    test: Split
    num_classes: int
    classes: tuple[str, ...] | None = None
    files: str | None = None


class Dataset(NamedTuple):
    """A data set ready to be trained on.

    Attributes:
        name: as it was asked for.
        train: the training split.
        test: the split to evaluate on.
        num_classes: 0 for regression.
        mean: float32 [C], per channel of the training inputs; of images on [0, 1].
        std: float32 [C], the same (biased, 1/n).
        task: 'classification' or 'regression'.
        num_domains: of how many sets this is joined; where there are several, a label
            is `class + num_classes * domain`.
        classes: names of the classes, in order; None where the set has none.
        files: a digest of which files a folder of pictures has; None for other sets.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    mean: np.ndarray
    std: np.ndarray
    task: Literal["classification", "regression"]
    num_domains: int = 1
    classes: tuple[str, ...] | None = None
    files: str | None = None


def read_rows(split: Split, rows: ArrayLike) -> Split:
    """The given rows of a split as NumPy arrays; a lazy split is read once.

    Args:
        split: arrays, or columns of a data source.
        rows: integers of any shape; the result has that shape in front.

    Example:
        >>> split = Split(np.arange(5.0), np.arange(5))
        >>> read_rows(split, [3, 0])
        Split(inputs=array([3., 0.]), labels=array([3, 0]))
    """
    rows = as_rows(rows)
    if not isinstance(split, tuple) or len(split) != 2:
        raise ValueError(f"split is {shown(split)}; expected a Split of two arrays")
    inputs, labels = (
        part if isinstance(part, Column) else as_numbers("an array of split", part)
        for part in split
    )
    for part in (inputs, labels):
        if not isinstance(part, Column) and not part.ndim:
            raise ValueError("split has a number for an array; expected [N, ...]")
        known = len(part)
        if rows.size and not -known <= rows.min() <= rows.max() < known:
            raise ValueError(
                f"rows are from {rows.min()} to {rows.max()}; expected those of split, "
                f"from 0 to {known - 1}"
            )
    lazy = isinstance(inputs, Column) and isinstance(labels, Column)
    if lazy and _of_one_source(inputs, labels) and rows.ndim == 1:
        records = read_records(inputs.source, inputs.rows(rows).tolist(), inputs.where)
        return Split(inputs.stack(records), labels.stack(records))
    return Split(np.asarray(inputs[rows]), np.asarray(labels[rows]))


def _of_one_source(inputs: Column, labels: Column) -> bool:
    """Whether a record of the inputs, decoded or not, has the label as well."""
    encoded = getattr(inputs.source, "records", inputs.source)
    return labels.source is inputs.source or labels.source is encoded


def in_memory(split: Split, memory_limit: int) -> Split:
    """The split as arrays, or as it is where its images exceed `memory_limit` bytes."""
    if not isinstance(split.inputs, Column) or split.inputs.nbytes > memory_limit:
        return split
    inputs = np.empty(split.inputs.shape, split.inputs.dtype)
    labels = np.empty(split.labels.shape, split.labels.dtype)
    for rows in _requests(np.arange(len(inputs))):
        inputs[rows], labels[rows] = read_rows(split, rows)
    return Split(inputs, labels)


def _requests(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[i : i + ROWS_A_REQUEST] for i in range(0, len(rows), ROWS_A_REQUEST)]


def channel_statistics(inputs: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel (the last axis), float32 [C].

    Images are counted, not summed: a histogram of the 256 values of each channel
    gives both numbers without rounding. They are on [0, 1], that is of x/255. Floats
    are taken as they are. A lazy column is estimated from 10,000 evenly spaced rows.

    Example:
        >>> channel_statistics(np.array([[[[0]]], [[[255]]]], np.uint8))
        (array([0.5], dtype=float32), array([0.5], dtype=float32))
    """
    if not isinstance(inputs, Column):
        inputs = as_numpy("inputs", inputs)
    if not inputs.ndim or 0 in inputs.shape:
        raise ValueError(
            f"inputs have shape {inputs.shape}; expected [N, ..., C] with something in"
        )
    picked = np.arange(len(inputs))
    if isinstance(inputs, Column):
        spaced = np.linspace(0, len(inputs) - 1, min(len(inputs), STATISTICS_ROWS))
        picked = np.unique(spaced.astype(int))
    if inputs.dtype != np.uint8:
        flat = inputs[picked].reshape(-1, inputs.shape[-1]).astype(np.float64)
        return flat.mean(0).astype(np.float32), flat.std(0).astype(np.float32)
    counts = np.zeros((inputs.shape[-1], 256), np.int64)
    for rows in _requests(picked):
        counts += _histograms(inputs[rows])
    weights = counts / counts.sum(1, keepdims=True)
    values = np.arange(256) / 255
    mean = weights @ values
    deviations = values - mean[:, None]
    std = np.sqrt((weights * deviations**2).sum(1))
    return mean.astype(np.float32), std.astype(np.float32)


def _histograms(images: np.ndarray) -> np.ndarray:
    """How often each of the 256 values occurs in each channel: int64 [C, 256]."""
    channels = np.moveaxis(images, -1, 0)
    return np.stack([np.bincount(c.ravel(), minlength=256) for c in channels])
