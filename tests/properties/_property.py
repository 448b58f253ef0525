"""What a property is, and the list of them all."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from catalog import Law

from tests.properties._cases import Case, cases
from tests.properties._programs import Program


@dataclass(frozen=True)
class Property:
    """A law and what shows it for one case.

    Attributes:
        law: in words.
        claimed: whether a program has it.
        holds: runs a case, and raises where the law is broken.
        share: of all examples, relative to other properties.
        programs: at most so many of a pool: compiling is what takes time.
        strategy: of programs, gives cases.
    """

    law: str
    claimed: Callable[[Program], bool]
    holds: Callable[[Case], None]
    share: int
    programs: int
    strategy: Callable


PROPERTIES: list[Property] = []


def proves(
    law: Law | str,
    *,
    share: int,
    programs: int,
    strategy: Callable = cases,
    where: Callable[[Program], bool] = lambda program: True,
    claims: Law | None = None,
    on_devices: bool = False,
) -> Callable:
    """Adds a property: decorates the function that runs a case of it.

    Args:
        law: of the catalog, or one in words.
        share: as in `Property`.
        programs: as in `Property`.
        strategy: as in `Property`.
        where: whether it says something about a program.
        claims: the law that rows claim; `law` by default.
        on_devices: whether it is of programs that are spread over devices.
    """
    claimed = claims or law

    def add(holds: Callable[[Case], None]) -> Callable[[Case], None]:
        def stands(program: Program) -> bool:
            said = not isinstance(claimed, Law) or claimed in program.row.laws
            there = (program.wrapper is not None) == on_devices
            return said and there and where(program)

        words = law.value if isinstance(law, Law) else law
        PROPERTIES.append(Property(words, stands, holds, share, programs, strategy))
        return holds

    return add


def is_full(program: Program) -> bool:
    """Returns whether there is an element."""
    return math.prod(program.shape) > 0


def has_examples(program: Program) -> bool:
    """Returns whether there are two examples or more, with something in them."""
    return is_full(program) and (program.examples or 0) > 1


def has_reference(program: Program) -> bool:
    """Returns whether there is arithmetic in float64 to compare with."""
    return program.row.reference is not None
