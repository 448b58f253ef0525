"""The command `jaxbn`: what it says, writes and refuses, on good and bad input."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export

import jaxbn
from jaxbn.cli import main
from jaxbn.cli._main import COMMANDS
from jaxbn.data import load
from jaxbn.training import TrainConfig, fit, load_trained
from tests.pictures import write_folder

pytestmark = pytest.mark.filterwarnings("ignore")  # orbax leaves event loops behind.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short run, of batch norm and of ghost batches."""
    folder = tmp_path_factory.mktemp("trained") / "w"
    limits = {"train_limit": 128, "test_limit": 50, "num_devices": 1}
    config = TrainConfig(
        workdir=str(folder),
        norm="batch,ghost,none",
        norm_options=("ghost.size=8",),
        num_epochs=2,
        **limits,
    )
    fit(config)
    return folder


def said(capsys, *arguments):
    """Returns code, output and errors of a command."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_help_names_every_command_and_needs_no_jax(capsys):
    code, out, _ = said(capsys, "--help")
    assert code == 0 and all(f"  {name} " in out for name in COMMANDS)
    assert said(capsys)[0] == 2
    assert said(capsys, "--version")[1] == f"jaxbn {jaxbn.__version__}\n"
    code = "import sys; from jaxbn.cli import main; main(sys.argv[1:])\n"
    code += "print(sorted({'jax', 'flax'} & set(sys.modules)))"
    command = [sys.executable, "-c", code, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"experiments"}))
def test_each_command_has_help_with_an_example(name, capsys):
    code, out, _ = said(capsys, name, "--help")
    assert code == 0
    assert f"usage: jaxbn {name}" in out
    assert name == "train" or f"Example: jaxbn {name}" in " ".join(out.split())


def test_unknown_commands_and_flags_end_with_2(capsys):
    code, _, err = said(capsys, "inspct")
    assert code == 2
    assert (
        err == f"jaxbn: 'inspct' is no command, expected one of {', '.join(COMMANDS)}\n"
    )
    assert said(capsys, "inspect", "x", "--norn=batch")[0] == 2


def test_inspect_shows_layers_of_a_run_and_of_a_file(run, tmp_path, capsys):
    code, out, _ = said(capsys, "inspect", run)
    assert code == 0
    assert "mlp, batch norm, step 8; momentum 0.9" in out
    assert [line.split()[:2] for line in out.splitlines()[2:]] == [
        ["bn1", "64"],
        ["bn2", "128"],
    ]
    code, out, _ = said(capsys, "inspect", run, "--norm=ghost", "--drift", "--json")
    found = json.loads(out)
    layer = load_trained(run, norm="ghost").variables["batch_stats"]["bn1"]
    row = found["layers"]["bn1"]
    assert row["largest_var"] == pytest.approx(float(layer["var"].max()))
    assert row["largest_mean"] == pytest.approx(float(abs(layer["mean"]).max()))
    assert 0 < row["drift"] < 1 and row["finite"] and not row["initial"]
    target = tmp_path / "weights.safetensors"
    assert said(capsys, "convert", run, target)[0] == 0
    assert "bn2    128" in said(capsys, "inspect", target)[1]


def test_dead_initial_and_broken_layers_are_shown(tmp_path, capsys):
    pytest.importorskip("safetensors")
    from safetensors.numpy import save_file

    fresh = {"mean": np.zeros(3), "var": np.ones(3)}
    dead = {"mean": np.ones(3), "var": np.array([1.0, 0.0, 2.0])}
    broken = {"mean": np.array([np.nan, 0, 0]), "var": np.ones(3)}
    layers = {"a": fresh, "b": dead, "c": broken}
    arrays = {
        f"batch_stats/{name}/{key}": value.astype(np.float32)
        for name, layer in layers.items()
        for key, value in layer.items()
    }
    arrays["params/b/scale"] = np.array([1, 1, 0], np.float32)
    save_file(arrays, tmp_path / "x.safetensors")
    rows = said(capsys, "inspect", tmp_path / "x.safetensors")[1].splitlines()
    assert rows[0].endswith("Flax's names; momentum unknown")
    assert rows[2].endswith("0, initial")
    assert rows[3].split()[-1] == "2"
    assert rows[4].endswith("0, not finite")


SERVE = """
import sys
import numpy as np
from jax import export

with open(sys.argv[1], "rb") as file:
    program = export.deserialize(file.read())
images = np.load(sys.argv[2])
for some in (images, images[:3]):
    print(np.asarray(program.call(some)).tolist())
