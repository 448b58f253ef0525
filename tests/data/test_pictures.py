"""Pictures of unequal size: their boxes, their folders, and what cannot be read."""

import math
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from jaxbn import data
from jaxbn.data import _pictures
from tests.pictures import picture, write_folder, write_tfds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def loaded(folder):
    return data.load("image_folder", data_dir=folder, image_size=24)


@pytest.fixture(scope="module")
def tfds_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    write_tfds(root, "few", num_classes=3, train=4)
    return root


def centre_of(file, size=24):
    """What a picture becomes, to the next pixel."""
    image = Image.open(file)
    side = 7 / 8 * min(image.size)
    left, top = ((edge - side) / 2 for edge in image.size)
    box = [round(edge) for edge in (left, top, left + side, top + side)]
    small = image.crop(box).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(small, float)


def boxes(size, count=4000):
    return [_pictures.random_box(size, (3, 5), row) for row in range(count)]


def test_random_boxes_are_within_and_as_large_as_asked():
    size = width, height = 120, 120
    found = boxes(size)
    areas, ratios, flips = [], [], []
    for (left, top, right, bottom), flipped in found:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        areas.append((right - left) * (bottom - top) / (width * height))
        ratios.append((right - left) / (bottom - top))
        flips.append(flipped)
    # Sides are rounded to pixels: a few percent of the smallest.
    assert 0.07 < min(areas) < 0.1 and 0.9 < max(areas) <= 1
    assert 3 / 4 * 0.93 < min(ratios) < 0.8 and 1.25 < max(ratios) < 4 / 3 * 1.07
    assert np.mean(np.log(ratios)) == pytest.approx(0, abs=0.02)
    assert np.mean(flips) == pytest.approx(0.5, abs=0.03)
    small = np.array(areas)[np.array(areas) < 0.5]  # There nearly every one fits.
    assert np.mean(small < 0.29) == pytest.approx(0.5, abs=0.04)
    centres = np.array([(b[0] + b[2], b[1] + b[3]) for b, _ in found]) / 2
    np.testing.assert_allclose(centres.mean(0), [60, 60], atol=1.5)


def test_a_box_is_a_function_of_seed_epoch_and_row():
    size = 500, 375
    same = _pictures.random_box(size, (3, 5), 7)
    assert same == _pictures.random_box(size, (3, 5), 7)
    others = [((3, 5), 8), ((3, 6), 7), ((4, 5), 7)]
    assert all(_pictures.random_box(size, *other) != same for other in others)
    # The same on every machine, as the run that it decides is.
    assert _pictures.random_box(size, (0, 0), 0) == ((13, 14, 299, 271), False)


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (1, 1)])
def test_of_a_picture_that_no_crop_fits_the_centre_is_kept(size):
    box, _ = _pictures.random_box(size, (0, 0), 1)
    wide, high = box[2] - box[0], box[3] - box[1]
    assert 3 / 4 * 0.9 < wide / high < 4 / 3 * 1.1
    assert max(wide / size[0], high / size[1]) == 1  # As large as can be.
    slack = abs((box[0] + box[2]) - size[0]), abs((box[1] + box[3]) - size[1])
    assert max(slack) <= 1


