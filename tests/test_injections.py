"""A dozen faults put into real runs, and what was recorded of hundreds."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.injections import chosen, draw, table, totals
from tests.injections._judge import (
    Ending,
    Lost,
    assert_in_words,
    assert_same,
    set_aside,
)

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "reliability" / "injections.json"
DOZEN = chosen(0)


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """What came out of the dozen, by number."""
    out = tmp_path_factory.mktemp("injections") / "record.json"
    command = [sys.executable, "-m", "tests.injections", "--chosen", f"--out={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert out.exists(), done.stderr
    return {
        entry["index"]: entry for entry in json.loads(out.read_text())["injections"]
    }


@pytest.mark.parametrize(
    "injection", DOZEN, ids=lambda i: f"{i.index}-{i.kind.replace(' ', '-')}"
)
def test_a_run_goes_on_bit_for_bit_or_refuses_in_words(injection, entries):
    entry = entries[injection.index]
    assert entry["kind"] == injection.kind
    allowed = {"recovered", "unharmed"}
    if "damaged" in injection.kind or injection.kind == "second run":
        allowed.add("refused")
    assert entry["outcome"] in allowed, entry


def test_an_injection_is_drawn_from_the_seed_and_its_number():
    plan = [draw(0, index) for index in range(300)]
    assert plan[17] == draw(0, 17) != draw(1, 17)
    assert len({injection.kind for injection in plan}) == 12
    assert len({injection.kind for injection in DOZEN}) == 8
    assert all(injection.how["base"] == "one" for injection in DOZEN)


def test_what_is_not_promised_counts_as_lost():
    said = (
        "checkpoint w/checkpoints/step_00000040 is damaged (x is missing) and set aside"
    )
    assert set_aside(0, f"{said}\n") == [40]
    for code, err in ((1, ""), (0, "Traceback (most recent call last):\n"), (-9, "")):
        with pytest.raises(Lost):
            set_aside(code, err)
    assert assert_in_words(1, f"{said}\ntrain.py: no\n") == "train.py: no"
    for code, err in ((1, "a\nb\n"), (1, ""), (0, "train.py: no\n"), (1, "KeyError\n")):
        with pytest.raises(Lost):
            assert_in_words(code, err)


def test_other_numbers_count_as_lost(tmp_path, monkeypatch):
    ending = Ending(60, {"a": "00", "b": "11"}, b"rows", b"csv", {"step": 60})
    module = sys.modules[assert_same.__module__]
    monkeypatch.setattr(module, "ending_of", lambda *what: ending)
    assert_same(tmp_path, ending, True)
    for other, words in (
        (ending._replace(arrays={"a": "00", "b": "12"}), "1 of 2 arrays differ, b"),
        (ending._replace(arrays={"a": "00"}), "1 of 2 arrays differ, b"),
        (ending._replace(rows=b"row"), "rows differs"),
        (ending._replace(summary={}), "summary differs"),
    ):
        with pytest.raises(Lost, match=words):
            assert_same(tmp_path, other, True)


@pytest.fixture
def record():
    """The record of the last run of hundreds."""
    if not RECORD.exists():
        pytest.skip(f"needs {RECORD.relative_to(ROOT)}; see tests/injections")
    return json.loads(RECORD.read_text())


def test_the_record_counts_what_it_lists(record):
    listed = record["injections"]
    assert len(listed) == record["count"] >= 200
    assert totals(listed) == record["totals"]
    drawn = [draw(record["seed"], entry["index"]) for entry in listed]
    assert [injection.kind for injection in drawn] == [e["kind"] for e in listed]
    assert not [entry for entry in listed if entry["outcome"] == "lost"]


def test_the_page_has_the_table_of_the_record(record):
    found = re.search(
        r"<!-- injections -->\n(.*?)\n<!-- /injections -->",
        (ROOT / "docs/reliability.md").read_text(),
        re.DOTALL,
    )
    assert found is not None
    assert found.group(1).strip() == table(record)
