"""`jaxbn doctor`: what is here, and what will not work because of it."""

import importlib.metadata
import importlib.util
import json as json_module
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("jaxbn", "jax", "jaxlib", "flax", "optax", "chex", "numpy")
PACKAGES += ("tensorflow-datasets",)
PARTS = {
    "train": ("orbax-checkpoint", "tyro", "rich", "tensorboardX", "matplotlib"),
    "digits": ("scikit-learn",),
    "weights from files": ("safetensors",),
    "export": ("flatbuffers",),
}
"""What needs packages of the extra `train`, and which."""


def doctor(data_dir: str | None = None, json: bool = False) -> int:
    """Says which versions, devices and data sets there are, and what will not work.

    Ends with 1 if something that jaxbn requires is missing.
    Example: jaxbn doctor --data_dir=DIR

    Args:
        data_dir: Where prepared TFDS sets lie; TFDS's own default if not given.
        json: Print JSON instead of lines.
    """
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "devices": devices(),
        "data sets": ["digits", "regression", *prepared(data_dir)],
        "will not work": complaints(),
    }
    if json:
        print(json_module.dumps(found, indent=2))
    else:
        print(f"python     {found['python']} on {platform.machine()}")
        names = (f"{k} {v or 'missing'}" for k, v in found["packages"].items())
        print(f"packages   {', '.join(names)}")
        print(f"devices    {', '.join(found['devices'])}")
        print(f"data sets  {', '.join(found['data sets'])}")
        for complaint in found["will not work"]:
            print(f"missing    {complaint}")
        if not found["will not work"]:
            print("everything that jaxbn can use is here")
    return int(None in found["packages"].values())


def version(name: str) -> str | None:
    """Returns the version of a package, None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def devices() -> list[str]:
    """Returns the devices that JAX finds, or why it finds none."""
    try:
        import jax

        kinds = [f"{d.platform} ({d.device_kind})" for d in jax.devices()]
    except Exception as error:  # A broken driver has many ways to say so.
        return [f"none: {str(error).strip().splitlines()[0]}"]
    return [f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)]


def prepared(data_dir: str | None) -> list[str]:
    """Returns the sets that lie in a folder of TensorFlow Datasets."""
    if data_dir is None:
        try:
            from tensorflow_datasets.core import constants

            data_dir = constants.DATA_DIR
        except ImportError:
            return []
    features = Path(data_dir).expanduser().glob("*/**/features.json")
    return sorted(
        {str(p.relative_to(Path(data_dir).expanduser()).parts[0]) for p in features}
    )


def complaints() -> list[str]:
    """Returns what will not work, and what to install."""
    said = []
    for part, packages in PARTS.items():
        missing = [name for name in packages if version(name) is None]
        if missing:
            extra = "pip install 'jaxbn[train]'"
            said.append(f"{', '.join(missing)}: no {part}; {extra}")
    return said