def test_whole_pictures_are_resized_and_cropped_in_the_centre(loaded, folder):
    """By one resampling, which is resizing to 8/7 and cropping but for its rounding."""
    files = loaded.test.inputs  # In memory, the order is a fixed mixed one.
    assert isinstance(files, np.ndarray) and files.dtype == np.uint8
    image = picture(1, 3, largest=400)
    box = _pictures.centre_box(image.size)
    mine = image.resize((224, 224), Image.Resampling.BILINEAR, box=box)
    scale = 256 / min(image.size)
    resized = image.resize(
        [round(side * scale) for side in image.size], Image.Resampling.BILINEAR
    )
    left, top = ((side - 224) // 2 for side in resized.size)
    theirs = resized.crop((left, top, left + 224, top + 224))
    difference = np.asarray(mine, float) - np.asarray(theirs, float)
    assert np.abs(difference).mean() < 1


def test_a_folder_is_a_set(loaded, folder):
    assert loaded.train.inputs.shape == (18, 24, 24, 3)
    assert loaded.num_classes == 3 and loaded.test.inputs.shape == (6, 24, 24, 3)
    assert sorted(loaded.train.labels) == sorted([0, 1, 2] * 6)
    assert loaded.train.labels[:6].tolist() != [0] * 6  # Mixed.
    for image, label in zip(loaded.test.inputs, loaded.test.labels, strict=True):
        files = (folder / "val" / f"class{label:02d}").iterdir()
        away = [np.abs(image - centre_of(file)).mean() for file in files]
        assert min(away) < 4 < 20 < max(away)
    few = data.load(
        "image_folder", data_dir=folder, image_size=24, train_limit=5, test_limit=2
    )
    assert few.train.labels.tolist() == loaded.train.labels[:5].tolist()
    np.testing.assert_array_equal(few.test.inputs, loaded.test.inputs[:2])
    whole = data.channel_statistics(loaded.train.inputs[np.arange(18)])
    np.testing.assert_array_equal((loaded.mean, loaded.std), whole)


def test_crops_are_of_the_epoch_and_the_row_wherever_they_are_read(loaded):
    epoch = data.random_crops(loaded.train, seed=1, epoch=2)
    every = data.read_rows(epoch, np.arange(18))
    np.testing.assert_array_equal(every.labels, loaded.train.labels)
    rows = np.array([7, 0, 7])
    np.testing.assert_array_equal(epoch.inputs[rows], every.inputs[rows])
    batches = list(data.stream(epoch, [[5, 3], [17, 2]]))
    assert isinstance(batches[0].inputs, jax.Array)
    np.testing.assert_array_equal(batches[1].inputs, every.inputs[[17, 2]])
    later = data.random_crops(loaded.train, seed=1, epoch=3)
    assert np.any(later.inputs[rows] != every.inputs[rows], axis=(1, 2, 3)).all()
    # And what was cropped can be cropped for another epoch.
    again = data.random_crops(later, seed=1, epoch=2)
    np.testing.assert_array_equal(again.inputs[rows], every.inputs[rows])


def test_pictures_of_tfds_of_any_size(tfds_root, monkeypatch):
    with pytest.raises(ValueError, match=r"unequal size.*pass image_size"):
        data.load("few", data_dir=tfds_root)
    few = data.load("few", data_dir=tfds_root, image_size=16)
    assert few.train.inputs.shape == (12, 16, 16, 3) and few.num_classes == 3
    assert isinstance(few.train.labels, data.Column)
    requests = []
    source = few.train.inputs.source.records

    class Counted:
        def __len__(self):
            return len(source)

        def __getitems__(self, rows):
            requests.append(list(rows))
            return source.__getitems__(rows)

    counted = _pictures.Pictures(Counted(), "image", "here", 16).column()
    labels = data.Column(counted.source.records, "label", (), np.int32)
    crops = data.random_crops(data.Split(counted, labels), seed=0, epoch=0)
    batch = data.read_rows(crops, [3, 1])
    assert requests == [[3, 1]]  # One request for pictures and labels.
    assert batch.labels.tolist() == few.train.labels[np.array([3, 1])].tolist()
    monkeypatch.setattr(_pictures, "decode", None)  # Labels need none.
    assert few.train.labels[:].shape == (12,)


def test_sets_of_pictures_are_domains(folder, tmp_path):
    for name in ("a", "b"):
        write_folder(tmp_path / name, train=2, test=1)
    name = "image_folder/a+image_folder/b"
    both = data.load(name, data_dir=tmp_path, image_size=8)
    for split in ("train", "val"):
        (tmp_path / "b" / split / "class02").rename(tmp_path / "b" / split / "dog")
    with pytest.raises(ValueError, match="the names of the classes are"):
        data.load(name, data_dir=tmp_path, image_size=8)
    assert both.num_domains == 2 and both.train.inputs.shape == (12, 8, 8, 3)
    assert sorted(both.train.labels) == sorted([0, 1, 2, 3, 4, 5] * 2)


def test_images_of_one_size_need_none(tmp_path):
    write_folder(tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        Image.open(path).resize((9, 7)).save(path)
    found = data.load("image_folder", data_dir=tmp_path)
    assert found.train.inputs.shape == (18, 7, 9, 3)
    assert isinstance(found.train.inputs, np.ndarray)
    assert data.random_crops(found.train, seed=0, epoch=0) is found.train


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "LA"])
def test_pictures_of_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture(0, 0).convert(mode).save(path)
    found = _pictures.decode(str(path), "RGB", "")
    assert found.mode == "RGB" and found.size == picture(0, 0).size


