"""Streaming: order, read-ahead, errors from the thread, and a clean early end."""

import threading
import time

import jax
import numpy as np
import pytest

from jaxbn.data import (
    Column,
    DatasetUnavailable,
    Split,
    channel_statistics,
    epoch_indices,
    eval_indices,
    read_rows,
    stream,
)


class Records:
    """A data source of N records {'image': row number everywhere, 'label': N - row}."""

    def __init__(self, num, fails_at=None, delay=0.0, odd=None):
        self.num, self.fails_at, self.delay, self.odd = num, fails_at, delay, odd
        self.requests = []

    def __len__(self):
        return self.num

    def __getitems__(self, rows):
        self.requests.append(list(rows))
        time.sleep(self.delay)
        if self.fails_at in rows:
            raise RuntimeError("chunk header hash mismatch\nand more")
        return [
            {
                "image": np.full((2, 3 if r == self.odd else 2, 1), r % 256, np.uint8),
                "label": self.num - r,
            }
            for r in rows
        ]


def lazy(source):
    return Split(
        Column(source, "image", (2, 2, 1), np.uint8, "some/folder"),
        Column(source, "label", (), np.int32, "some/folder"),
    )


def stream_threads():
    return [t for t in threading.enumerate() if t.name.startswith("jaxbn-stream")]


@pytest.mark.parametrize("prefetch", [0, 1, 2, 7])
def test_batches_come_in_order_on_the_device(prefetch):
    indices = epoch_indices(0, 20, 4, 0)
    batches = list(stream(lazy(Records(20)), indices, prefetch=prefetch))
    assert all(isinstance(b.inputs, jax.Array) for b in batches)
    assert batches[0].inputs.dtype == np.uint8 and batches[0].labels.dtype == np.int32
    np.testing.assert_array_equal([b.labels for b in batches], 20 - indices)
    np.testing.assert_array_equal([b.inputs[:, 1, 1, 0] for b in batches], indices)
    assert not stream_threads()


def test_arrays_stream_like_columns():
    source = Records(10)
    in_memory = read_rows(lazy(source), np.arange(10))
    indices, _ = eval_indices(10, 4)
    for a, b in zip(
        stream(in_memory, indices), stream(lazy(source), indices), strict=True
    ):
        np.testing.assert_array_equal(a.inputs, b.inputs)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_a_batch_is_one_request_for_images_and_labels():
    source = Records(9)
    list(stream(lazy(source), [[1, 2], [8, 0]]))
    assert source.requests == [[1, 2], [8, 0]]


def test_only_prefetch_batches_are_read_ahead():
    source = Records(100)
    batches = stream(lazy(source), np.arange(100).reshape(50, 2), prefetch=3)
    next(batches)
    deadline = time.monotonic() + 10
    while len(source.requests) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)  # The thread reads on while the consumer is busy.
    time.sleep(0.05)
    assert len(source.requests) == 4
    batches.close()


def test_nothing_is_read_before_the_first_batch_is_asked_for():
    source = Records(4)
    stream(lazy(source), [[0, 1]])
    assert source.requests == [] and not stream_threads()


def test_an_error_arrives_with_its_batch_and_the_thread_ends():
    batches = stream(lazy(Records(8, fails_at=4)), np.arange(8).reshape(4, 2))
    assert next(batches).labels.tolist() == [8, 7]
    assert next(batches).labels.tolist() == [6, 5]
    message = (
        r"^some/folder cannot be read \(RuntimeError: chunk header hash mismatch\)"
    )
    with pytest.raises(DatasetUnavailable, match=message) as caught:
        next(batches)
    assert "\n" not in str(caught.value)
    assert not stream_threads()
    with pytest.raises(StopIteration):
        next(batches)


def test_an_error_in_the_indices_is_raised_too():
    def rows():
        yield [0, 1]
        raise KeyError("no more")

    with pytest.raises(KeyError, match="no more"):
        list(stream(lazy(Records(4)), rows()))
    assert not stream_threads()


@pytest.mark.parametrize("how", ["break", "close", "drop"])
def test_early_stop_joins_the_thread_and_cancels_the_rest(how):
    source = Records(1000, delay=0.01)
    batches = stream(lazy(source), np.arange(1000).reshape(500, 2), prefetch=4)
    for batch in batches:
        if batch.labels[0] < 1000 - 3:
            break
    if how == "close":
        batches.close()
    if how == "break":
        assert len(stream_threads()) == 1
    del batches
    assert not stream_threads()
    assert len(source.requests) < 9


def test_streams_side_by_side_do_not_mix():
    source = Records(40)
    forward = stream(lazy(source), np.arange(40).reshape(10, 4))
    backward = stream(lazy(source), np.arange(40)[::-1].reshape(10, 4))
    for a, b in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(a.labels + b.labels, np.full(4, 41))


def test_sharded_batches():
    devices = np.array(jax.devices())
    mesh = jax.sharding.Mesh(devices, ("batch",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    indices = np.arange(len(devices) * 2)[None]
    source = Records(len(devices) * 2)
    (batch,) = stream(
        lazy(source), indices, place=lambda rows: jax.device_put(rows, sharding)
    )
    assert batch.inputs.sharding == sharding
    np.testing.assert_array_equal(batch.inputs[:, 0, 0, 0], indices[0])


def test_negative_prefetch():
    with pytest.raises(ValueError, match="prefetch is -1; expected 0 or more"):
        stream(lazy(Records(4)), [[0]], prefetch=-1)


def test_a_column_indexes_like_an_array():
    column = lazy(Records(7)).inputs
    whole = column[:]
    assert (whole.shape, whole.dtype) == (column.shape, column.dtype)
    assert (len(column), column.ndim, column.nbytes) == (7, 4, whole.nbytes)
    for index in (3, -1, slice(1, 6, 2), [2, 2, 0], np.array([[0, 1], [6, 5]]), []):
        index = np.array(index, int) if isinstance(index, list) else index
        np.testing.assert_array_equal(column[index], whole[index])
    mask = np.arange(7) % 2 == 0
    np.testing.assert_array_equal(column[mask], whole[mask])
    with pytest.raises(IndexError):
        column[7]


def test_a_column_is_never_read_whole_by_accident():
    column = lazy(Records(7)).inputs
    message = "is read lazily; index it .* or load the set with a larger memory_limit"
    with pytest.raises(TypeError, match=message):
        np.asarray(column)
    assert repr(column) == "Column('image', shape=(7, 2, 2, 1), dtype=uint8)"


def test_unequal_images_name_both_sizes():
    message = (
        r"images in some/folder are of unequal size: \(2, 3, 1\) beside \(2, 2, 1\)"
    )
    with pytest.raises(ValueError, match=message):
        lazy(Records(5, odd=3)).inputs[:]


def test_rows_must_be_integers():
    with pytest.raises(ValueError, match="rows have dtype float64; expected integers"):
        read_rows(lazy(Records(5)), [0.5])


def test_lazy_statistics_come_from_evenly_spaced_rows():
    source = Records(30_000)
    mean, std = channel_statistics(lazy(source).inputs)
    assert sum(map(len, source.requests)) == 10_000
    values = np.arange(30_000).astype(np.uint8) / 255
    np.testing.assert_allclose(mean, [values.mean()], atol=0.01)
    np.testing.assert_allclose(std, [values.std()], atol=0.01)
