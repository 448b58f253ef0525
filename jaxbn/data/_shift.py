"""Shift: images as they would be under other conditions, at five strengths.

What a trained net meets later is seldom what it was trained on. Each kind of change is
a function of images on [0, 1] in NumPy, the same on every machine for one seed.
"""

from collections.abc import Callable

import numpy as np

from jaxbn._values import as_numpy, check_count, shown

STRENGTHS = 5
"""How strong a change can be: 1 to 5."""


def corrupt(images: np.ndarray, kind: str, strength: int, seed: int = 0) -> np.ndarray:
    """Returns the images changed in one way, float32 on [0, 1].

        noise         + N(0, 0.1 s)                     then cut to [0, 1], as are all
        blur          a Gaussian of 0.02 s sides, edges repeated
        contrast      0.5 + (x - 0.5) c                 c = 0.8, 0.6, 0.4, 0.25, 0.1
        brightness    + 0.1 s
        gain          c x                               c = 0.7, 0.5, 0.35, 0.2, 0.1
        rotation      by 12 s degrees, left or right by chance, edges repeated
        inversion     0.5 - (x - 0.5) s / 5

    for the strength s. Contrast and gain are affine: statistics of the changed images
    undo them. Inversion is affine too, but its sign is in no statistic.

    Args:
        images: [N, H, W, C] of floats on [0, 1], before they are standardized.
        kind: one of `CORRUPTIONS`.
        strength: from 1 to 5.
        seed: of the noise and of the directions of rotation.

    Raises:
        ValueError: if there is no such kind or strength, or `images` are not floats on
            [0, 1] of rank 4.

    Example:
        >>> images = np.array([0.0, 1.0]).reshape(1, 2, 1, 1)
        >>> corrupt(images, 'contrast', 4).ravel()
        array([0.375, 0.625], dtype=float32)

    References:
        The kinds are some of those of Hendrycks and Dietterich, Benchmarking neural
        network robustness to common corruptions and perturbations, 2019; the strengths
        are our own. https://arxiv.org/abs/1903.12261
    """
    if not isinstance(kind, str) or kind not in CORRUPTIONS:
        raise ValueError(
            f"kind is {shown(kind)}, expected one of {', '.join(CORRUPTIONS)}; pass one"
        )
    whole = isinstance(strength, int | np.integer)
    if not whole or not 1 <= strength <= STRENGTHS:
        raise ValueError(
            f"strength is {shown(strength)}, expected an int from 1 to {STRENGTHS}; 5 "
            "is the strongest"
        )
    check_count("seed", seed, most=2**64)
    images = as_numpy("images", images)
    if images.ndim != 4 or not np.issubdtype(images.dtype, np.floating):
        raise ValueError(
            f"images have shape {images.shape} and dtype {images.dtype}, expected "
            "floats [N, H, W, C]; divide bytes by 255"
        )
    if images.size and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"images lie on [{images.min():.3g}, {images.max():.3g}], expected [0, 1]; "
            "change them before they are standardized"
        )
    rng = np.random.Generator(np.random.Philox(seed))
    changed = CORRUPTIONS[kind](images.astype(np.float32), strength, rng)
    return np.clip(changed, 0, 1, dtype=np.float32)


def _noise(x: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    return x + 0.1 * strength * rng.standard_normal(x.shape, np.float32)


def _blur(x: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    down, across = (_blurring(side, 0.02 * strength * side) for side in x.shape[1:3])
    return np.einsum("ij,njkc,lk->nilc", down, x, across, optimize=True)


def _blurring(side: int, width: float) -> np.ndarray:
    """Returns [side, side]: the weights of all pixels of a line in each of them."""
    reach = 4 * int(np.ceil(width))
    apart = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (apart / width) ** 2)
    weights /= weights.sum()
    matrix = np.zeros((side, side))
    for pixel in range(side):
        np.add.at(matrix[pixel], np.clip(pixel + apart, 0, side - 1), weights)
    return matrix.astype(np.float32)


def _contrast(x: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    return 0.5 + (x - 0.5) * np.float32((0.8, 0.6, 0.4, 0.25, 0.1)[strength - 1])


def _brightness(x: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    return x + np.float32(0.1 * strength)


def _gain(x: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    return x * np.float32((0.7, 0.5, 0.35, 0.2, 0.1)[strength - 1])


def _rotation(x: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    """Reads each pixel where it is from, a mean of the four about that place."""
    n, height, width, _ = x.shape
    angle = np.deg2rad(12 * strength) * rng.choice([-1, 1], (n, 1, 1))
    row, column = np.indices((height, width))
    row, column = row - (height - 1) / 2, column - (width - 1) / 2
    from_row = np.cos(angle) * row - np.sin(angle) * column + (height - 1) / 2
    from_column = np.sin(angle) * row + np.cos(angle) * column + (width - 1) / 2
    from_row = np.clip(from_row, 0, height - 1)
    from_column = np.clip(from_column, 0, width - 1)
    up, left = (np.floor(at).astype(int) for at in (from_row, from_column))
    down, right = np.minimum(up + 1, height - 1), np.minimum(left + 1, width - 1)
    low = (from_row - up)[..., None].astype(np.float32)
    far = (from_column - left)[..., None].astype(np.float32)
    each = np.arange(n)[:, None, None]
    top = (1 - far) * x[each, up, left] + far * x[each, up, right]
    bottom = (1 - far) * x[each, down, left] + far * x[each, down, right]
    return (1 - low) * top + low * bottom


def _inversion(x: np.ndarray, strength: int, rng: np.random.Generator) -> np.ndarray:
    return 0.5 - (x - 0.5) * np.float32(strength / STRENGTHS)


CORRUPTIONS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "gain": _gain,
    "rotation": _rotation,
    "inversion": _inversion,
}
"""The kinds of change, by name."""
