"""Pictures of any size, read as images of one size: whole, or cropped at random.

What is drawn for a picture is a pure function of the seed, the epoch and its row, by
NumPy's Philox (see `_order`): a resumed run meets the crops it would have met, and so
does one with another number of processes.
"""

import dataclasses
import functools
import io
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxbn._values import check_count, shown
from jaxbn.data._column import Column, DatasetUnavailable, first_line
from jaxbn.data._order import Seed, seed_word
from jaxbn.data._split import Split

CENTRE = 7 / 8
"""Of the shorter side, so much is kept where nothing is drawn: 224 of 256 pixels."""
AREA, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
"""Of a random crop: its area as a share of the picture's, width over height, and how
often a crop that does not fit is drawn again."""

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
"""What is read; some of Pillow's other formats start programs."""

Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A data source whose encoded pictures are images when they are read.

    EXIF orientation is ignored, as are transparency and all frames but the first.

    Attributes:
        records: has `__len__` and `__getitems__(rows)`, as a TFDS data source has; a
            picture in a record is the bytes of an image file, or its path.
        key: the picture's name in a record.
        where: the folder, for messages.
        size: pixels of each side; None leaves each as large as it is.
        mode: 'RGB' or 'L' (one channel).
        draws: words that seed the random crops; None for whole pictures.
    """

    records: Any
    key: str
    where: str
    size: int | None = None
    mode: str = "RGB"
    draws: tuple[int, int] | None = None

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.records)

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The records at `rows`, their pictures decoded by several threads."""
        records = self.records.__getitems__(rows)
        files = (record[self.key] for record in records)
        images = _workers().map(self._read, rows, files)
        found = zip(records, images, strict=True)
        return [{**record, self.key: image} for record, image in found]

    def column(self) -> Column:
        """The images as a lazy column, uint8 [N, H, W, C]."""
        if self.size is None:  # The first one says what size an image has.
            first = self.records.__getitems__([0])[0][self.key]
            shape = self._read(0, first).shape
        else:
            shape = (self.size, self.size, len(self.mode))
        return Column(self, self.key, shape, np.uint8, self.where)

    def _read(self, row: int, file: bytes | str) -> np.ndarray:
        image = decode(file, self.mode, f"picture {row} in {self.where}")
        flipped = False
        if self.size is not None:
            if self.draws is None:
                box = centre_box(image.size)
            else:
                box, flipped = random_box(image.size, self.draws, row)
            from PIL import Image

            how = Image.Resampling.BILINEAR
            image = image.resize((self.size, self.size), how, box=box)
        array = np.asarray(image)
        array = array[:, ::-1] if flipped else array
        return array.reshape(*array.shape[:2], len(self.mode))


def random_crops(split: Split, seed: Seed, epoch: int) -> Split:
    """The same split, its pictures cropped and mirrored at random when they are read.

    Of pictures that `load` brings to one `image_size`: 8 to 100 % of the area, with a
    ratio of width to height from 3/4 to 4/3, uniform in area and in the logarithm of
    the ratio; ten such crops are tried, else it is the largest in the centre. It is
    resized by bilinear interpolation, antialiased, and mirrored by a toss of a coin: as
    torchvision's RandomResizedCrop and RandomHorizontalFlip do. Any other split is
    returned as it is; `augment_crop_flip` is for those.

    Args:
        split: whose `inputs` may be pictures.
        seed: an integer below 2**64, or a JAX key.
        epoch: 0, 1, ...; each has crops of its own.

    References:
        Szegedy et al., 2014. https://arxiv.org/abs/1409.4842, section 6

    Example:
        >>> split = Split(np.zeros((2, 4, 4, 3), np.uint8), np.arange(2))
        >>> random_crops(split, seed=0, epoch=3) is split  # No pictures: arrays.
        True
    """
    check_count("epoch", epoch, most=2**63)
    draws = seed_word(seed), epoch
    if not isinstance(split, Split):
        raise ValueError(f"split is {shown(split)}; expected a Split")
    if not holds_pictures(split):
        return split
    old: Any = split.inputs
    cropped = dataclasses.replace(old.source, draws=draws)
    return split._replace(inputs=cropped.column())


def holds_pictures(split: Split) -> bool:
    """Whether `random_crops` does something: images are decoded when they are read."""
    source = getattr(split.inputs, "source", None)
    return isinstance(source, Pictures) and source.size is not None


def decode(file: bytes | str, mode: str, where: str) -> Any:
    """A picture as a PIL image of 8 bits a channel.

    Args:
        file: the bytes of an image file, or its path.
        mode: 'RGB' or 'L'.
        where: what bytes are called in messages.

    Raises:
        DatasetUnavailable: if it is none, or damaged, or has one channel of more than 8
            bits, which PIL would clip; of three channels it keeps the upper 8.
        OSError: if the file cannot be read.
    """
    from PIL import Image

    if isinstance(file, str):
        where, fix = file, "replace or remove it"
    else:
        fix = "prepare the set again"
    try:
        opened = io.BytesIO(file) if isinstance(file, bytes) else file
        with Image.open(opened, formats=FORMATS) as image:
            image.load()
            image.info.pop("transparency", None)  # Pillow would warn of it.
            deep = image.mode.startswith(("I", "F"))
            image = image.mode if deep else image.convert(mode)
    except MemoryError:
        raise
    except Exception as error:  # PIL has no common class for what cannot be decoded.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        what = f"{where} is no picture, or damaged ({first_line(error)})"
        raise DatasetUnavailable(f"{what}; {fix}") from error
    if isinstance(image, str):
        raise DatasetUnavailable(
            f"{where} has more than 8 bits a channel (mode {image}); {fix}"
        )
    return image


def centre_box(size: tuple[int, int]) -> Box:
    """The centre square of a picture, 7/8 of its shorter side wide."""
    width, height = size
    side = CENTRE * min(size)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(
    size: tuple[int, int], draws: tuple[int, int], row: int
) -> tuple[Box, bool]:
    """What is kept of the picture in a row, and whether it is mirrored."""
    # A quarter of the counter is the row, so that rows share no word, and the third
    # is not 0, where orders are drawn from.
    counter = np.array([0, row, 1, 0], np.uint64)
    words = np.random.Philox(key=np.array(draws, np.uint64), counter=counter)
    drawn = iter((words.random_raw(2 * TRIES + 3) >> np.uint64(11)) * 2.0**-53)
    mirrored = bool(next(drawn) < 0.5)
    x, y = next(drawn), next(drawn)
    (width, height), (lowest, highest) = size, map(math.log, RATIO)
    for area, ratio in zip(drawn, drawn, strict=True):
        kept = width * height * (AREA[0] + (AREA[1] - AREA[0]) * area)
        ratio = math.exp(lowest + (highest - lowest) * ratio)
        w, h = round(math.sqrt(kept * ratio)), round(math.sqrt(kept / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return (left, top, left + w, top + h), mirrored
    w = max(min(width, round(height * RATIO[1])), 1)
    h = max(min(height, round(width / RATIO[0])), 1)
    left, top = (width - w) // 2, (height - h) // 2
    return (left, top, left + w, top + h), mirrored


@functools.cache
def _workers() -> ThreadPoolExecutor:
    """Threads that decode, one for each core we may use; PIL holds no lock meanwhile.

    A process that is forked has none of them, and makes its own.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_workers.cache_clear)
    mine = getattr(os, "sched_getaffinity", None)
    count = len(mine(0)) if mine else os.cpu_count()
    return ThreadPoolExecutor(count, thread_name_prefix="jaxbn-decode")
