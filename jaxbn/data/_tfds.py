"""Image classification sets prepared by TFDS, read without TensorFlow.

A set is a folder data_dir/name/version of array_record files. Its image and its label
are found by the type of the feature, not by name. A split is decoded once into one
uint8 array, or, where that would be too large, stays on disk behind a `Column`.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxbn.data._column import Column, DatasetUnavailable, damaged, read_records
from jaxbn.data._folders import data_root, find_folder, parse_name
from jaxbn.data._pictures import Pictures
from jaxbn.data._prepare import prepare
from jaxbn.data._quiet import quiet
from jaxbn.data._split import Loaded, Split

OWN = "tensorflow_datasets."
"""The package whose classes a set's features may name: TFDS imports what they name."""


def load_tfds(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    train_limit: int | None,
    test_limit: int | None,
    image_size: int | None,
) -> Loaded:
    """The splits of a set under `data_dir`, lazy, and its classes.

    With an `image_size` their images are `Pictures`, decoded and
    resized here; else TFDS decodes them.

    The test split is 'test', or 'validation' in a set that has no 'test'.

    Raises:
        DatasetUnavailable: if the set is not there and cannot be had, or is damaged.
        ValueError: if no set has that name, or it is not made of one image and one
            label, or lacks a split.
    """
    root = data_root(data_dir)
    parts = parse_name(name)
    folder = find_folder(root, parts) if parts else None
    if folder is None:
        folder = prepare(name, parts, root)
    with quiet():
        builder = _open(folder)
        image, label = image_and_label(builder.info, name)
        train, test = _split_names(builder.info, name)
        splits = [
            _columns(builder, split, limit, (image, label), folder, image_size)
            for split, limit in ((train, train_limit), (test, test_limit))
        ]
    kinds = builder.info.features[label]
    named = kinds.names != [str(i) for i in range(kinds.num_classes)]
    classes = tuple(kinds.names) if named else None
    return Loaded(splits[0], splits[1], kinds.num_classes, classes)


def _open(folder: Path) -> Any:
    """The read-only builder of a prepared folder."""
    import tensorflow_datasets as tfds

    try:
        features = (folder / "features.json").read_text()
        foreign = [name for name in classes_in(features) if not name.startswith(OWN)]
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(folder, error) from error
    if foreign:
        raise DatasetUnavailable(
            f"features.json in {folder} names the class {foreign[0]!r}, whose module "
            f"TFDS would import; expected features of {OWN}* alone"
        )
    try:
        builder = tfds.builder_from_directory(str(folder))
        stored_as = builder.info.file_format.file_suffix
    except Exception as error:
        raise damaged(folder, error) from error
    if stored_as != "array_record":
        raise DatasetUnavailable(
            f"{folder} holds {stored_as} files, which only TensorFlow reads; prepare "
            "the set again with file_format='array_record' in another data_dir"
        )
    return builder


def classes_in(features: str) -> list[str]:
    """Returns the Python classes that a features.json names, in new and old forms."""
    found: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> None:
        for key, value in pairs:
            named = key.replace("_", "").lower() in ("pythonclassname", "type")
            if isinstance(value, str) and value.lstrip().startswith("{"):
                found.extend(classes_in(value))  # Of old, content is JSON as a string.
            elif isinstance(value, str) and named and "." in value:
                found.append(value)

    json.loads(features, object_pairs_hook=collect)
    return found


def _source(
    builder: Any, split: str, limit: int | None, folder: Path, decoders: Any
) -> Any:
    """The data source of the first `limit` records of a split."""
    count = builder.info.splits[split].num_examples
    part = split if limit is None or limit >= count else f"{split}[:{limit}]"
    try:
        return builder.as_data_source(split=part, decoders=decoders)
    except Exception as error:
        raise damaged(folder, error) from error


def image_and_label(info: Any, name: str) -> tuple[str, str]:
    """The names of the image and of the label feature.

    Where there are several of a kind, the set's own `supervised_keys` decide.

    Raises:
        ValueError: if there is not exactly one of each, or the image is not uint8.
    """
    import tensorflow_datasets as tfds

    features = dict(info.features) if hasattr(info.features, "items") else {}
    images = _of_type(features, tfds.features.Image)
    labels = _of_type(features, tfds.features.ClassLabel)
    keys = info.supervised_keys or ()
    if len(keys) == 2 and keys[0] in images and keys[1] in labels:
        images, labels = [keys[0]], [keys[1]]
    if len(images) != 1 or len(labels) != 1:
        has = ", ".join(f"{key}: {type(f).__name__}" for key, f in features.items())
        raise ValueError(
            f"data set {name!r} is not one image and one class label a record; "
            f"it has {has or 'no named features'}"
        )
    dtype = np.dtype(features[images[0]].np_dtype)
    if dtype != np.uint8 or features[labels[0]].num_classes is None:
        raise ValueError(
            f"data set {name!r} has {dtype} images and "
            f"{features[labels[0]].num_classes} classes; expected uint8 images and a "
            "known number of classes"
        )
    return images[0], labels[0]


def _of_type(features: dict[str, Any], kind: type) -> list[str]:
    return [key for key, feature in features.items() if isinstance(feature, kind)]


def _split_names(info: Any, name: str) -> tuple[str, str]:
    present = [split for split in info.splits if info.splits[split].num_examples]
    test = next((s for s in ("test", "validation") if s in present), None)
    if "train" not in present or test is None:
        raise ValueError(
            f"data set {name!r} has the splits {', '.join(present) or '(none)'}; "
            "expected 'train', and 'test' or 'validation'"
        )
    return "train", test


def _columns(
    builder: Any,
    split: str,
    limit: int | None,
    keys: tuple[str, str],
    folder: Path,
    image_size: int | None,
) -> Split:
    """A split as lazy columns."""
    import tensorflow_datasets as tfds

    (image, label), where = keys, str(folder)
    if image_size is None:
        source = _source(builder, split, limit, folder, None)
        first = read_records(source, [0], where)[0]  # It says what size an image has.
        inputs = Column(source, image, first[image].shape, np.uint8, where)
    else:
        encoded = {image: tfds.decode.SkipDecoding()}
        source = _source(builder, split, limit, folder, encoded)
        mode = "L" if builder.info.features[image].shape[-1] == 1 else "RGB"
        inputs = Pictures(source, image, where, image_size, mode).column()
    return Split(inputs, Column(source, label, (), np.int32, where))
