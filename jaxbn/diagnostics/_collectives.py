"""Collectives: what a compiled program sends between devices, read in its text.

How often devices wait for each other is decided by the compiler, so it is read where it
decided, in the HLO, and not guessed from the source.
"""

import math
import re
from typing import Any, NamedTuple

from jaxbn._values import shown

_KINDS = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
_LINE = re.compile(rf"= (\(?\w+\[.*?) ({_KINDS})(-start)?\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_BITS = re.compile(r"\d+")


class Collective(NamedTuple):
    """One operation that devices do together.

    Attributes:
        kind: 'all-reduce', 'all-gather', 'all-to-all', 'reduce-scatter' or
            'collective-permute'.
        num_bytes: of its result on a device.
    """

    kind: str
    num_bytes: int


def find_collectives(program: Any) -> list[Collective]:
    """Returns the collectives of a compiled program, in the order of its text.

    One within a loop is counted once, as it is written.

    Args:
        program: what `jax.jit(f).lower(...).compile()` returns, also of `jax.pmap`; or
            the text of such a program.

    Returns:
        A list of `Collective`.

    Example:
        >>> text = 'x = f32[8,4,64]{2,1,0} all-reduce(y), channel_id=1'
        >>> find_collectives(text)
        [Collective(kind='all-reduce', num_bytes=8192)]
    """
    if not isinstance(program, str) and not hasattr(program, "as_text"):
        raise ValueError(
            f"program is {shown(program)}, expected a compiled program or its text; "
            "pass jax.jit(f).lower(...).compile()"
        )
    text = program if isinstance(program, str) else program.as_text()
    return [
        Collective(kind, sum(map(_num_bytes, _ARRAY.findall(shape))))
        for shape, kind, _ in _LINE.findall(text)
    ]


def _num_bytes(array: tuple[str, str]) -> int:
    dtype, shape = array
    bits = _BITS.search(dtype)
    size = math.prod(int(n) for n in shape.split(",") if n)
    return size * (int(bits[0]) if bits else 8) // 8
