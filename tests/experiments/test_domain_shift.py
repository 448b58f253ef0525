"""Shift between training and test: arms at smoke size, verdicts by their criteria."""

import numpy as np
from committed import test_committed_form as test_committed_form

from jaxbn.data import CORRUPTIONS, Split
from jaxbn.experiments import figure_png
from jaxbn.experiments.claims._domain_shift import SIZES, SOURCES, verdicts
from jaxbn.experiments.claims._shifted import held_out


def test_every_corruption_is_tested_with_every_statistics(result):
    for kind in CORRUPTIONS:
        for name in SOURCES:
            assert result.numbers[kind][name].shape == (2, 5)
    assert len(result.rows) == 1 + 5 * len(CORRUPTIONS)
    assert set(result.numbers["clean"]) == {*SOURCES, "of contrast"}
    assert "usps" not in result.numbers


def test_target_statistics_undo_what_is_affine(result):
    clean = result.numbers["clean"]["target"]
    for kind in ("contrast", "gain"):
        found = result.numbers[kind]
        np.testing.assert_allclose(found["target"][:, 3], clean, atol=2)
        assert found["source"][:, 4].mean() > found["target"][:, 4].mean() + 20


def test_the_figure_is_light(result):
    picture = figure_png(result)
    assert picture.startswith(b"\x89PNG") and len(picture) < 100_000


def made_up(gain, loss, inverted):
    few = np.full((5, 1), 2.0) + np.arange(5)[:, None] / 100
    base = {"source": few.repeat(5, 1), "target": few.repeat(5, 1)}
    contrast = {"source": base["target"] + gain, "target": base["target"]}
    clean = {"source": few[:, 0], "target": few[:, 0] + 0.1}
    clean["of contrast"] = few[:, 0] + loss
    better, worse = few.repeat(3, 1), few.repeat(3, 1) + np.array([[5.0, 1.0, 0.1]])
    mixing = {
        "noise": {"0": worse, "16": better},
        "contrast": {"0": better, "16": better + 40},
    }
    inversion = {"target": few.repeat(5, 1) + inverted}
    found = {"clean": clean, "contrast": contrast, "inversion": inversion}
    found |= {"noise": contrast, "mixing": mixing, "batches": (8, 32, 128)}
    return {**found, "usps": {"source": few[:, 0] + loss, "target": few[:, 0]}}


def test_verdicts_follow_their_criteria():
    assert all(v.held for v in verdicts(made_up(60, 40, 90)))
    held = [v.held for v in verdicts(made_up(0.5, -1, 10))]
    assert held == [False, False, False, True, True, True, False, False]
    found = made_up(60, 40, 90)
    found["clean"]["target"] = found["clean"]["source"] + 0.4
    found["mixing"]["contrast"]["0"] = found["mixing"]["contrast"]["16"] - 9
    for gap in (0.4, 4.6):  # Too little for n = 8, too much for n = 128.
        found["mixing"]["noise"]["0"] = found["mixing"]["noise"]["16"] + gap
        held = [v.held for v in verdicts(found)]
        assert held == [True, True, True, False, False, False, True, True]


def test_a_seed_that_reads_inverted_images_leaves_it_open():
    found = made_up(60, 40, 60)
    assert verdicts(found)[6].held
    found["inversion"]["target"] = found["inversion"]["target"].copy()
    found["inversion"]["target"][0] = 5.0
    assert not verdicts(found)[6].held


def test_no_test_image_is_left_over_from_batches():
    split = Split(np.arange(500.0).reshape(500, 1), np.arange(500))
    rest = held_out(split, SIZES["smoke"])
    np.testing.assert_array_equal(rest.labels, np.arange(128, 128 + 352))
    rest = held_out(split, SIZES["smoke"]._replace(batches=(8, 128)))
    np.testing.assert_array_equal(rest.inputs[:, 0], np.arange(128, 128 + 256))
