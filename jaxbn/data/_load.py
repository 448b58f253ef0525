"""`load`: one name to one data set, whatever it takes to get it."""

import os
from typing import Any

import numpy as np

from jaxbn._values import check_count, shown
from jaxbn.data._column import Column
from jaxbn.data._embedded import EMBEDDED
from jaxbn.data._image_folder import is_image_folder, load_image_folder
from jaxbn.data._join import join_domains
from jaxbn.data._split import Dataset, Loaded, Split, channel_statistics, in_memory
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
    image_size: int | None = None,
) -> Dataset:
    """The data set called `name`, read whole into memory where it fits.

    'digits' and 'regression' need no file. 'image_folder' is `data_dir` itself, with
    pictures in train/CLASS/ and val/CLASS/ (or validation, test);
    'image_folder/SUB' is data_dir/SUB. Every other name is a TFDS image
    classification set: the newest version under `data_dir`, read without TensorFlow,
    whether or not TFDS has a class for it. One that is not there is prepared there
    if the network can be reached, and is an error otherwise; no other set ever takes
    its place. At about 17,000 images a second MNIST takes four seconds.

    A split whose images exceed `memory_limit` bytes stays on disk: its `inputs` and
    `labels` are lazy columns that read the rows they are indexed with, for `stream`;
    `mean` and `std` are then estimated from 10,000 rows.

    Pictures of any size are brought to `image_size`, the centre square of 7/8 of the
    shorter side by bilinear interpolation (224 of 256), in RGB unless the set is of
    one channel. Those for training stay encoded, whatever the limit, so that
    `random_crops` can crop them anew in each epoch; joined sets are read whole.

    Several names joined by '+' are one set of as many domains; see `join_domains`.

    Args:
        name: 'digits', 'regression', 'image_folder', 'image_folder/SUB', or 'name',
            'name/config', 'name:1.0.0' of TFDS, or several image sets, such as
            'mnist+usps'.
        data_dir: where prepared sets lie; None is $TFDS_DATA_DIR, or else
            ~/tensorflow_datasets. The embedded sets do not look at it.
        train_limit: at most so many training examples (of each domain), the first
            ones, of an image folder in a fixed mixed order; the mean and std are of
            those.
        test_limit: at most so many test examples.
        seed: of the order and noise of 'regression'; the other sets have none.
        memory_limit: bytes.
        image_size: pixels of each side of the images; None for sets whose images have
            one size, which they keep.

    Returns:
        A `Dataset`.

    Raises:
        DatasetUnavailable: (a ValueError) if the set cannot be had or is damaged.
        ValueError: if no set has that name, it is not images with labels, or a limit
            or `image_size` is below 1.

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
    if image_size is not None:
        check_count("image_size", image_size, 1, 2**15, otherwise=", or None")
    sizes: dict[str, Any] = {"train_limit": train_limit, "test_limit": test_limit}
    sizes |= {"memory_limit": memory_limit, "image_size": image_size}
    if "+" in name:
        parts = [_load(part, data_dir, seed, **sizes) for part in name.split("+")]
        return join_domains(parts)
    return _load(name, data_dir, seed, **sizes, encoded=image_size is not None)


def _load(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    seed: int,
    train_limit: int | None,
    test_limit: int | None,
    memory_limit: int,
    image_size: int | None,
    encoded: bool = False,
) -> Dataset:
    """One data set; `encoded` pictures for training stay what they are."""
    if name in EMBEDDED:
        _refuse_size(name, image_size)
        found = Loaded(*EMBEDDED[name](seed, train_limit, test_limit))
        train, test = found.train, found.test
    else:
        read = load_image_folder if is_image_folder(name) else load_tfds
        wanted = name, data_dir, train_limit, test_limit, image_size
        found = read(*wanted)
        train = found.train if encoded else in_memory(found.train, memory_limit)
        test = in_memory(found.test, memory_limit)
        for which, split in (("train", train), ("test", test)):
            _check_labels(split, f"the {which} split of {name!r}")
    mean, std = channel_statistics(train.inputs)
    task = "classification" if found.num_classes else "regression"
    return Dataset(
        name,
        train,
        test,
        found.num_classes,
        mean,
        std,
        task,
        classes=found.classes,
        files=found.files,
    )


def _refuse_size(name: str, image_size: int | None) -> None:
    if image_size is not None:
        raise ValueError(
            f"image_size is {image_size}, but {name!r} has a size of its own; leave it "
            "out (--image_size)"
        )


def _check_labels(split: Split, what: str) -> None:
    # Of a lazy split the first few are looked at.
    few = isinstance(split.labels, Column)
    if np.min(split.labels[:100] if few else split.labels) < 0:
        raise ValueError(f"{what} has no labels (they are -1); it cannot be used")
