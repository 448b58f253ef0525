"""What happens when a set is not prepared: download it, or say in one line what to do.

Nothing falls back on another set, and nothing waits for a network that is not there:
TFDS itself would retry for minutes.
"""

import contextlib
import difflib
import socket
import threading
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from jaxbn.data._column import DatasetUnavailable, first_line
from jaxbn.data._embedded import dataset_names
from jaxbn.data._folders import SetName, prepared_names
from jaxbn.data._quiet import quiet

HOST = "storage.googleapis.com"


def prepare(name: str, parts: SetName | None, root: Path) -> Path:
    """Downloads and prepares a set that TFDS knows; its folder.

    Raises:
        ValueError: if no set has that name, or it has configurations and none is
            named.
        DatasetUnavailable: if there is no network, or preparing failed.
    """
    with quiet():
        import tensorflow_datasets as tfds

        known = tfds.list_builders(with_community_datasets=False)
        if parts is None or parts.base not in known:
            raise unknown_name(name, root, known)
        version, configs = _what_tfds_prepares(tfds, parts)
    if configs and parts.config is None:
        raise ValueError(
            f"data set {name!r} has configurations ({', '.join(configs[:5])}"
            f"{', ...' if len(configs) > 5 else ''}); name one, as in "
            f"'{name}/{configs[0]}'"
        )
    wanted = "/".join(part for part in (parts.base, parts.config, version) if part)
    without = "" if root.is_dir() else " (no such folder)"
    missing = f"data set {name!r} is not prepared in {root}{without}"
    fix = (
        f"pass a data_dir (--data_dir=DIR) that holds {wanted}, or run `tfds build "
        f"{name} --file_format=array_record` on a machine with a network and TensorFlow"
    )
    if not network_reachable():
        raise DatasetUnavailable(
            f"{missing} and cannot be downloaded (no answer from {HOST}); {fix}"
        )
    try:
        with quiet():
            builder = tfds.builder(name, data_dir=str(root))
            builder.download_and_prepare(file_format="array_record")
            return Path(builder.data_path)
    except Exception as error:
        raise DatasetUnavailable(
            f"{missing} and preparing it failed ({first_line(error)}); {fix}"
        ) from error


def unknown_name(name: str, root: Path, known: list[str]) -> ValueError:
    """The error for a name no set has, with the names that come near."""
    at_hand = [*dataset_names(), *prepared_names(root)]
    asked = name.lower().replace("-", "_")
    near = difflib.get_close_matches(asked, dict.fromkeys([*at_hand, *known]), n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    return ValueError(
        f"no data set is called {name!r}{hint} At hand: {', '.join(at_hand)} "
        f"(data_dir {root}), and the image classification sets of TFDS; pass the name "
        "of one (--dataset=NAME)"
    )


def network_reachable(timeout: float = 3.0) -> bool:
    """Whether the host of TFDS's files (or the proxy to it) takes a connection.

    A name that does not resolve fails in milliseconds; a resolver that hangs is left
    behind after `timeout` seconds.
    """
    address = (HOST, 443)
    if proxy := urllib.request.getproxies().get("https"):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
        address = (parts.hostname or HOST, parts.port or 443)
    reached = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection(address, timeout).close()
            reached.set()

    probe = threading.Thread(target=connect, daemon=True)
    probe.start()
    probe.join(timeout)
    return reached.is_set()


def _what_tfds_prepares(tfds: Any, parts: SetName) -> tuple[str | None, list[str]]:
    """The version (None where TFDS does not say) and the names of configurations."""
    try:
        builder_class = tfds.builder_cls(parts.base)
    except Exception:  # A set whose own imports are missing says so when prepared.
        return parts.version, []
    configs = [config.name for config in builder_class.BUILDER_CONFIGS or []]
    version = parts.version or getattr(builder_class, "VERSION", None)
    return str(version) if version else None, configs
