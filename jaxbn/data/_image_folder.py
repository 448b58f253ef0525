"""Folders of pictures: data_dir/train/CLASS/*.jpg and data_dir/val/CLASS/*.jpg."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxbn._values import shown
from jaxbn.data._order import shuffled_order
from jaxbn.data._pictures import Pictures
from jaxbn.data._split import Split

NAME = "image_folder"
TEST_SPLITS = ("test", "val", "validation")
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
)


@dataclasses.dataclass(frozen=True)
class Files:
    """A data source of records {'image': path}."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.paths)

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The records at `rows`; no file is opened."""
        return [{"image": self.paths[row]} for row in rows]


def is_image_folder(name: str) -> bool:
    """Whether a data set's name is 'image_folder' or 'image_folder/SUBFOLDER'."""
    return name == NAME or name.startswith(f"{NAME}/")


def load_image_folder(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    train_limit: int | None,
    test_limit: int | None,
    image_size: int | None,
) -> tuple[Split, Split, int]:
    """Training split, test split and number of classes of a folder of pictures.

    The classes are the subfolders of 'train' in alphabetical order, as torchvision and
    Keras have them; files may lie deeper. One fixed permutation orders the examples,
    so that batches in order are of all classes.

    Raises:
        ValueError: if there is no such folder, or no picture in it, or a class that
            only the test split has.
    """
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
    root = Path(data_dir).expanduser() / inner
    test = next((root / s for s in TEST_SPLITS if (root / s).is_dir()), None)
    if test is None or not (root / "train").is_dir():
        raise ValueError(
            f"{root} has the folders {_names(root)}; expected 'train', and one of "
            f"{', '.join(TEST_SPLITS)}, with a folder of pictures for each class"
        )
    classes = _names(root / "train")
    if unknown := [c for c in _names(test) if c not in classes]:
        raise ValueError(
            f"{test} has the classes {unknown}, which {root / 'train'} has not; "
            "expected those of 'train'"
        )
    limits = ((root / "train", train_limit), (test, test_limit))
    splits = [_split(folder, classes, limit, image_size) for folder, limit in limits]
    return splits[0], splits[1], len(classes)


def _split(
    folder: Path, classes: list[str], limit: int | None, image_size: int | None
) -> Split:
    found = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    if not found:
        raise ValueError(
            f"{folder} has no pictures in its folders {shown(classes)}; expected files "
            f"that end with {', '.join(sorted(SUFFIXES))}"
        )
    order = shuffled_order(len(found), seed=0)[:limit]
    paths = [found[i][0] for i in order]
    labels = np.array([found[i][1] for i in order], np.int32)
    return Split(
        Pictures(Files(paths), "image", image_size).column(str(folder)), labels
    )


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(sub.name for sub in folder.iterdir() if sub.is_dir())