print("jaxbn" in sys.modules)
"""


@pytest.mark.parametrize("folded", [True, False])
def test_an_exported_run_serves_without_jaxbn(run, folded, tmp_path, capsys):
    target = tmp_path / "digits.stablehlo"
    flag = "--folded" if folded else "--no-folded"
    code, out, err = said(capsys, "export", run, target, flag)
    assert code == 0, err
    assert "[b, 8, 8, 1] uint8 in, for cpu, cuda, tpu" in out
    images = load("digits").test.inputs[:5]
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", SERVE, str(target), str(tmp_path / "images.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *lists, ours = done.stdout.splitlines()
    trained = load_trained(run)
    expected = trained.predict(trained.variables, images)
    assert ours == "False"
    for text, size in zip(lists, (5, 3), strict=True):
        np.testing.assert_allclose(
            json.loads(text), expected[:size], rtol=1e-5, atol=1e-5
        )


def test_a_folded_run_has_no_norms_and_the_outputs_it_had(run, tmp_path, capsys):
    target = tmp_path / "folded.safetensors"
    code, out, err = said(capsys, "fold", run, target)
    assert code == 0, err
    assert "bn1 folded into dense1" in out and "outputs differ by at most" in out
    code, _, err = said(capsys, "inspect", target)
    assert (code, err) == (
        1,
        "jaxbn inspect: there is no batch norm with a mean and a variance in it\n",
    )


def test_a_net_with_domains_is_exported_with_the_domain_of_each(tmp_path, capsys):
    for name in ("a", "b"):
        write_folder(tmp_path / name)
    config = TrainConfig(
        workdir=str(tmp_path / "run"),
        dataset="image_folder/a+image_folder/b",
        data_dir=str(tmp_path),
        image_size=8,
        norm="domain",
        num_epochs=1,
        num_devices=1,
        log_to="none",
    )
    fit(config)
    code, out, err = said(capsys, "inspect", tmp_path / "run", "--drift")
    assert code == 0 and "drift" in out, err
    for flag in ("--folded", "--no-folded"):
        code, _, err = said(capsys, "export", tmp_path / "run", tmp_path / "x", flag)
        assert code == 0, err
        program = export.deserialize((tmp_path / "x").read_bytes())
        trained = load_trained(tmp_path / "run")
        for size in (6, 1):
            images = np.random.default_rng(0).integers(
                0, 256, (size, 8, 8, 3), np.uint8
            )
            domain = np.arange(size, dtype=np.int32) % 2
            expected = trained.predict(trained.variables, images, domain)
            found = program.call(images, domain)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        other = program.call(images, 1 - domain)
        assert np.abs(other - expected).max() > 1e-3


def test_a_net_without_norm_is_exported_too(run, tmp_path, capsys):
    code, _, err = said(capsys, "export", run, tmp_path / "x", "--norm=none")
    assert code == 0, err
    program = export.deserialize((tmp_path / "x").read_bytes())
    assert program.out_avals[0].shape[1] == 10


def test_resnets_go_to_pytorchs_names_and_back(tmp_path, capsys):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    from jaxbn.models import torch_shapes

    rng = np.random.default_rng(0)
    arrays = {
        name: rng.uniform(0.5, 1, shape).astype(np.float32)
        for name, shape in torch_shapes("resnet18", num_outputs=3).items()
    }
    theirs, ours, again = (tmp_path / f"{i}.safetensors" for i in range(3))
    save_file(arrays, theirs)
    assert said(capsys, "convert", theirs, ours, "--model=resnet18")[0] == 0
    flags = "--model=resnet18", "--to=torch"
    assert said(capsys, "convert", ours, again, *flags)[0] == 0
    from safetensors.numpy import load_file

    back = load_file(again)
    assert back.keys() == arrays.keys()
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect", "nowhere"], "nowhere is not there, expected the folder of a run"),
        (["inspect", "{run}", "--norm=group"], "norm is group, expected one of batch"),
        (["inspect", "{text}"], "is no safetensors file"),
        (["inspect", "{text}", "--drift"], "is no safetensors file"),
        (["convert", "{text}", "x"], "--model is needed for a file"),
        (
            ["convert", "{run}", "x", "--to=torch"],
            "name is mlp, expected one",
        ),
        (["fold", "nowhere", "x"], "workdir is nowhere, which has no config.json"),
        (["export", "{run}", "x", "--platforms", "gpu"], "expected some of cpu, cuda"),
        (["export", "{run}", "nowhere/a/\0"], "embedded null byte"),
    ],
)
def test_bad_input_ends_in_one_line(
    arguments, words, run, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "text"
    text.write_text("no weights")
    given = [
        a.replace("{run}", str(run)).replace("{text}", str(text)) for a in arguments
    ]
    code, out, err = said(capsys, *given)
    assert code == 1, (out, err)
    assert err.count("\n") == 1 and err.startswith(f"jaxbn {arguments[0]}: ")
    assert words in err.replace("'", "")


def test_names_that_are_no_tree_are_refused(tmp_path, capsys):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    save_file({"a/b": np.ones(2), "a": np.ones(2)}, tmp_path / "x.safetensors")
    code, _, err = said(capsys, "inspect", tmp_path / "x.safetensors")
    assert code == 1 and "'a' is an array, and there are others below it" in err


def test_doctor_says_what_there_is_and_what_is_missing(tmp_path, capsys, monkeypatch):
    from jaxbn.cli import _doctor

    prepared = tmp_path / "mnist" / "3.0.1"
    prepared.mkdir(parents=True)
    (prepared / "features.json").write_text("{}")
    code, out, _ = said(capsys, "doctor", "--json", f"--data_dir={tmp_path}")
    found = json.loads(out)
    assert code == 0
    assert found["packages"]["jax"] == jax.__version__
    assert found["data sets"] == ["digits", "regression", "mnist"]
    assert any("cpu" in device for device in found["devices"])
    lacking = {**_doctor.PARTS, "chess": ("no-such-package",)}
    monkeypatch.setattr(_doctor, "PARTS", lacking)
    _, out, _ = said(capsys, "doctor")
    assert "missing    no-such-package: no chess; pip install 'jaxbn[train]'" in out
    monkeypatch.setattr(_doctor, "PACKAGES", ("jax", "no-such-package"))
    code, out, _ = said(capsys, "doctor")
    assert code == 1 and "no-such-package missing" in out
