"""Index blocks: every row once, padding counted, orders that never change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbn.data import (
    Split,
    augment_crop_flip,
    epoch_indices,
    eval_indices,
    gather,
    num_batches,
    to_float,
)


@pytest.mark.parametrize(
    ("num", "batch", "all_of_them", "full"),
    [(10, 5, 2, 2), (11, 5, 3, 2), (4, 5, 1, 0), (0, 5, 0, 0), (1, 1, 1, 1)],
)
def test_num_batches(num, batch, all_of_them, full):
    assert num_batches(num, batch) == all_of_them
    assert num_batches(num, batch, drop_last=True) == full


@pytest.mark.parametrize("call", [num_batches, eval_indices])
def test_batch_size_below_one(call):
    with pytest.raises(ValueError, match="batch_size is 0; expected 1 or more"):
        call(10, 0)


def test_epoch_is_a_permutation():
    indices = epoch_indices(0, 1000, 10, 0)
    assert indices.shape == (100, 10) and indices.dtype == np.int32
    np.testing.assert_array_equal(np.sort(indices.ravel()), np.arange(1000))


def test_epoch_drops_the_incomplete_batch_and_each_epoch_another():
    epochs = [epoch_indices(0, 103, 10, epoch).ravel() for epoch in range(50)]
    assert all(len(set(e.tolist())) == 100 for e in epochs)
    dropped = [set(range(103)) - set(e.tolist()) for e in epochs]
    assert len(set.union(*dropped)) > 60
    assert len(set.union(*(set(e.tolist()) for e in epochs))) == 103


def test_epoch_order_is_a_pure_function_of_seed_and_epoch():
    def order(seed, epoch):
        return epoch_indices(seed, 500, 50, epoch)

    np.testing.assert_array_equal(order(3, 7), order(3, 7))
    for other in (order(3, 8), order(4, 7), order(7, 3)):
        assert (other != order(3, 7)).mean() > 0.97


def test_epoch_order_never_changes():
    """Written down once; the same under every NumPy and on every platform."""
    expected = [[5, 3, 7, 8, 2], [4, 1, 0, 6, 9]]
    assert epoch_indices(0, 10, 5, 1).tolist() == expected


def test_positions_are_uniform():
    """Chi-square of where row 0 lands over 2,000 epochs; 9 degrees of freedom."""
    where = [int(np.argmin(epoch_indices(0, 10, 10, e)[0])) for e in range(2000)]
    chi2 = ((np.bincount(where, minlength=10) - 200.0) ** 2 / 200).sum()
    assert chi2 < 28  # one in a thousand


def test_keys_are_seeds_too():
    typed, raw = jax.random.key(5), jax.random.PRNGKey(5)
    by_key = epoch_indices(typed, 100, 10, 0)
    np.testing.assert_array_equal(by_key, epoch_indices(raw, 100, 10, 0))
    assert (by_key != epoch_indices(jax.random.key(6), 100, 10, 0)).any()
    rbg = [jax.random.key(s, impl="rbg") for s in (1, 2)]
    assert (epoch_indices(rbg[0], 99, 9, 0) != epoch_indices(rbg[1], 99, 9, 0)).any()


def test_too_few_examples_for_a_batch():
    with pytest.raises(ValueError, match="5 examples do not fill one batch of 8; use"):
        epoch_indices(0, 5, 8, 0)


@pytest.mark.parametrize(
    ("seed", "epoch", "message"),
    [(-1, 0, "seed is -1; expected 0 <="), (0, -1, "epoch is -1; expected 0 or more")],
)
def test_negative_seed_or_epoch(seed, epoch, message):
    with pytest.raises(ValueError, match=message):
        epoch_indices(seed, 10, 5, epoch)


@pytest.mark.parametrize(("num", "batch"), [(10, 4), (8, 4), (3, 8), (1, 1), (0, 4)])
def test_eval_counts_every_row_once(num, batch):
    indices, mask = eval_indices(num, batch)
    assert indices.dtype == np.int32 and mask.dtype == np.bool_
    assert indices.shape == mask.shape == (-(-num // batch), batch)
    np.testing.assert_array_equal(indices[mask], np.arange(num))
    assert (indices[~mask] == 0).all() and (~mask).sum() == -num % batch


def test_gather_in_a_scanned_epoch_equals_numpy():
    rng = np.random.default_rng(0)
    split = Split(
        rng.integers(0, 256, (23, 2, 2, 1), dtype=np.uint8),
        np.arange(23, dtype=np.int32),
    )
    indices = epoch_indices(1, 23, 4, 0)

    @jax.jit
    def epoch(split, indices):
        def step(total, rows):
            batch = gather(split, rows)
            return total + batch.labels.sum(), batch

        return jax.lax.scan(step, jnp.int32(0), indices)

    total, batches = epoch(jax.device_put(split), indices)
    assert isinstance(batches, Split)
    np.testing.assert_array_equal(batches.inputs, split.inputs[indices])
    np.testing.assert_array_equal(batches.labels, split.labels[indices])
    assert batches.inputs.dtype == jnp.uint8
    assert total == split.labels[indices].sum()


def test_padded_rows_leave_sums_alone():
    split = Split(np.full((5, 1), np.nan, np.float32), np.arange(5, dtype=np.int32))
    indices, mask = eval_indices(5, 4)
    counted = sum(
        int(jnp.where(m, gather(split, rows).labels, 0).sum())
        for rows, m in zip(indices, mask, strict=True)
    )
    assert counted == 10


def test_to_float_standardizes_each_channel():
    images = np.random.default_rng(0).integers(0, 256, (64, 5, 5, 3), dtype=np.uint8)
    scaled = images / 255
    mean, std = scaled.mean((0, 1, 2)), scaled.std((0, 1, 2))
    got = jax.jit(to_float)(images, mean.astype(np.float32), std.astype(np.float32))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, (scaled - mean) / std, atol=1e-5)


def test_to_float_of_floats_dtype_and_constant_channel():
    x = np.array([[1.0, 7.0], [3.0, 7.0]], np.float32)
    got = to_float(x, [2.0, 7.0], [1.0, 0.0], jnp.bfloat16)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got.astype(jnp.float32), [[-1, 0], [1, 0]])


def test_to_float_refuses_other_integers():
    with pytest.raises(ValueError, match="inputs have dtype int32; expected uint8"):
        to_float(np.array([[1]]).astype(np.int32), [0.0], [1.0])


def test_augmented_images_are_shifted_and_mirrored_originals():
    height, width = 5, 6
    images = np.arange(1, 1 + 40 * height * width * 2, dtype=np.float32)
    images = images.reshape(40, height, width, 2)
    got = np.asarray(jax.jit(augment_crop_flip)(jax.random.key(0), images))
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    seen = set()
    for padded_image, image in zip(padded, got, strict=True):
        found = [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (1, -1)
            if np.array_equal(
                padded_image[top : top + height, left : left + width][:, ::flip], image
            )
        ]
        assert len(found) >= 1
        seen.add(found[0])
    assert len(seen) > 20
    assert {flip for _, _, flip in seen} == {1, -1}
    assert {0, 8} <= {top for top, _, _ in seen} | {left for _, left, _ in seen}


def test_augmentation_keeps_dtype_and_follows_the_key():
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3), dtype=np.uint8)
    one, same, other = (
        augment_crop_flip(jax.random.key(k), jnp.asarray(images)) for k in (0, 0, 1)
    )
    assert one.dtype == jnp.uint8 and one.shape == images.shape
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
