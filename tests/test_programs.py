"""What tests/programs does, on a program made here; its programs where they are.

`JAXBN_PROGRAMS=DIR python -m pytest tests/test_programs.py` runs them all, with DIR as
the script says.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import programs

MODEL = """\
'''A model.

from here on it is code
'''
from __future__ import annotations

import logger
from flax import linen as nn


class Model(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(8, use_bias=False)(logger.nothing and x)
        return nn.Dense(3)(nn.relu(nn.BatchNorm(not train, momentum=0.9)(x)))
"""
GUIDE = """\
A title
=======

.. testsetup:: One, Two

  import flax.linen as nn

Words that are no code.

.. codediff::
  :title: One, Two

  x = 1
  ---
  x = nn.BatchNorm  #!

More words.
"""


def git(folder, *words):
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", "-C", str(folder), *author, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def train(module):
    return programs.fit_linen(module.Model(), programs.draw((16, 4), 3))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A folder with a clone of one repository that has one commit."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "owner+made" / "code").mkdir(parents=True)
    (folder / "owner+made" / "code" / "model.py").write_text(MODEL)
    git(folder, "init", "--quiet", "owner+made")
    git(folder / "owner+made", "add", ".")
    git(folder / "owner+made", "commit", "--quiet", "-m", "made")
    return folder


@pytest.fixture(scope="module")
def program(sources):
    commit = git(sources / "owner+made", "rev-parse", "HEAD").strip()
    source = programs.Source("owner/made", commit)
    return programs.Program("made", source, "code", ("model.py",), train, ("logger",))


def test_changes_the_name_of_the_layer_and_adds_the_import():
    text, changed = programs.change_text(MODEL, programs.OURS)
    before, after = MODEL.splitlines(), text.splitlines()
    assert changed == [15]
    assert "jaxbn.linen.BatchNorm(not train, momentum=0.9)" in text
    assert after.pop(6) == programs.IMPORT
    differs = [
        i + 1 for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b
    ]
    assert differs == changed


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a = nnx.BatchNorm(3)", "a = jaxbn.nnx.BatchNorm(3)"),
        ("n = partial(nn.BatchNorm, 1)", "n = partial(jaxbn.linen.BatchNorm, 1)"),
        ("x = BatchNorm(epsilon=1)", "x = jaxbn.linen.BatchNorm(epsilon=1)"),
        ("class BatchNorm(nn.Module): 1", "class BatchNorm(nn.Module): 1"),
        ("y = norms.VirtualBatchNorm()", "y = norms.VirtualBatchNorm()"),
    ],
)
def test_knows_how_programs_write_the_layer(line, expected):
    text, _ = programs.change_text(f"import flax\n{line}\n", programs.OURS)
    assert text.splitlines()[-1] == expected


def test_code_of_a_guide_stays_on_its_lines():
    lines = programs.code_of_guide(GUIDE).splitlines()
    code = {i + 1: line for i, line in enumerate(lines) if line}
    assert code == {6: "import flax.linen as nn", 15: "x = nn.BatchNorm  #!"}


def test_the_same_curve_with_our_layer(program, sources):
    row = programs.run(program, sources)
    assert row.outcome == "same"
    assert row.changed == ["code/model.py:15"]
    assert max(row.found) < 1e-5
    assert max(row.rounding) < 1e-5
    assert "model" not in sys.modules
    assert "logger" not in sys.modules
    assert f"| {programs.STEPS} |" in programs.table([row])


@pytest.mark.parametrize(
    ("option", "losses", "statistics"),
    [
        ("momentum=0.5", 1e-4, 1e-2),  # Only the evaluation reads what it changes.
        ("epsilon=1e-3", 1e-5, 1e-6),
        ("scale_init=nn.initializers.zeros", 1e-2, 1e-6),
    ],
)
def test_notices_a_layer_that_differs(program, sources, option, losses, statistics):
    other = {
        "nn": f"(lambda *a, **k: nn.BatchNorm(*a, **(k | dict({option}))))",
    }
    theirs, _ = programs.train_with(program, sources, None)
    found, _ = programs.train_with(program, sources, other)
    difference = programs.compare(theirs, found)
    assert difference.losses > losses
    assert difference.statistics > statistics


def test_notices_statistics_of_other_names_and_numbers_that_are_none():
    statistics = {"mean": np.zeros(2), "var": np.ones(2)}
    curve = programs.Curve(np.ones(3), statistics)
    other = programs.Curve(np.ones(3), {"norm": statistics})
    with pytest.raises(ValueError, match="other running statistics"):
        programs.compare(curve, other)
    other = programs.Curve(np.array([1, np.nan, 1]), statistics)
    assert np.isnan(programs.compare(curve, other).losses)


def test_says_in_one_line_what_is_missing(program, sources, tmp_path):
    for row, word in (
        (programs.run(program, tmp_path), "no clone of owner/made"),
        (programs.run(strayed(program, "0" * 40), sources), "owner/made at 00000000"),
    ):
        assert row.outcome.startswith("not run: ") and word in row.outcome
        assert "\n" not in row.outcome
        assert row.outcome in programs.table([row])


def strayed(program, commit):
    return program._replace(source=program.source._replace(commit=commit))


def test_says_in_one_line_what_fails(program, sources):
    def fail(module):
        raise TypeError("one\ntwo")

    row = programs.run(program._replace(train=fail), sources)
    assert row.outcome == "not run: with Flax's layer, TypeError: one"


def test_programs_have_names_and_pinned_commits():
    names = [program.name for program in programs.PROGRAMS]
    assert len(set(names)) == len(names) >= 6
    for program in programs.PROGRAMS:
        assert len(program.source.commit) == 40 and int(program.source.commit, 16)


@pytest.mark.skipif(
    "JAXBN_PROGRAMS" not in os.environ,
    reason="JAXBN_PROGRAMS names no folder of sources; see tests/programs",
)
def test_all_programs_train_as_with_flax():
    folder = os.environ["JAXBN_PROGRAMS"]
    command = [sys.executable, "-m", "tests.programs", "--sources", folder]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not run" not in done.stdout, done.stdout
