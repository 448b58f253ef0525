"""The central curves on a residual net: trained, resumed, judged and drawn."""

import json

import numpy as np
import pytest
from committed import DOCS, compare

from jaxbn.experiments import Settings, figure_png
from jaxbn.experiments._numbers import as_plain, restored
from jaxbn.experiments._results import as_table
from jaxbn.experiments.claims._residual_claims import errors_of, verdicts
from jaxbn.experiments.claims._residual_measures import CORRUPTIONS, kept
from jaxbn.experiments.claims._residual_net import SIZES, measure, show
from jaxbn.experiments.claims._residual_training import Task

SIZE = SIZES["smoke"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("residual_net")
    return Settings(workdir=str(folder), size="smoke", seeds=2, first_seed=3)


@pytest.fixture(scope="module")
def found(settings):
    return measure(settings)


def test_smoke(found):
    sizes, epochs = len(SIZE.sizes), SIZE.epochs
    for key in ("train_mb", "train_pop", "val_pop", "frozen"):
        assert found[key].shape == (2, sizes)
    assert found["val_mb"].shape == (2, sizes, sizes)
    assert found["batches"] == (64, 256)
    for arm in found["averages"].values():
        assert arm["moving"].shape == arm["precise"].shape == (2, epochs)
    assert found["shift"]["noise"]["target"].shape == (2,)
    # Chance is 90 %, and two seeds are two nets.
    assert (found["train_pop"][:, -1] < 82).all()
    assert (np.ptp(found["val_mb"].reshape(2, -1), 0) > 0).any()
    # The last point of a curve is the error of the trained net.
    middle = SIZE.sizes.index(SIZE.middle)
    last = found["averages"]["64"]["precise"][:, -1]
    np.testing.assert_array_equal(last, found["val_pop"][:, middle])


def test_committed_form(found):
    result = show(restored(as_plain(found)))
    claims = [verdict.claim for verdict in result.verdicts]
    compare("residual_net", as_table(result), claims, as_plain(found))


def test_the_page_of_the_papers_figures_has_the_committed_errors():
    numbers = json.loads((DOCS / "residual_net" / "results.json").read_text())
    found = restored(numbers["numbers"])
    errors = errors_of(found)
    arms, shift = found["averages"]["1024"], found["shift"]

    def said(values):
        return [f"{value:.1f}" for value in np.mean(values, 0)]

    def pair(a, b):
        return f"{np.mean(a):.1f} and {np.mean(b):.1f} %"

    both = [(shift[kind]["source"], shift[kind]["target"]) for kind in CORRUPTIONS]
    expected = [
        f"{', '.join(said(errors['val_pop']))} % at NBS",
        f"{', '.join(said(errors['val_mb']))} % at NBS",
        pair(errors["frozen"][:, 0], errors["frozen"][:, -1]),
        pair(arms["moving"][:, :3], arms["precise"][:, :3]),
        pair(arms["moving"][:, -1], arms["precise"][:, -1]),
        *(pair(*each) for each in both[:2]),
    ]
    page = (DOCS / "paper_figures.md").read_text()
    assert [each for each in expected if each not in page] == []


def test_a_second_call_trains_nothing(found, settings, monkeypatch):
    def refuse(task, seeds):
        raise AssertionError(f"starts the seeds {seeds}")

    monkeypatch.setattr(Task, "start", refuse)
    assert as_plain(measure(settings)) == as_plain(found)
    more = Settings(workdir=settings.workdir, size="smoke", seeds=3, first_seed=3)
    with pytest.raises(AssertionError, match=r"starts the seeds .*5\]"):
        measure(more)


def test_an_arm_is_kept_with_its_facts(tmp_path):
    calls = []

    def find():
        calls.append(1)
        return {"error": np.array([1.5, np.nan]), "curve": {"a": np.eye(2)}}

    facts = {"arm": "nbs-2", "epochs": 5}
    first = kept(tmp_path, facts, (0, 1), find)
    np.testing.assert_equal(kept(tmp_path, facts, (0, 1), find), first)
    assert first[0]["error"] == 1.5 and np.isnan(first[1]["error"])
    assert first[1]["curve"]["a"].tolist() == [0, 1]
    assert len(calls) == 1
    kept(tmp_path, {**facts, "epochs": 6}, (0, 1), find)
    assert len(calls) == 2
    kept(None, facts, (0, 1), find)
    assert len(calls) == 3
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["nbs-2-seed-0.json", "nbs-2-seed-1.json"]
    assert json.loads((tmp_path / files[0]).read_text())["facts"]["epochs"] == 6


def test_show_reads_what_was_written(found):
    result = show(restored(as_plain(found)))
    assert all(len(row) == len(result.columns) for row in result.rows)
    png = figure_png(result)
    assert png.startswith(b"\x89PNG") and len(png) < 100_000


def made_up(train, own, pop, frozen, foreign, lag, end, shift):
    spread = np.linspace(-0.05, 0.05, 5)

    def values(*each):
        return np.add.outer(spread, np.asarray(each, float))

    def arm(early, late):
        precise = values(50, 45, 40, 38, 36, 35)
        cost = values(early, early, 1, 1, 1, late)
        return {"moving": precise + cost, "precise": precise}

    tested = np.stack([values(own[0], 30, foreign[0]), values(30, own[1], 30)], 1)
    tested = np.concatenate([tested, values(foreign[1], 30, own[2])[:, None]], 1)
    source, target, wrong = shift
    clean = {"source": 20 + spread, "target": 20 + spread}
    changed = {"source": source + spread, "target": target + spread}
    return {
        "sizes": (2, 32, 256),
        "middle": 32,
        "batches": (256, 1024),
        "averages": {"256": arm(lag[0], 0), "1024": arm(lag[1], end)},
        "train_mb": values(*train),
        "train_pop": values(*train),
        "val_mb": tested,
        "val_pop": values(*pop),
        "frozen": values(*frozen),
        "shift": {
            "clean": {**clean, "of contrast": wrong + spread},
            "contrast": changed,
            "noise": changed,
        },
    }


GOOD = {
    "train": (16, 10, 8),
    "own": (26, 24.5, 25),
    "pop": (32, 23, 24),
    "frozen": (25, 24, 25),
    "foreign": (35, 40),
    "lag": (1, 8),
    "end": 0.5,
    "shift": (40, 30, 45),
}
CHANGES = {
    "train": ((8, 10, 8.5), {0, 1}),  # The gap shrinks with the training error.
    "own": ((34, 24, 23), {1, 3, 4}),
    "pop": ((32, 23, 22), {2}),
    "frozen": ((33, 24, 23), {7, 8}),
    "foreign": ((20, 40), {9}),
    "lag": ((1, -1), {5, 6}),
    "end": (9, {6}),
    "shift": ((30, 40, 15), {10, 11}),
}


def test_all_claims_hold_where_the_source_is_right():
    judged = verdicts(restored(as_plain(made_up(**GOOD))))
    assert [verdict.held for verdict in judged] == [True] * 12


@pytest.mark.parametrize("key", CHANGES)
def test_each_claim_follows_its_numbers(key):
    value, failing = CHANGES[key]
    judged = verdicts(made_up(**{**GOOD, key: value}))
    assert {i for i, verdict in enumerate(judged) if not verdict.held} == failing
