"""Extreme inputs keep what docs/numbers.md promises of them."""

import pytest

from tests.stress import PAGE, cases


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_keeps_its_promise(case):
    assert case.error() <= case.bound


def test_the_page_has_these_cases_and_bounds():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| input")
    ]
    wanted = [[c.name, c.promise, c.shown_bound] for c in cases()]
    assert [row[:3] for row in rows] == wanted
    for case, row in zip(cases(), rows, strict=True):
        assert float(row[3]) <= case.bound
