"""Digests: what is read from a checkpoint is what was written, to the bit.

orbax checks what it writes about arrays and not the arrays themselves, so that a
flipped bit on a disk becomes another weight. Here every array has a digest (BLAKE2b of
its dtype, shape and bytes), which lies in the record of the checkpoint; the record
begins with its own.
"""

import hashlib
import json
from typing import Any

import jax
import numpy as np

from jaxbn.tree import path_name

SIZE = 16
"""Bytes of a digest."""


class Damaged(ValueError):
    """What was read is not what was written."""


def digests_of(tree: Any) -> dict[str, str]:
    """Returns the digest of every array of a tree, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): digest(np.asarray(leaf)) for path, leaf in leaves}


def digest(array: np.ndarray) -> str:
    """Returns the digest of an array, as hexadecimal digits."""
    found = hashlib.blake2b(f"{array.dtype} {array.shape} ".encode(), digest_size=SIZE)
    found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def seal(record: dict[str, Any]) -> np.ndarray:
    """Returns a record as bytes that begin with their digest.

    As one array: orbax would store every number of a tree in an array of its own.
    """
    text = json.dumps(record, allow_nan=False).encode()
    return np.frombuffer(_of_bytes(text) + text, np.uint8)


def unseal(sealed: Any) -> dict[str, Any]:
    """Returns the record.

    Raises:
        Damaged: if its bytes are not those that were sealed.
    """
    data = np.asarray(sealed).tobytes()
    if data[:1] == b"{":  # Written before there were digests.
        return json.loads(data)
    if _of_bytes(data[SIZE:]) != data[:SIZE]:
        raise Damaged("its record is not what was written")
    return json.loads(data[SIZE:])


def verify(tree: Any, digests: dict[str, str]) -> None:
    """Raises unless every array has the digest that it was written with.

    Raises:
        Damaged: naming the first array that has not.
    """
    found = digests_of(tree)
    for path, expected in digests.items():
        if path not in found:
            raise Damaged(f"{path} is missing")
        if found[path] != expected:
            raise Damaged(f"{path} is not what was written")


def _of_bytes(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=SIZE).digest()
