"""`load`: one name to one data set, whatever it takes to get it."""

import os
from typing import Any

from jaxbn._values import check_count, shown
from jaxbn.data._embedded import EMBEDDED
from jaxbn.data._join import join_domains
from jaxbn.data._split import Dataset, channel_statistics
from jaxbn.data._tfds import load_tfds

MEMORY_LIMIT = 4 * 2**30
"""Bytes of images a split may take in memory, unless `load` is told otherwise."""


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    train_limit: int | None = None,
    test_limit: int | None = None,
    seed: int = 0,
    memory_limit: int = MEMORY_LIMIT,
) -> Dataset:
    """The data set called `name`, read whole into memory where it fits.

    'digits' and 'regression' need no file. Every other name is a TFDS image
    classification set: the newest version under `data_dir`, read without TensorFlow,
    whether or not TFDS has a class for it. One that is not there is prepared there
    if the network can be reached, and is an error otherwise; no other set ever takes
    its place. At about 17,000 images a second MNIST takes four seconds.

    A split whose images exceed `memory_limit` bytes stays on disk: its `inputs` and
    `labels` are lazy columns that read the rows they are indexed with, for `stream`;
    `mean` and `std` are then estimated from 10,000 rows.

    Several names joined by '+' are one set of as many domains; see `join_domains`.

    Args:
        name: 'digits', 'regression', or 'name', 'name/config', 'name:1.0.0' of TFDS, or
            several image sets, such as 'mnist+usps'.
        data_dir: where prepared sets lie; None is $TFDS_DATA_DIR, or else
            ~/tensorflow_datasets. The embedded sets do not look at it.
        train_limit: at most so many training examples (of each domain), the first
            ones; the mean and std are of those.
        test_limit: at most so many test examples.
        seed: of the order and noise of 'regression'; the other sets have none.
        memory_limit: bytes.

    Returns:
        A `Dataset`.

    Raises:
        DatasetUnavailable: (a ValueError) if the set cannot be had or is damaged.
        ValueError: if no set has that name, it is not images with labels, or a limit
            is below 1.

    Example:
        >>> digits = load('digits', test_limit=100)
        >>> digits.train.inputs.shape, digits.test.inputs.shape, digits.num_classes
        ((1442, 8, 8, 1), (100, 8, 8, 1), 10)
    """
    if not isinstance(name, str):
        raise ValueError(f"name is {shown(name)}; expected a string, such as 'digits'")
    if data_dir is not None and not isinstance(data_dir, str | os.PathLike):
        raise ValueError(
            f"data_dir is {shown(data_dir)}; expected the path of a folder"
        )
    for what, limit in (("train_limit", train_limit), ("test_limit", test_limit)):
        if limit is not None:
            check_count(what, limit, 1, otherwise=", or None for all")
    check_count("seed", seed, most=2**64)
    check_count("memory_limit", memory_limit, most=2**63)
    if "+" in name:
        options: dict[str, Any] = {"data_dir": data_dir, "seed": seed}
        options |= {"train_limit": train_limit, "test_limit": test_limit}
        options |= {"memory_limit": memory_limit}
        return join_domains([load(part, **options) for part in name.split("+")])
    if name in EMBEDDED:
        parts = EMBEDDED[name](seed, train_limit, test_limit)
    else:
        parts = load_tfds(name, data_dir, train_limit, test_limit, memory_limit)
    train, test, num_classes = parts
    mean, std = channel_statistics(train.inputs)
    task = "classification" if num_classes else "regression"
    return Dataset(name, train, test, num_classes, mean, std, task)
