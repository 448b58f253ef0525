"""Sets of pictures of unequal size, small and made up, as files and as a TFDS set."""

import io
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def picture(label, which, largest=90):
    """A picture that a network can tell by its label: 4 x 4 colours and noise."""
    rng = np.random.default_rng([label, which])
    colours = np.random.default_rng(label).integers(0, 256, (4, 4, 3))
    noisy = np.clip(colours + rng.normal(0, 20, (4, 4, 3)), 0, 255).astype(np.uint8)
    size = rng.integers(largest // 3, largest, 2).tolist()
    return Image.fromarray(noisy).resize(size, Image.Resampling.BICUBIC)


def write_folder(root, num_classes=3, train=6, test=2, test_name="val"):
    """Writes root/train/CLASS/*.jpg and root/TEST_NAME/CLASS/*.jpg."""
    for split, first, count in (("train", 0, train), (test_name, train, test)):
        for label in range(num_classes):
            folder = root / split / f"class{label:02d}"
            folder.mkdir(parents=True)
            for which in range(first, first + count):
                picture(label, which).save(folder / f"{which}.jpg", quality=95)
    return root


def make_set(data_dir, name, records, features, keys=None):
    """Writes a TFDS set; `records` is {split: list of examples}."""

    class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=keys,
            )

        def _split_generators(self, _):
            return {split: enumerate(examples) for split, examples in records.items()}

        def _generate_examples(self):
            raise NotImplementedError

    Made.name = name
    builder = Made(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_path)


def write_tfds(data_dir, name, num_classes=20, train=8, test=2):
    """Writes a TFDS set of JPEG pictures with the splits of ImageNet; its folder."""

    def jpeg(label, which):
        file = io.BytesIO()
        picture(label, which).save(file, "jpeg", quality=95)
        return {"image": io.BytesIO(file.getvalue()), "label": label}

    counts = {"train": range(train), "validation": range(train, train + test)}
    records = {
        split: [jpeg(label, which) for which in kept for label in range(num_classes)]
        for split, kept in counts.items()
    }
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(num_classes=num_classes),
    }
    return make_set(data_dir, name, records, features, ("image", "label"))
