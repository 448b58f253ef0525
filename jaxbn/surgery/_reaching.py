"""Reaching: which inputs of a traced program its outputs depend on."""

from typing import Any

from jax.extend import core as jex


def reaching(program: Any, needed: list[bool]) -> list[bool]:
    """Returns of each input of a jaxpr whether a needed output depends on it.

    Goes into programs within it, as of jit and remat; those of loops and branches are
    taken to mix everything.
    """
    wanted = {
        v
        for v, is_needed in zip(program.outvars, needed, strict=True)
        if is_needed and not isinstance(v, jex.Literal)
    }
    for equation in reversed(program.eqns):
        flags = [v in wanted for v in equation.outvars]
        if not any(flags):
            continue
        inner = _inner_program(equation)
        inputs = [True] * len(equation.invars)
        inputs = inputs if inner is None else reaching(inner, flags)
        used = zip(equation.invars, inputs, strict=True)
        wanted |= {v for v, on in used if on and not isinstance(v, jex.Literal)}
    return [v in wanted for v in program.invars]


def _inner_program(equation: Any) -> Any:
    """Returns the program that an equation runs once, as it is; None if it has none."""
    if equation.primitive.name in ("scan", "while", "cond"):
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(name)
        inner = getattr(inner, "jaxpr", inner)
        if inner is not None:
            sizes = len(inner.invars), len(inner.outvars)
            fits = sizes == (len(equation.invars), len(equation.outvars))
            return inner if fits else None
    return None
