"""Joining: several data sets as one, each of them a domain."""

import numpy as np

from jaxbn._values import has_numbers, shown
from jaxbn.data._column import Column
from jaxbn.data._split import Dataset, Split, channel_statistics


def join_domains(datasets: list[Dataset]) -> Dataset:
    """Returns one data set of several, whose labels say of which set an example is.

    A label is `class + num_classes * domain`. Images are brought to the size of the
    first set, each pixel being the nearest one.

    Args:
        datasets: image sets of the same classes and channels, in memory.

    Raises:
        ValueError: if they are not.

    Example:
        >>> from jaxbn.data import load
        >>> digits = load('digits', train_limit=3, test_limit=1)
        >>> both = join_domains([digits, digits])
        >>> both.num_domains, both.num_classes, both.train.labels.tolist()
        (2, 10, [2, 4, 5, 12, 14, 15])
    """
    listed = isinstance(datasets, list | tuple) and not isinstance(datasets, Dataset)
    if not listed or not all(isinstance(d, Dataset) for d in datasets) or not datasets:
        raise ValueError(
            f"datasets is {shown(datasets)}; expected a list of them, one at least"
        )
    first, *others = datasets
    for other in datasets:
        parts = (getattr(s, "inputs", None) for s in (other.train, other.test))
        if any(isinstance(part, Column) for part in parts):
            raise ValueError(
                f"{other.name!r} does not fit into memory, expected domains that do; "
                "pass a train_limit"
            )
        _check_images(other)
    kinds = {d.name: (d.num_classes, d.train.inputs.shape[3:]) for d in datasets}
    named = {d.name: d.classes for d in datasets if d.classes is not None}
    if len(set(named.values())) > 1:
        told = {name: list(classes) for name, classes in named.items()}
        raise ValueError(
            f"the names of the classes are {shown(told)}, expected the same of all "
            "domains; a class has the same place in each"
        )
    if len(set(kinds.values())) > 1 or not first.num_classes:
        raise ValueError(
            f"classes and channels are {kinds}, expected the same of all domains; join "
            "sets that differ in nothing else than where they are from"
        )
    train, test = (
        _concatenated([getattr(d, which) for d in datasets], first.num_classes)
        for which in ("train", "test")
    )
    mean, std = channel_statistics(train.inputs)
    return first._replace(
        name="+".join(d.name for d in datasets),
        train=train,
        test=test,
        mean=mean,
        std=std,
        num_domains=1 + len(others),
        files=":".join(str(d.files) for d in datasets) if first.files else None,
    )


def _check_images(dataset: Dataset) -> None:
    """Refuses what is not images with labels."""
    if not isinstance(dataset.name, str) or not isinstance(dataset.num_classes, int):
        raise ValueError(
            f"datasets has one called {shown(dataset.name)} with "
            f"{shown(dataset.num_classes)} classes; expected a string and an int"
        )
    for split in (dataset.train, dataset.test):
        known = isinstance(split, Split) and has_numbers(split[0])
        if (
            not known
            or not has_numbers(split[1])
            or (dataset.num_classes and np.ndim(split[0]) != 4)
        ):
            raise ValueError(
                f"datasets has a split of {dataset.name!r} that is {shown(split)}; "
                "expected images [N, H, W, C] and labels [N]"
            )
        if np.shape(split[1])[:1] != np.shape(split[0])[:1] or 0 in np.shape(split[0]):
            raise ValueError(
                f"datasets has images of shape {np.shape(split[0])} and labels of "
                f"shape {np.shape(split[1])} in {dataset.name!r}; expected a label for "
                "each image, one at least"
            )


def _concatenated(splits: list[Split], num_classes: int) -> Split:
    height, width = np.shape(splits[0].inputs)[1:3]
    inputs = [_resized(np.asarray(split.inputs), height, width) for split in splits]
    labels = [
        np.asarray(split.labels) + np.int32(num_classes * i)
        for i, split in enumerate(splits)
    ]
    return Split(np.concatenate(inputs), np.concatenate(labels))


def _resized(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns images [N, height, width, C] of the nearest pixels."""
    rows, columns = (
        (np.arange(new) * old + old // 2) // new
        for new, old in zip((height, width), images.shape[1:3], strict=True)
    )
    return images[:, rows][:, :, columns]
