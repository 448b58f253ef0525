"""Whether the table, the claims and the numbers of docs/experiments are today's.

Imported by the tests of each experiment, whose `result` is that of the size smoke. What
depends on the size is left out of the comparison: numbers, how many columns there are,
and arms and claims that smoke does without.
"""

import json
import re
from pathlib import Path

from jaxbn.experiments._numbers import as_plain
from jaxbn.experiments._results import NUMBERS, TABLE, as_table

DOCS = Path(__file__).parents[2] / "docs" / "experiments"
FORMS = {
    "mean and spread": r"-?\d+\.\d+ \+- \d+\.\d+",
    "diverged": r"(\d+ )?diverged",
    "nothing": "",
    "number": r"-?\d+(\.\d+)?",
    "words": r"[^\[\]{}]*",
}
ALWAYS = {"diverged", "nothing"}
"""Forms that a cell may take with other seeds."""


def form_of(cell):
    """Returns what is in a cell; an array or a dict as it is printed is no form."""
    known = (name for name, form in FORMS.items() if re.fullmatch(form, cell))
    return next(known, f"no form: {cell}")


def without_numbers(text):
    """Returns a text with # for its numbers."""
    return re.sub(r"\d[\d,.]*", "#", text)


def forms_of_columns(table):
    """Returns which forms occur under each header, without its numbers."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    rows = [[c.strip() for c in line.strip()[1:-1].split("|")] for line in lines]
    found = {}
    for row in rows[2:]:
        for header, cell in zip(rows[0], row, strict=True):
            found.setdefault(without_numbers(header), set()).add(form_of(cell))
    return found


def names_in(numbers, path=""):
    """Returns the paths of all numbers, however many there are at each."""
    if not isinstance(numbers, dict):
        return {path}
    inner = (names_in(v, f"{path}/{without_numbers(k)}") for k, v in numbers.items())
    return set().union(*inner)


def compare(name, table, claims, numbers):
    """Asserts that what an experiment makes today has the form of what is committed."""
    committed = json.loads((DOCS / name / NUMBERS).read_text())
    expected = forms_of_columns((DOCS / name / TABLE).read_text())
    found = forms_of_columns(table)
    assert list(found) == list(expected)
    for header, forms in found.items():
        assert forms - ALWAYS <= expected[header], header
    stated = {without_numbers(v["claim"]) for v in committed["verdicts"]}
    assert set(map(without_numbers, claims)) <= stated
    assert names_in(numbers) <= names_in(committed["numbers"])


def test_committed_form(request, result):
    name = request.path.stem.removeprefix("test_")
    claims = [verdict.claim for verdict in result.verdicts]
    compare(name, as_table(result), claims, as_plain(result.numbers))
