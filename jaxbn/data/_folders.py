"""Where prepared TFDS sets lie: data_dir/name[/config]/version. No TFDS is needed.

Found by folder and not by builder class, so that a set somebody made loads as well as
one that TFDS knows.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

_NAME = re.compile(
    r"(?P<base>\w+)"
    r"(?:/(?!\d+\.\d+\.\d+$)(?!\.+(?:[:/]|$))(?P<config>[\w.+-]+))?"
    r"(?:[:/](?P<version>\d+\.\d+\.\d+))?"
)
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class SetName(NamedTuple):
    """A name taken apart: 'name', 'name/config', 'name:1.0.0', 'name/config:1.0.0'."""

    base: str
    config: str | None
    version: str | None


def parse_name(name: str) -> SetName | None:
    """The parts of a TFDS name; None where it is not one.

    Example:
        >>> parse_name('mnist:3.0.1')
        SetName(base='mnist', config=None, version='3.0.1')
        >>> parse_name('../mnist')
    """
    match = _NAME.fullmatch(name)
    return SetName(**match.groupdict()) if match else None


def data_root(data_dir: str | os.PathLike[str] | None) -> Path:
    """`data_dir`, or TFDS's default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(default if data_dir is None else data_dir).expanduser()


def find_folder(root: Path, name: SetName) -> Path | None:
    """The folder of the set's newest prepared version; None where there is none.

    Raises:
        ValueError: if the set has configurations and none is named.
    """
    folder = root / name.base / (name.config or "")
    versions = _versions(folder)
    if not versions and name.config is None and (configs := _configs(folder)):
        raise ValueError(
            f"{name.base!r} in {root} has configurations ({', '.join(configs)}); "
            f"name one, as in '{name.base}/{configs[0]}'"
        )
    wanted = [v for v in versions if name.version in (None, v.name)]
    return max(wanted, key=_version_key, default=None)


def prepared_names(root: Path) -> list[str]:
    """The sets with a prepared version under `root`, sorted."""
    names = []
    for folder in _subfolders(root):
        if _versions(folder):
            names.append(folder.name)
        else:
            names += [f"{folder.name}/{config}" for config in _configs(folder)]
    return names


def _configs(folder: Path) -> list[str]:
    return [sub.name for sub in _subfolders(folder) if _versions(sub)]


def _versions(folder: Path) -> list[Path]:
    return [sub for sub in _subfolders(folder) if _VERSION.fullmatch(sub.name)]


def _version_key(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.name.split("."))


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(sub for sub in folder.iterdir() if sub.is_dir())
