"""Benchmarks run; their figures are for machines left in peace, not for tests."""

import argparse
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    _networks,
    _peers,
    _step,
    _targets,
    accelerator,
    block,
    checks,
    folding,
    layer,
    precise,
    program,
    scale,
    startup,
    sync,
    training,
    variants,
)
from benchmarks.__main__ import flags, main
from benchmarks._alone import run_alone
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
    layer: {"SHAPES": ((4, 3, 3, 4),), "LAYERS": 1, "WEIGHED": ((4, 3, 3, 4),)},
    variants: {"SHAPES": ((32, 32), (32, 2, 2, 32)), "LAYERS": 1},
    program: {
        "RESNET": {"stages": (1,), "width": 4},
        "SHAPE": (2, 4, 4, 4),
        "DEPTH": 2,
    },
    block: {"SHAPE": (2, 4, 4, 4), "DEPTH": 2, "MODELS": {}},
    precise: {"MODELS": {"mlp": (8, 8, 1)}, "BATCHES": 2, "SIZE": 4},
    folding: {"INPUTS": {"mlp": [(4, 8, 8, 1)]}},
    scale: {
        "SIZES": (2**18, 2**19),
        "DEPTHS": (1, 2),
        "DEPTH_SIZE": (64, 4),
    },
    training: {"SETTINGS": {"mlp": (4, 16, (8, 8, 1))}, "CHUNKS": (2,)},
    checks: {"SETTINGS": {"mlp": (4, 16, (8, 8, 1))}, "MEGABYTES": (1,)},
    startup: {"STARTS": {k: ["-c", "0"] for k in startup.STARTS}},
}


@pytest.fixture
def baseline(tmp_path, monkeypatch):
    """A folder with an earlier build, which is this one under the name of that."""
    package = tmp_path / "jaxbn_old"
    package.mkdir()
    (package / "__init__.py").write_text("from jaxbn import bn_apply, bn_init")
    (package / "linen.py").write_text("from jaxbn.linen import BatchNorm")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield str(tmp_path)
    for name in ("jaxbn_old", "jaxbn_old.linen"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("module", SMALL, ids=lambda m: m.__name__.split(".")[-1])
def test_each_measures_and_tells_in_a_table(module, monkeypatch, baseline):
    for name, value in SMALL[module].items():
        monkeypatch.setattr(module, name, value)
    earlier = module in (layer, program)
    options = {"baseline": baseline} if earlier else {}
    figures = json.loads(json.dumps(module.measure(repeats=1, **options)))
    lines = module.table(figures).splitlines()
    assert (_peers.BEFORE in module.table(figures)) == earlier
    assert lines[0].startswith("|") and lines[1].startswith("| ---")
    rows = [
        row for row in _targets.ROWS if f"benchmarks.{row.benchmark}" == module.__name__
    ]
    found = {row.what: row.figure(figures) for row in rows if not missing(row)}
    signed = ("slope", "beyond", "stored")
    assert all(f > 0 or any(s in what for s in signed) for what, f in found.items())
    assert np.isfinite(list(found.values())).all()


def missing(row):
    """Returns whether a target is about a peer that is left out."""
    return any(peer in row.what for peer in _peers.missing())


def test_a_program_is_as_long_as_it_says():
    def loss(x):
        return jnp.sum(jnp.sin(x) * 2), x

    found = program.once(loss, (jax.ShapeDtypeStruct((4,), jnp.float32),))
    text = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(jnp.ones(4)).as_text()
    assert found["lines"] == text.count("\n")
    operations = [line for line in text.splitlines() if " stablehlo." in line]
    assert (
        len(operations) <= found["operations"] <= len(operations) + 1
    )  # and "applies"
    assert min(found["trace_s"], found["lower_s"], found["compile_s"]) > 0


def test_layers_of_the_networks_compute_one_thing():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    layers = _networks.linen_layers().items()
    models = {k: _networks.ResNet(v, 4, stages=(1, 1)) for k, v in layers}
    given = _step.filled(_networks.variables(models["flax"], x))
    found = {
        k: jax.jit(_networks.training_loss(v))(*given, x) for k, v in models.items()
    }
    for each in found.values():
        for a, b in zip(*map(jax.tree.leaves, (each, found["flax"])), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_an_accelerator_is_asked_all_there_is_to_ask():
    found = accelerator.measure(repeats=1, seconds=600, size="smoke")
    found = json.loads(json.dumps(found))
    table = accelerator.table(found)
    assert set(accelerator.SECTIONS) < set(found) and found["left out"] == []
    assert all(found[name] for name in accelerator.SECTIONS)
    assert found["versions"]["jax"] == jax.__version__
    assert "| copy rate |" in table and "| ghost, 32 |" in table
    assert all(row["images_s"] > 0 for row in found["ResNet-50"].values())


def test_what_there_is_no_time_for_is_named():
    found = accelerator.measure(repeats=1, seconds=0, size="smoke")
    table = accelerator.table(found)
    assert found["copy_tb_s"] > 0 and not any(found[k] for k in accelerator.SECTIONS)
    assert "Left out, past the time: bfloat16 (8, 2, 2, 32); " in table
    assert "ResNet-50, flax" in table


def test_without_an_accelerator_it_says_so_and_writes_nothing(
    tmp_path, monkeypatch, capsys
):
    path = tmp_path / "accelerator-1.json"
    monkeypatch.setattr(sys, "argv", ["accelerator", "--json", str(path)])
    run_alone(accelerator.measure, accelerator.table, accelerator.__doc__)
    assert capsys.readouterr().out.count("\n") == 1 and not path.exists()


def test_flags_go_to_those_who_know_them():
    given = argparse.Namespace(repeats=2, data_dir=None, baseline="old", seconds=9)
    assert flags("layer", given) == ["--repeats", "2", "--baseline", "old"]
    assert flags("accelerator", given) == ["--repeats", "2", "--seconds", "9"]
    assert flags("training", given) == ["--repeats", "2"]


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
    assert "expected some of accelerator" in capsys.readouterr().err
    write_json(tmp_path / "startup-1.json", {"beyond jax": 0.1})
    done = command("--out", str(tmp_path))
    assert "| import jaxbn beyond jax, s | <= 0.15 | 0.10 | 0.10 | yes |" in done
    assert (tmp_path / "targets.md").read_text().startswith("| what | target |")
