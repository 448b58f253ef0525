"""Calls of the data sets, and of what training offers as functions."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxbn import data, training

from ._judge import Entry

IMAGES = np.linspace(0, 1, 24, dtype=np.float32).reshape(3, 2, 2, 2)
SPLIT = data.Split(np.arange(12.0).reshape(6, 2), np.arange(6))


class Source:
    """Records of one number each."""

    def __len__(self) -> int:
        return 6

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        return [{"label": row} for row in rows]


def images() -> data.Dataset:
    split = data.Split(np.zeros((3, 2, 2, 1), np.uint8), np.arange(3, dtype=np.int32))
    one = np.ones(1, np.float32)
    return data.Dataset("a", split, split, 3, one, one, "classification")


def listed(function: Callable[..., Any]) -> Callable[..., list]:
    return lambda *args, **options: list(function(*args, **options))


def entries() -> list[Entry]:
    """Returns an entry for each name of `jaxbn.data`, and of `jaxbn.training`."""
    key = jax.random.key(0)
    return [
        Entry("jaxbn.data.dataset_names", data.dataset_names, {}),
        Entry(
            "jaxbn.data.num_batches",
            data.num_batches,
            {"num_examples": 10, "batch_size": 4, "drop_last": False},
        ),
        Entry(
            "jaxbn.data.epoch_indices",
            data.epoch_indices,
            {"key_or_seed": 0, "num_examples": 10, "batch_size": 4, "epoch": 1},
            said={"key_or_seed": ("seed",), "num_examples": ("examples",)},
        ),
        Entry(
            "jaxbn.data.eval_indices",
            data.eval_indices,
            {"num_examples": 10, "batch_size": 4},
        ),
        Entry(
            "jaxbn.data.gather", data.gather, {"split": SPLIT, "indices": np.arange(3)}
        ),
        Entry(
            "jaxbn.data.to_float",
            data.to_float,
            {
                "inputs": IMAGES,
                "mean": np.zeros(2, np.float32),
                "std": np.ones(2, np.float32),
                "dtype": "float32",
            },
            said={"inputs": ("mean",)},
            traced=True,
        ),
        Entry(
            "jaxbn.data.augment_crop_flip",
            data.augment_crop_flip,
            {"key": key, "images": IMAGES, "padding": 1, "first": 0},
            traced=True,
        ),
        Entry(
            "jaxbn.data.join_domains",
            data.join_domains,
            {"datasets": [images(), images()]},
            said={"datasets": ("classes", "domains", "'a'")},
        ),
        Entry(
            "jaxbn.data.load",
            data.load,
            {
                "name": "digits",
                "data_dir": None,
                "train_limit": 3,
                "test_limit": 3,
                "seed": 0,
                "memory_limit": 2**20,
                "image_size": None,
            },
            said={"name": ("data set",)},
        ),
        Entry(
            "jaxbn.data.corrupt",
            data.corrupt,
            {"images": IMAGES, "kind": "noise", "strength": 2, "seed": 0},
        ),
        Entry(
            "jaxbn.data.channel_statistics",
            data.channel_statistics,
            {"inputs": IMAGES},
        ),
        Entry(
            "jaxbn.data.read_rows",
            data.read_rows,
            {"split": SPLIT, "rows": np.arange(3)},
        ),
        Entry(
            "jaxbn.data.random_crops",
            data.random_crops,
            {"split": SPLIT, "seed": 0, "epoch": 0},
        ),
        Entry(
            "jaxbn.data.stream",
            listed(data.stream),
            {
                "split": SPLIT,
                "indices": [[0, 1], [2, 3]],
                "prefetch": 1,
                "place": jax.device_put,
            },
            said={"indices": ("rows",)},
            functions=("place",),
        ),
        Entry(
            "jaxbn.data.Column",
            lambda **given: data.Column(**given)[:2],
            {
                "source": Source(),
                "key": "label",
                "row_shape": (),
                "dtype": "int32",
                "where": "a folder",
            },
            fixed=("where", "source", "key"),
            said={"row_shape": ("unequal size",)},
        ),
        Entry(
            "jaxbn.training.check_checkpoints",
            training.check_checkpoints,
            {"workdir": "a/folder/without/checkpoints"},
            fixed=("workdir",),
        ),
    ]
