"""What torchvision's and timm's residual nets return, for `test_load_torch.py`.

    python -m tests.models.torch_logits

writes torch_logits.json beside this file, with torch, torchvision and timm installed.
Weights and statistics are drawn with NumPy, by name: nobody has to download any.
"""

import json
import zlib
from pathlib import Path

import numpy as np

RECORD = Path(__file__).with_suffix(".json")
MODELS = (
    ("torchvision", "resnet18"),
    ("torchvision", "resnet34"),
    ("torchvision", "resnet50"),
    ("timm", "resnet34"),
)
OUTPUTS = 7
SIZES = (65, 47), (64, 64)
"""Of the images: odd ones are where 'SAME' and explicit padding differ the most."""


def draw(shapes):
    """Returns weights and statistics for names and shapes, the same everywhere."""
    arrays = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if len(shape) > 1:
            array = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif name.endswith(("running_mean", "bias")):
            array = rng.normal(0, 0.1, shape)
        else:
            array = rng.uniform(0.3, 1.2, shape)
        arrays[name] = array.astype(np.float32)
    return arrays


def images(size):
    """Returns three images, NHWC."""
    rng = np.random.default_rng(5)
    return rng.normal(0.2, 1.0, (3, *size, 3)).astype(np.float32)


def create(name, library):
    """Returns a model of torch in float64, with what is drawn for it."""
    import torch

    if library == "timm":
        import timm

        model = timm.create_model(name, num_classes=OUTPUTS)
    else:
        import torchvision

        model = getattr(torchvision.models, name)(num_classes=OUTPUTS)
    shapes = {
        key: tuple(value.shape)
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    weights = {key: torch.from_numpy(value) for key, value in draw(shapes).items()}
    model.load_state_dict(weights, strict=False)
    return model.double()


def run(name, library, size):
    """Returns logits in both modes, and statistics after the training pass."""
    import torch

    model = create(name, library)
    x = torch.from_numpy(images(size)).double().permute(0, 3, 1, 2)
    with torch.no_grad():
        evaluated = model.eval()(x)
        trained = model.train()(x)
    stats = {
        key: value.sum().item()
        for key, value in model.state_dict().items()
        if "running" in key
    }
    return {
        "eval": evaluated.numpy().round(7).tolist(),
        "train": trained.numpy().round(7).tolist(),
        "sum_of_statistics": round(sum(stats.values()), 5),
    }


def main():
    """Writes the record."""
    import timm
    import torch
    import torchvision

    torch.set_num_threads(2)
    found = {
        "versions": {m.__name__: m.__version__ for m in (torch, torchvision, timm)},
        "logits": {
            f"{library} {name} {size[0]}x{size[1]}": run(name, library, size)
            for library, name in MODELS
            for size in SIZES
        },
    }
    RECORD.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
