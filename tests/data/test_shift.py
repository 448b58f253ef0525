"""Corruptions: what each does to pixels that are known, and what is refused."""

import numpy as np
import pytest

from jaxbn.data import CORRUPTIONS, corrupt


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((6, 9, 7, 2)).astype(np.float32)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_stronger_is_further_away(images, kind):
    changed = [corrupt(images, kind, strength) for strength in range(1, 6)]
    for found in changed:
        assert found.shape == images.shape and found.dtype == np.float32
        assert found.min() >= 0 and found.max() <= 1
    apart = [np.abs(found - images).mean() for found in changed]
    if kind == "rotation":  # Of random pixels any rotation is far away.
        smooth = np.broadcast_to(np.linspace(0, 1, 9).reshape(1, 9, 1, 1), (1, 9, 9, 1))
        each = [corrupt(smooth, kind, strength) for strength in range(1, 6)]
        apart = [np.abs(found - smooth).mean() for found in each]
    assert apart[0] > 0 and np.all(np.diff(apart) > 0)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_seed_decides_and_images_are_left_alone(images, kind):
    before = images.copy()
    first, again, other = (corrupt(images, kind, 3, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() == (kind in ("noise", "rotation"))
    np.testing.assert_array_equal(images, before)


def test_what_is_done_to_a_pixel():
    grey = np.full((1, 1, 1, 1), 0.25)
    done = {
        kind: float(corrupt(grey, kind, 4).squeeze())
        for kind in ("contrast", "brightness", "gain", "inversion", "blur", "rotation")
    }
    expected = {"contrast": 0.4375, "brightness": 0.65, "gain": 0.05}
    expected |= {"inversion": 0.7, "blur": 0.25, "rotation": 0.25}
    assert done == pytest.approx(expected, abs=1e-6)


def test_noise_has_its_deviation():
    grey = np.full((50, 10, 10, 1), 0.5)
    assert abs(corrupt(grey, "noise", 1).std() - 0.1) < 0.005


def test_blur_keeps_what_is_even_and_spreads_what_is_not():
    point = np.zeros((1, 25, 25, 1))
    point[0, 12, 12] = 1
    spread = corrupt(point, "blur", 3)[0, :, :, 0]
    np.testing.assert_allclose(spread.sum(), 1, rtol=1e-5)
    place = np.arange(25) - 12
    width = np.sqrt((spread.sum(1) * place**2).sum())
    np.testing.assert_allclose(width, 0.06 * 25, rtol=0.02)
    even = np.full((1, 5, 8, 1), 0.3)
    np.testing.assert_allclose(corrupt(even, "blur", 5), even, rtol=1e-5)


def test_rotation_turns_about_the_middle():
    bar = np.zeros((8, 21, 21, 1))
    bar[:, 10, :] = 1
    for strength in (1, 5):
        turned = corrupt(bar, "rotation", strength)[..., 0]
        np.testing.assert_allclose(turned[:, 10, 10], 1, atol=1e-6)
        row, column = np.indices((21, 21)) - 10
        second = np.einsum("nij,ij->n", turned, row * column)
        along = np.einsum("nij,ij->n", turned, column**2 - row**2)
        angle = np.rad2deg(0.5 * np.arctan2(2 * second, along))
        np.testing.assert_allclose(np.abs(angle), 12 * strength, atol=2.5)
        assert len(set(np.sign(angle))) == 2


def test_refusals(images):
    with pytest.raises(ValueError, match="kind is 'fog', expected one of noise, blur"):
        corrupt(images, "fog", 1)
    for strength in (0, 6, 1.5):
        with pytest.raises(ValueError, match=f"strength is {strength}, expected an"):
            corrupt(images, "noise", strength)
    with pytest.raises(ValueError, match="dtype uint8, expected floats"):
        corrupt((255 * images).astype(np.uint8), "noise", 1)
    with pytest.raises(ValueError, match=r"shape \(9, 7, 2\) and"):
        corrupt(images[0], "noise", 1)
    with pytest.raises(ValueError, match=r"lie on \[.*\], expected \[0, 1\]; change"):
        corrupt(images - 1, "noise", 1)
    assert corrupt(images[:0], "blur", 1).shape == (0, 9, 7, 2)
