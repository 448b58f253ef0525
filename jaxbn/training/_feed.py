"""Feeding: a split on the devices as a whole, or streamed to them batch by batch."""

import functools
import itertools
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxbn.data import Column, Split, stream
from jaxbn.training._parallel import (
    REPLICATED,
    ROWS,
    SPLIT,
    Parallel,
    own_rows,
    put,
    put_rows,
)


class Examples(NamedTuple):
    """A split as programs take it: on the device, or streamed if it is too large.

    Attributes:
        source: the split.
        placed: the same with a copy on each device; None if it is streamed.
        by_batch: whether programs get one batch at a time.
    """

    source: Split
    placed: Split | None
    by_batch: bool


def place(parallel: Parallel, source: Split, by_batch: bool = False) -> Examples:
    """Returns `source` on the devices, unless it is of those that stay on disk."""
    if isinstance(source.inputs, Column):
        return Examples(source, None, True)
    return Examples(source, put(parallel, source), by_batch)


def pieces(
    parallel: Parallel, examples: Examples, rows: np.ndarray, *others: np.ndarray
) -> Generator[tuple[Any, ...], None, None]:
    """Yields `(data, rows, *others)` for programs: all at once, or batch by batch.

    A streamed batch is read by the process that needs it, and needs no rows.
    """
    if examples.placed is not None:
        every = len(rows) if not examples.by_batch else 1
        for i in range(0, len(rows), every):
            parts = [part[i : i + every] for part in (rows, *others)]
            yield examples.placed, *put(parallel, parts, SPLIT)
        return
    to_devices = functools.partial(put_rows, parallel)
    batches = stream(examples.source, own_rows(parallel, rows), place=to_devices)
    for i, batch in enumerate(batches):
        rest = [other[i : i + 1] for other in others]
        yield batch, None, *put(parallel, rest, SPLIT)


class Feed:
    """The training batches of one epoch, taken in chunks; to be closed.

    Args:
        parallel: how.
        examples: of the training set.
        rows: [steps, B] of the whole epoch.
        first: the step that is taken first.
    """

    def __init__(
        self, parallel: Parallel, examples: Examples, rows: np.ndarray, first: int
    ):
        self.placed = examples.placed
        if self.placed is None:  # What is read ahead is not lost between chunks.
            self.ahead = pieces(parallel, examples, rows[first:])
        else:
            self.rows = put(parallel, rows, SPLIT)

    def take(self, first: int, last: int) -> Iterator[tuple[Any, ...]]:
        """Yields `(data, rows, start, stop)` for programs, of steps one after another.

        Args:
            first: the step where the last call ended.
            last: the one after the last that is taken.
        """
        if self.placed is not None:
            yield self.placed, self.rows, np.int32(first), np.int32(last)
            return
        for data, none in itertools.islice(self.ahead, last - first):
            yield data, none, np.int32(0), np.int32(1)

    def close(self) -> None:
        """Ends the thread that reads ahead, if there is one."""
        if self.placed is None:
            self.ahead.close()


def kinds_of_data(source: Split) -> tuple[str, str]:
    """Returns what data and rows of `source` are: all of it on the device, or a batch.

    A streamed batch needs no rows.
    """
    streamed = isinstance(source.inputs, Column)
    return (ROWS, REPLICATED) if streamed else (REPLICATED, SPLIT)
