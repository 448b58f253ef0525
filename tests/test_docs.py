"""Every piece of code that a reader may copy runs."""

from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[1]
PAGES = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()])


def examples():
    for page in ("README.md", "CONTRIBUTING.md", "docs/devices.md"):
        for example in PAGES.parse(ROOT / page):
            yield pytest.param(example, id=f"{page}:{example.line}")


@pytest.mark.parametrize("example", list(examples()))
def test_runs(example):
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
