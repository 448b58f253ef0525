"""Folders of pictures: data_dir/train/CLASS/*.jpg and data_dir/val/CLASS/*.jpg."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxbn._values import shown
from jaxbn.data._order import shuffled_order
from jaxbn.data._pictures import Pictures
from jaxbn.data._split import Loaded, Split

NAME = "image_folder"
TEST_SPLITS = ("val", "validation", "test")
"""The first of them that has folders of classes is the test split."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclasses.dataclass(frozen=True)
class Files:
    """A data source of records {'image': path}.

    Attributes:
        folder: where they lie.
        names: of the files, relative to it.
    """

    folder: str
    names: Sequence[str]

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.names)

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The records at `rows`; no file is opened."""
        return [{"image": os.path.join(self.folder, self.names[row])} for row in rows]


def is_image_folder(name: str) -> bool:
    """Whether a data set's name is 'image_folder' or 'image_folder/SUBFOLDER'."""
    return name == NAME or name.startswith(f"{NAME}/")


def load_image_folder(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    train_limit: int | None,
    test_limit: int | None,
    image_size: int | None,
) -> Loaded:
    """The splits of a folder of pictures, lazy.

    The classes are the subfolders of 'train' in alphabetical order, as torchvision and
    Keras have them; files may lie deeper, links are followed, and names that begin with
    a dot are passed over. One fixed permutation orders the examples, so that batches in
    order are of all classes.

    Raises:
        ValueError: if there is no such folder, a class of it has no picture, or the
            test split has a class that 'train' has not.
        OSError: if a folder cannot be read.
    """
    root = _root(name, data_dir)
    train, classes = root / "train", _classes(root / "train")
    tests = ((root / split, _classes(root / split)) for split in TEST_SPLITS)
    test, tested = next((found for found in tests if found[1]), (root, []))
    if not tested or not classes:
        has = f"has the folders {shown(_classes(root))}"
        raise ValueError(
            f"{root} {has if root.is_dir() else 'is not there'}; expected a folder "
            f"with 'train', and one of {', '.join(TEST_SPLITS)}, in which each class "
            "is a folder of pictures"
        )
    if unknown := [c for c in tested if c not in classes]:
        raise ValueError(
            f"{test} has the classes {shown(unknown)}, which {train} has not; "
            "expected those of 'train'"
        )
    place = {name: i for i, name in enumerate(classes)}
    splits, digest = [], hashlib.sha256()
    parts = (train, classes, train_limit), (test, tested, test_limit)
    for folder, held, limit in parts:
        names = [name for c in held for name in _pictures(folder, c)]
        digest.update("\n".join([*names, ""]).encode(errors="surrogateescape"))
        kept = [names[i] for i in shuffled_order(len(names), seed=0)[:limit]]
        labels = [place[name.partition(os.sep)[0]] for name in kept]
        images = Pictures(Files(str(folder), kept), "image", str(folder), image_size)
        splits.append(Split(images.column(), np.array(labels, np.int32)))
    named = {"classes": tuple(classes), "files": digest.hexdigest()}
    return Loaded(splits[0], splits[1], len(classes), **named)


def _root(name: str, data_dir: str | os.PathLike[str] | None) -> Path:
    """The folder that 'image_folder' or 'image_folder/SUBFOLDER' means."""
    if data_dir is None:
        raise ValueError(
            f"data_dir is None, but {name!r} is a folder of pictures; pass the folder "
            "that holds 'train' and 'val' (--data_dir=DIR)"
        )
    inner = Path(name.removeprefix(NAME).strip("/"))
    if ".." in inner.parts:
        raise ValueError(
            f"{name!r} leads out of data_dir, {data_dir}; pass another data_dir"
        )
    return Path(data_dir).expanduser() / inner


def _classes(folder: Path) -> list[str]:
    """The names of the folders in `folder`, but hidden ones; none if it is none."""
    if not folder.is_dir():
        return []
    names = (entry.name for entry in os.scandir(folder) if entry.is_dir())
    return sorted(name for name in names if not name.startswith("."))


def _pictures(folder: Path, name: str) -> list[str]:
    """The pictures of a class, relative to `folder`, sorted.

    Raises:
        ValueError: if there is none.
        OSError: if a folder cannot be read.
    """
    inner = folder / name
    found = sorted(os.path.relpath(path, folder) for path in _files(str(inner), ()))
    if not found:
        others = {Path(f).suffix for _, _, files in os.walk(inner) for f in files}
        raise ValueError(
            f"{inner} has no picture, but files that end with {shown(sorted(others))}; "
            f"expected {', '.join(SUFFIXES)}"
        )
    return found


def _files(folder: str, above: tuple[str, ...]) -> Iterator[str]:
    """The pictures in a folder and below; a link to a folder above is passed over."""
    here = os.path.realpath(folder)
    for entry in os.scandir(folder) if here not in above else ():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(entry.path, (*above, here))
        elif entry.name.lower().endswith(SUFFIXES):
            yield entry.path
