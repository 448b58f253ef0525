"""Fingerprints: what of the code counts, and what does not."""

import importlib

import pytest

from jaxbn.experiments import EXPERIMENTS
from jaxbn.experiments._fingerprint import PACKAGE, _bare, _symbols, library, versions

CODE = """\
@cached(
    1,
)
def f(x):
    for i in x:
        g("a # b", i)
        h(i)
    return f"{x} # c"
"""
SAME = """\
@cached(
    1,  # Once.
)
def f(x):  # Of what is said to be \u00e9.
    \'\'\'Returns \u00e9.

    Or not.
    \'\'\'
    for i in x:

        g("a # b", i)  # As always.
        h(i)
    \'\'\'Done.\'\'\'
    return f"{x} # c"
"""


def test_comments_docstrings_and_empty_lines_do_not_count():
    assert _bare(SAME) == _bare(CODE) == CODE.strip()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("        h(i)", "    h(i)"),
        ('"a # b"', '"a  # b"'),
        ("# c", "# d"),
        ("    1,", "    2,"),
    ],
)
def test_all_else_does(before, after):
    changed = CODE.replace(before, after)
    assert changed != CODE
    assert _bare(changed) != _bare(CODE)


def test_an_empty_body_is_not_a_docstring_and_a_return():
    assert _bare("def f(): ...") != _bare("def f(): 'doc'; return 1")


def test_what_is_imported_of_the_package_is_defined_there():
    """Whole modules would not be followed."""
    waiting, seen = list(EXPERIMENTS.values()), set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        for place, name in _symbols(module)[1].values():
            defined, imported = _symbols(place)
            assert name in defined or name in imported, (module, place, name)
            waiting.append(place)
    assert len(seen) > len(EXPERIMENTS)


def test_what_a_module_changes_later_counts(monkeypatch):
    made_up = "A = {1: 2}\nA |= {3: 4}\nB = A\n"
    source = "jaxbn.experiments._fingerprint.inspect.getsource"
    monkeypatch.setattr(source, lambda module: made_up)
    defined, _ = _symbols.__wrapped__(f"{PACKAGE}._draw")
    assert [text for _, text in defined["A"]] == ["A = {1: 2}", "A |= {3: 4}"]
    assert list(defined) == ["A", "B"]


def test_imports_within_functions_are_followed(monkeypatch):
    made_up = (
        "def f():\n    from jaxbn.experiments._draw import band\n    return band\n"
    )
    source = "jaxbn.experiments._fingerprint.inspect.getsource"
    monkeypatch.setattr(source, lambda module: made_up)
    _, imported = _symbols.__wrapped__(f"{PACKAGE}._draw")
    assert imported == {"band": (f"{PACKAGE}._draw", "band")}


@pytest.mark.parametrize("line", ["A.update(b=1)", "if True:\n    A = 1", "del A"])
def test_what_cannot_be_followed_is_refused(monkeypatch, line):
    source = "jaxbn.experiments._fingerprint.inspect.getsource"
    monkeypatch.setattr(source, lambda module: f"A = {{}}\n{line}\n")
    with pytest.raises(ValueError, match=r"line 2 .* expected imports, functions"):
        _symbols.__wrapped__(f"{PACKAGE}._draw")


def test_the_library_is_one_hash_among_the_versions(monkeypatch, tmp_path):
    assert versions()["jaxbn code"] == library()
    jaxbn = importlib.import_module("jaxbn")
    for name in ("a.py", "experiments/b.py"):
        tmp_path.joinpath(name).parent.mkdir(exist_ok=True)
        tmp_path.joinpath(name).write_text("x = 1\n")
    monkeypatch.setattr(jaxbn, "__file__", str(tmp_path / "__init__.py"))
    first = library.__wrapped__()
    tmp_path.joinpath("experiments/b.py").write_text("x = 2\n")
    assert library.__wrapped__() == first
    tmp_path.joinpath("a.py").write_text("x = 2\n")
    assert library.__wrapped__() != first
