"""Every piece of code that a reader may copy runs."""

from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[1]
PAGES = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()])


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/devices.md"])
def test_runs(page):
    """A page in one test: what it says to skip is said to the example before."""
    for example in PAGES.parse(ROOT / page):
        example.evaluate()


def test_readme_has_the_examples_it_should():
    text = (ROOT / "README.md").read_text()
    for words in ("bn_apply(", "jaxbn.linen", "jaxbn.nnx", "python train.py", "pytest"):
        assert words in text


def test_pictures_of_the_readme_exist():
    lines = (ROOT / "README.md").read_text().splitlines()
    pictures = [ln.split("](")[1].split(")")[0] for ln in lines if ln.startswith("![")]
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).is_file(), picture
