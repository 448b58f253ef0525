"""The notebooks of colab/ run from top to bottom at smoke size, and are kept clean."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

COLAB = Path(__file__).parents[1] / "colab"
NOTEBOOKS = sorted(COLAB.glob("*.ipynb"))
NAMES = {"quickstart", "sync_bn", "population_statistics", "small_batches"}
NAMES |= {"domains_and_leakage", "surgery"}
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def test_all_are_there():
    assert {path.stem for path in NOTEBOOKS} == NAMES


@each
def test_is_clean(path):
    """As `nbstripout` and `ruff format` leave it."""
    text, book = path.read_text(), read(path)
    assert text == nbformat.writes(book) + "\n"
    assert len(book.cells) <= 12 and len(text) < 20_000
    for cell in book.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert cell.execution_count is None and not cell.outputs
    assert set(book.metadata) == {"kernelspec"}
    assert not re.search(r"(?<![\w.:/])/(home|root|Users|work|tmp|content)/|C:\\", text)


@each
def test_begins_with_a_badge_and_ends_with_what_it_claims(path):
    cells = read(path).cells
    badge = f"colab.research.google.com/github/jaxbn/jaxbn/blob/main/colab/{path.name}"
    assert cells[0].source.startswith("# ") and badge in cells[0].source
    assert 'find_spec("jaxbn") is None' in cells[1].source
    assert cells[-2].cell_type == "markdown" and cells[-1].cell_type == "code"
    assert "assert" in cells[-1].source


@each
def test_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXBN_SIZE", "smoke")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    # As many as the tests have, whose compiled programs then serve here too.
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    book = read(path)
    where = {"metadata": {"path": str(COLAB)}}
    NotebookClient(book, timeout=240, kernel_name="python3", resources=where).execute()
    shown = [out for cell in book.cells for out in cell.get("outputs", ())]
    assert any("image/png" in out.get("data", ()) for out in shown)
    assert not [out for out in shown if "Warning" in out.get("text", "")]
