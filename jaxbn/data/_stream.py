"""Batches of a set too large for the device, gathered ahead by a thread."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from numpy.typing import ArrayLike

from jaxbn._values import check_count, shown
from jaxbn.data._split import Split, read_rows


def stream(
    split: Split,
    indices: Iterable[ArrayLike],
    *,
    prefetch: int = 2,
    place: Callable[[Split], Split] = jax.device_put,
) -> Iterator[Split]:
    """Device batches of `split`, one for each row of `indices`, in order.

    One thread reads the rows on the host and sends them to the device, up to
    `prefetch` batches ahead of the consumer. What fails there is raised here, at the
    batch it concerns. When the consumer stops early (leaves the loop, calls
    `close()`), what has not begun is cancelled and the thread is joined.

    Args:
        split: arrays, or the lazy columns of a set beyond `memory_limit`.
        indices: [steps, batch_size], as from `epoch_indices` or `eval_indices`.
        prefetch: batches in the making beside the one in use; 0 reads when asked.
        place: puts a batch of NumPy arrays where it is used; on the default device if
            not given.

    Raises:
        ValueError: if `prefetch` is negative.

    Example:
        >>> import numpy as np
        >>> split = Split(np.arange(4.0), np.arange(4))
        >>> [batch.labels.tolist() for batch in stream(split, [[3, 1], [0, 2]])]
        [[3, 1], [0, 2]]
    """
    check_count("prefetch", prefetch)
    if not callable(place):
        raise ValueError(f"place is {shown(place)}; expected a function of a Split")
    listed = isinstance(indices, Iterable) and getattr(indices, "shape", (0,)) != ()
    if isinstance(indices, str) or not listed:
        raise ValueError(f"indices is {shown(indices)}; expected [steps, batch_size]")

    def fetch(rows: ArrayLike) -> Split:
        return place(read_rows(split, rows))

    return _run_ahead(fetch, indices, prefetch)


def _run_ahead(fetch: Any, jobs: Iterable[Any], ahead: int) -> Iterator[Split]:
    """`fetch(job)` of each job in order, `ahead` of them submitted beforehand."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="jaxbn-stream")
    pending: deque[Future[Split]] = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(fetch, job))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