def break_it(folder, what):
    """Makes a folder one that cannot be loaded."""
    one = folder / "train" / "class00" / "0.jpg"
    if what == "no train":
        (folder / "train").rename(folder / "training")
    elif what == "no test":
        (folder / "val").rename(folder / "training")
    elif what == "new class":
        (folder / "val" / "other").mkdir()
    elif what == "nothing":
        for path in folder.rglob("*.jpg"):
            path.rename(path.with_suffix(".txt"))
    elif what == "empty class":
        (folder / "train" / "class02").mkdir()
    elif what == "nowhere":
        folder.rename(folder.with_name("elsewhere"))
    elif what == "another format":
        one.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n")
    elif what == "no picture":
        one.write_text("none")
    elif what == "half a picture":
        one.write_bytes(one.read_bytes()[:200])
    elif what == "16 bits":
        deep = np.full((5, 5), 40000, np.uint16)
        Image.fromarray(deep).save(one.with_suffix(".png"))
        one.unlink()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no train", r"has the folders \['training', 'val'\]; expected a folder with"),
        ("no test", r"has the folders \['train', 'training'\]; expected a folder with"),
        ("new class", r"has the classes \['other'\], which .*train has not"),
        ("nothing", r"class00 has no picture, but files that end with \['.txt'\]"),
        ("empty class", r"class02 has no picture, but files that end with \[\]"),
        ("nowhere", r"set is not there; expected a folder with 'train'"),
        ("no picture", r"class00/0.jpg is no picture, or damaged \(Unidentified"),
        ("another format", r"class00/0.jpg is no picture, or damaged \(Unidentified"),
        ("half a picture", r"class00/0.jpg is no picture, or damaged \(OSError"),
        ("16 bits", r"class00/0.png has more than 8 bits a channel \(mode I;16\)"),
    ],
)
def test_refuses_in_words(tmp_path, what, words):
    folder = write_folder(tmp_path / "set", num_classes=2, train=2, test=1)
    break_it(folder, what)
    with pytest.raises(ValueError, match=words):
        data.load("image_folder", data_dir=folder, image_size=8)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("image_folder", {}, "data_dir is None.*pass the folder that holds 'train'"),
        ("image_folder/../a", {"data_dir": "b"}, r"/a' leads out of data_dir, b"),
        ("digits", {"image_size": 8}, "image_size is 8, but 'digits' has a size"),
        ("digits", {"image_size": 0}, "image_size is 0; expected 1 or more, or None"),
        ("digits", {"image_size": "8"}, "image_size is '8'; expected an int"),
    ],
)
def test_refuses_arguments(name, options, words):
    with pytest.raises(ValueError, match=words):
        data.load(name, **options)


def test_hidden_names_are_passed_over_and_links_followed(tmp_path):
    folder = write_folder(tmp_path / "set", num_classes=2, train=2, test=1)
    expected = data.load("image_folder", data_dir=folder, image_size=8)
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "train" / "class00" / "._0.jpg").write_text("resource fork")
    more = write_folder(tmp_path / "more", num_classes=1, train=1, test=1) / "train"
    found = data.load("image_folder", data_dir=folder, image_size=8)
    assert found.classes == ("class00", "class01") and found.files == expected.files
    inner = folder / "train" / "class01"
    (inner / "linked").symlink_to(more, target_is_directory=True)
    (inner / "loop").symlink_to(inner, target_is_directory=True)
    (folder / "test").mkdir()  # Flat, as unlabelled ones are: val is taken.
    picture(0, 0).save(folder / "test" / "0.jpg")
    found = data.load("image_folder", data_dir=folder, image_size=8)
    assert sorted(found.train.labels) == [0, 0, 1, 1, 1]
    assert len(found.test.labels) == 2 and found.files != expected.files


def test_a_file_that_is_gone_is_named(tmp_path):
    folder = write_folder(tmp_path, num_classes=1, train=2, test=1)
    found = data.load("image_folder", data_dir=folder, image_size=8)
    (folder / "train" / "class00" / "1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"class00/1\.jpg"):
        found.train.inputs[:]


def test_palettes_with_transparency_warn_of_nothing(tmp_path):
    path = tmp_path / "a.png"
    flat = picture(0, 0).convert("P")
    flat.save(path, transparency=bytes(range(256)))
    assert _pictures.decode(str(path), "RGB", "").mode == "RGB"


def test_a_damaged_picture_of_tfds_is_named_by_its_row():
    class Broken:
        def __len__(self):
            return 3

        def __getitems__(self, rows):
            return [{"image": b"", "label": 0} for _ in rows]

    column = _pictures.Pictures(Broken(), "image", "some/folder", 8).column()
    words = r"^picture 2 in some/folder is no picture, or damaged .* prepare the set"
    with pytest.raises(data.DatasetUnavailable, match=words):
        column[2]


FORK = """
import os, sys, signal, warnings
import numpy as np
from jaxbn import data
warnings.simplefilter("ignore")
loaded = data.load("image_folder", data_dir=sys.argv[1], image_size=8)
expected = loaded.train.inputs[:2]
child = os.fork()
if not child:
    os._exit(0 if np.array_equal(loaded.train.inputs[:2], expected) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_decodes_with_threads_of_its_own(folder):
    command = [sys.executable, "-c", FORK, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "0", done.stderr


def test_ratio_of_a_crop_is_log_uniform():
    ratios = [(b[2] - b[0]) / (b[3] - b[1]) for b, _ in boxes((4000, 4000), 2000)]
    logs = np.array([math.log(r) for r in ratios]) / math.log(4 / 3)
    quartiles = np.quantile(logs, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, [-0.5, 0, 0.5], atol=0.08)
