"""Every piece of code that a reader may copy runs."""

import re
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

import jaxbn
from tests import finetuning

ROOT = Path(__file__).parents[1]
PAGES = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()])


WITH_CODE = ["README.md", "CONTRIBUTING.md", "docs/devices.md", "docs/get_started.md"]
WITH_CODE += sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs/guides").iterdir())


@pytest.mark.parametrize("page", WITH_CODE)
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


def test_the_site_has_every_page_and_the_guides_have_code():
    index = (ROOT / "docs/index.md").read_text()
    for page in WITH_CODE[2:]:
        assert page.removeprefix("docs/").removesuffix(".md") + "\n" in index
        assert "```python" in (ROOT / page).read_text()


def test_the_page_of_functions_has_every_name_once():
    page = (ROOT / "docs/api/functions.md").read_text()
    names = re.findall(r"^\.\. auto\w+:: (\w+)$", page, re.MULTILINE)
    assert sorted(names) == sorted(jaxbn.__all__)


def test_the_guide_to_fine_tuning_has_a_row_for_all_that_is_measured():
    text = finetuning.PAGE.read_text()
    rows = re.findall(r"^\| (.*) \| [0-9.]+ ± [0-9.]+ \|$", text, re.MULTILINE)
    assert rows == [words.format(few=256) for words in finetuning.WORDS.values()]


def test_the_changelog_begins_with_the_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    first = next(line for line in text.splitlines() if line.startswith("## "))
    assert first.removeprefix("## ").split(",")[0] == jaxbn.__version__
