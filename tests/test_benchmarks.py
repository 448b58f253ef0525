"""Benchmarks run; their figures are for machines left in peace, not for tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import sync


def test_sync_counts_collectives_as_it_says(monkeypatch):
    monkeypatch.setattr(sync, "SHAPE", (2, 2, 2, 4))
    found = sync.measure_on(2, repeats=1)
    assert {name: row["collectives_a_layer"] for name, row in found.items()} == {
        "jaxbn": 2,
        "flax": 2,
        "flax, exact variance": 4,
    }
    assert all(row["median_ms"] > 0 for row in found.values())


def test_slots_grow_with_the_devices_and_sums_do_not():
    small, large = sync.moved(8, 64), sync.moved(256, 64)
    assert large[0] > 30 * small[0]
    assert large[1] < 1.2 * small[1]
