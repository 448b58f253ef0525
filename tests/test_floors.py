"""The plan of the house, read off the imports: a file imports from floors below."""

import ast
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1] / "jaxbn"
FLOORS = {
    "_values": 0,
    "base": 1,
    "data": 1,
    "core": 2,
    "tree": 3,
    "variants": 4,
    "population": 4,
    "surgery": 6,
    "diagnostics": 4,
    "linen": 5,
    "nnx": 5,
    "models": 6,
    "training": 7,
    "experiments": 8,
    "cli": 9,
    "__main__": 10,
}
# Types, data and arithmetic know no Flax; below training nobody writes or draws.
FIRST_FLOOR_OF = {"flax": 3, "optax": 7, "orbax": 7, "rich": 7, "tyro": 7}
FILES = sorted(HOUSE.rglob("*.py"))


def imports(path):
    """Yields (module, at the top level of the file?)."""
    tree = ast.parse(path.read_text())
    top = set(tree.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "jaxbn":
            for alias in node.names:
                yield f"jaxbn.{alias.name}", node in top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module, node in top
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node in top


def room(path):
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_imports_come_from_below(path):
    here = room(path)
    if here == "__init__":
        allowed = {"base", "core", "variants"}
        rooms = {m.split(".")[1] for m, _ in imports(path) if m.startswith("jaxbn.")}
        assert rooms <= allowed
        return
    floor = FLOORS[here]
    if here in ("core", "variants"):
        assert not any(name.startswith("flax") for name, _ in imports(path)), path
    for module, top in imports(path):
        names = module.split(".")
        if names[0] == "jaxbn":
            below = FLOORS.get(names[1], 2) if len(names) > 1 else 2
            assert names[1:2] == [here] or below < floor, f"{path} imports {module}"
        elif names[0] in FIRST_FLOOR_OF:
            assert floor >= FIRST_FLOOR_OF[names[0]], f"{path} imports {module}"
        elif names[0] in ("matplotlib", "tensorflow_datasets", "sklearn", "torch"):
            assert not top, f"{path} imports {module} at the top; do it in the function"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_a_file_can_be_read_in_one_sitting(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 320
    assert ast.get_docstring(ast.parse(text)), f"{path} does not say what it is about"
    assert path.stem not in ("utils", "util", "helpers", "common", "misc")


def test_one_place_knows_the_kinds_of_parallelism():
    for path in FILES:
        code = ast.unparse(strip_docstrings(ast.parse(path.read_text())))
        if path.name != "_parallel.py":
            assert "jax.pmap(" not in code, path
            assert "jax.shard_map(" not in code, path


def strip_docstrings(tree):
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            body[0] = ast.Pass()
    return tree
