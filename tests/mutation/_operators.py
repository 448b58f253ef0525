"""What is changed: operators of Cosmic Ray, and three of ours for what guards a value.

Cosmic Ray would replace `+` by eleven others, most of which raise at once where numbers
are floats; a score made of those says little. Here each is replaced by its neighbours.
"""

from collections.abc import Callable, Iterator
from typing import Any

NEIGHBOURS = {
    "ReplaceBinaryOperator": "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul "
    "Mod_FloorDiv Pow_Mul BitAnd_BitOr BitOr_BitAnd",
    "ReplaceComparisonOperator": "Lt_LtE LtE_Lt Gt_GtE GtE_Gt Lt_Gt Gt_Lt LtE_GtE "
    "GtE_LtE Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is In_NotIn NotIn_In",
    "ReplaceUnaryOperator": "Delete_USub Delete_Not",
}
SINGLE = (
    "AddNot ExceptionReplacer NumberReplacer RemoveDecorator ReplaceAndWithOr "
    "ReplaceOrWithAnd ReplaceFalseWithTrue ReplaceTrueWithFalse "
    "ReplaceBreakWithContinue ReplaceContinueWithBreak ZeroIterationForLoop"
)
GUARDS = (
    "as_divisor astype conceal fill laid_like laid_per_feature match_varying maximum "
    "minimum optimization_barrier stop_gradient vary_alike weigh"
)
"""Functions (or methods) whose value is much like their first argument (or object)."""
CHOICES = "keep select where"
"""Functions that return their second argument where their first one is true."""


def operators() -> dict[str, Any]:
    """Returns every operator by its name."""
    from cosmic_ray.plugins import get_operator, operator_names

    names = [f"{kind}_{p}" for kind, some in NEIGHBOURS.items() for p in some.split()]
    names += SINGLE.split()
    known = {name.removeprefix("core/"): name for name in operator_names()}
    found = {name: get_operator(known[name])() for name in names if name in known}
    return found | {
        "RemoveGuard": _replacing(_guarded),
        "TakeFirstChoice": _replacing(_first_choice),
        "RemoveCall": _replacing(_lone_call),
    }


def _replacing(replacement: Callable[[Any], str | None]) -> Any:
    """Returns the operator that replaces nodes by code, where there is some."""
    from cosmic_ray.operators.operator import Operator
    from parso.python.tree import Name

    class Replacing(Operator):
        def mutation_positions(self, node: Any) -> Iterator[Any]:
            if replacement(node) is not None:
                yield node.start_pos, node.end_pos

        def mutate(self, node: Any, index: int) -> Any:
            prefix = node.get_first_leaf().prefix
            return Name(replacement(node), node.start_pos, prefix=prefix)

        @classmethod
        def examples(cls) -> tuple:
            return ()

    return Replacing()


def _call(node: Any) -> tuple[str, str, list[str]] | None:
    """Returns the object, the name and the positional arguments of a call."""
    if node.type not in ("atom_expr", "power") or node.children[0].type == "keyword":
        return None
    *before, last = node.children
    if last.type != "trailer" or last.children[0].value != "(":
        return None
    inside = last.children[1:-1]
    if inside and inside[0].type == "arglist":
        inside = inside[0].children[::2]
    given = [a.get_code().strip() for a in inside if a.type != "argument"]
    name = before[-1].get_code().strip().removeprefix(".")
    owner = "".join(part.get_code() for part in before[:-1]).strip()
    return owner, name, given


def _guarded(node: Any) -> str | None:
    found = _call(node)
    if found is None or found[1] not in GUARDS.split():
        return None
    owner, name, given = found
    if name == "astype":
        return f"({owner})"
    return f"({given[0]})" if given else None


def _first_choice(node: Any) -> str | None:
    found = _call(node)
    if found is None or found[1] not in CHOICES.split() or len(found[2]) < 2:
        return None
    return f"({found[2][1]})"


def _lone_call(node: Any) -> str | None:
    alone = node.parent is not None and node.parent.type == "simple_stmt"
    return "pass" if alone and _call(node) is not None else None
