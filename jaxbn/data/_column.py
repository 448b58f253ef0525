"""One feature of a prepared data source, indexed like an array, read when asked.

A `Column` stands where an array would stand in a `Split` whose set is too large for
the memory: `column[rows]` reads, decodes and stacks those rows and nothing else.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from jaxbn._values import as_number_dtype, as_numpy, check_count, shown


class DatasetUnavailable(ValueError):
    """A data set that is not there, or is there and cannot be read; says what to do."""


def first_line(error: BaseException) -> str:
    """The type of an error and the first line of its message, at most 200 characters.

    Example:
        >>> first_line(KeyError('image'))
        "KeyError: 'image'"
    """
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    return f"{name}: {lines[0][:200]}" if lines else name


def damaged(where: object, error: Exception) -> DatasetUnavailable:
    """The error for a folder whose files cannot be read.

    A missing module or attribute is no damage: the packages do not fit together, as
    TFDS 4.9.9 and protobuf 7 do not.
    """
    fix = "delete that folder and prepare the set again, or copy it anew"
    if isinstance(error, ImportError | AttributeError):
        fix = "the installed packages do not fit: upgrade tensorflow-datasets"
    return DatasetUnavailable(f"{where} cannot be read ({first_line(error)}); {fix}")


def read_records(source: Any, rows: Sequence[int], where: str) -> list[dict[str, Any]]:
    """The decoded records of `source` at `rows`, in that order, in one request.

    Raises:
        DatasetUnavailable: if the files under `where` are damaged or gone.
    """
    try:
        return list(source.__getitems__(list(rows)))
    except Exception as error:
        if isinstance(error, DatasetUnavailable) or getattr(error, "filename", None):
            raise  # It says what it is, or which file.
        raise damaged(where, error) from error


class Column:
    """One feature of every record of a data source, as a read-only lazy array.

    Indexing takes what a NumPy array takes along its first axis: an integer, a slice,
    an integer array, a boolean mask.

    Attributes:
        source: has `__len__` and `__getitems__(rows)`, as a TFDS data source has.
        key: the feature's name in a record.
        shape: [N, ...], of all rows together.
        dtype: what `column[rows]` has.
        where: the folder, for messages.
    """

    def __init__(
        self,
        source: Any,
        key: str,
        row_shape: tuple[int, ...],
        dtype: DTypeLike,
        where: str = "the data source",
    ) -> None:
        """Describes the column; reads nothing."""
        self.source = source
        self.key = key
        if not isinstance(row_shape, tuple):
            raise ValueError(f"row_shape is {shown(row_shape)}; expected a tuple")
        for size in row_shape:
            check_count("row_shape", size)
        self.shape = (len(source), *row_shape)
        self.dtype = as_number_dtype("dtype", dtype)
        self.where = where

    def __len__(self) -> int:
        """N, the number of rows."""
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """The number of axes, the first of them the rows."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """What the whole column would take in memory."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def rows(self, index: Any) -> np.ndarray:
        """The row numbers that `index` means, as NumPy understands it."""
        return np.arange(len(self))[index]

    def stack(self, records: Sequence[dict[str, Any]]) -> np.ndarray:
        """This feature of `records`, stacked: [len(records), ...].

        Raises:
            ValueError: if a record has another shape than the first one of the set.
        """
        values = [np.asarray(record[self.key]) for record in records]
        odd = {value.shape for value in values} - {self.shape[1:]}
        if odd:
            raise ValueError(
                f"the {self.key}s in {self.where} are of unequal size: "
                f"{min(odd)} beside {self.shape[1:]}; "
                "only images of one size can be batched: pass image_size "
                "(--image_size=224)"
            )
        out = np.empty((len(values), *self.shape[1:]), self.dtype)
        return np.stack(values, out=out, casting="same_kind") if values else out

    def __getitem__(self, index: Any) -> np.ndarray:
        """The rows at `index`, read now."""
        rows = self.rows(index)
        read = self.stack(read_records(self.source, rows.ravel().tolist(), self.where))
        return read.reshape(rows.shape + self.shape[1:])

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> np.ndarray:
        """Refuses: a lazy column becomes an array only row by row."""
        raise TypeError(
            f"column {self.key!r} of shape {self.shape} is read lazily; "
            "index it (column[rows]) or load the set with a larger memory_limit"
        )

    def __repr__(self) -> str:
        """Shape and dtype."""
        return f"Column({self.key!r}, shape={self.shape}, dtype={self.dtype})"


Rows = np.ndarray | Column
"""A whole column in memory, or one read when asked."""


def as_rows(index: ArrayLike) -> np.ndarray:
    """`index` as an array of row numbers; refuses anything but integers."""
    rows = as_numpy("rows", index)
    if not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"rows have dtype {rows.dtype}; expected integers")
    return rows
