"""Benchmarks run; their figures are for machines left in peace, not for tests."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    _peers,
    _targets,
    block,
    folding,
    layer,
    precise,
    scale,
    startup,
    sync,
    training,
    variants,
)
from benchmarks.__main__ import main
from jaxbn.training._files import write_json


@pytest.fixture(autouse=True)
def as_peers_do():
    with jax.numpy_rank_promotion("allow"):
        yield


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


SMALL = {
    layer: {"SHAPES": ((4, 3, 3, 4),), "LAYERS": 1},
    variants: {"SHAPES": ((32, 32),), "LAYERS": 1},
    block: {"SHAPE": (2, 4, 4, 4), "DEPTH": 2, "MODELS": {}},
    precise: {"MODELS": {"mlp": (8, 8, 1)}, "BATCHES": 2, "SIZE": 4},
    folding: {"MODELS": {"mlp": (8, 8, 1)}, "SIZE": 4},
    scale: {
        "SIZES": (2**18, 2**19),
        "DEPTHS": (1, 2),
        "DEPTH_SIZE": (64, 4),
    },
    training: {"SETTINGS": {"mlp": (4, 16, (8, 8, 1))}, "CHUNKS": (2,)},
    startup: {"STARTS": {k: ["-c", "0"] for k in startup.STARTS}},
}


@pytest.mark.parametrize("module", SMALL, ids=lambda m: m.__name__.split(".")[-1])
def test_each_measures_and_tells_in_a_table(module, monkeypatch):
    for name, value in SMALL[module].items():
        monkeypatch.setattr(module, name, value)
    figures = json.loads(json.dumps(module.measure(repeats=1)))
    lines = module.table(figures).splitlines()
    assert lines[0].startswith("|") and lines[1].startswith("| ---")
    rows = [
        row for row in _targets.ROWS if f"benchmarks.{row.benchmark}" == module.__name__
    ]
    found = {row.what: row.figure(figures) for row in rows if not missing(row, module)}
    signed = ("slope", "beyond")
    assert all(f > 0 or any(s in what for s in signed) for what, f in found.items())
    assert np.isfinite(list(found.values())).all()


def missing(row, module):
    """Returns whether the small settings leave out what a target is about."""
    return any(peer in row.what for peer in ("ResNet", *_peers.missing()))


@pytest.mark.parametrize("shape", [(16, 3), (4, 3, 2, 3)])
def test_peers_compute_one_thing_and_the_bare_passes_have_its_gradients(shape):
    rng = np.random.default_rng(0)
    x, slope = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
    scale_, bias = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 1.0, 2.0])
    expected = layer.backward(_peers.ours, x, slope, scale_, bias)
    for name, norm in _peers.norms().items():
        if name == "equinox" and len(shape) > 2:
            continue  # Takes the numbers in another order.
        found = layer.backward(norm, x, slope, scale_, bias)
        for a, b in zip(*([y, *g] for y, g in (expected, found)), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4, err_msg=name)


def test_targets_are_met_as_they_are_printed():
    largest = _targets.Target("", "layer", 1.10, lambda figures: figures["ratio"])
    least = largest._replace(least=True)
    assert largest.met(1.104) and not largest.met(1.106)
    assert least.met(1.096) and not least.met(1.09)


def test_the_table_has_the_median_of_the_runs(monkeypatch):
    row = _targets.Target("layer", "layer", 1.10, lambda figures: figures["ratio"])
    monkeypatch.setattr(_targets, "ROWS", (row,))
    table = _targets.table({"layer": [{"ratio": r} for r in (3.0, 1.0, 1.05)]})
    assert (
        table.splitlines()[-1] == "| layer | <= 1.10 | 1.05 | 3.00, 1.00, 1.05 | yes |"
    )


def test_the_command_lists_and_reads_what_lies_in_a_folder(
    tmp_path, monkeypatch, capsys
):
    def command(*flags):
        monkeypatch.setattr(sys, "argv", ["benchmarks", *flags])
        main()
        return capsys.readouterr().out

    assert {"layer", "block", "sync"} <= {
        line.split()[0] for line in command().splitlines()
    }
    with pytest.raises(SystemExit, match="2"):
        command("lair")
    assert "expected some of block" in capsys.readouterr().err
    write_json(tmp_path / "startup-1.json", {"beyond jax": 0.1})
    done = command("--out", str(tmp_path))
    assert "| import jaxbn beyond jax, s | <= 0.15 | 0.10 | 0.10 | yes |" in done
    assert (tmp_path / "targets.md").read_text().startswith("| what | target |")
