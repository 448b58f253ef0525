"""Weights of PyTorch's residual nets: logits and statistics as PyTorch has them."""

import json

import jax
import numpy as np
import pytest

from jaxbn import batch_norm
from jaxbn.models import create_model, dump_torch, load_torch, torch_shapes
from tests.models.torch_logits import MODELS, OUTPUTS, RECORD, SIZES, draw, images

CI = [("resnet18", SIZES[0]), ("resnet50", SIZES[0])]
KNOWN = json.loads(RECORD.read_text())["logits"]


def loaded(name):
    return load_torch(name, draw(torch_shapes(name, num_outputs=OUTPUTS)))


def both_modes(name, variables, x):
    model = create_model(name, OUTPUTS, batch_norm(momentum=0.9, unbiased=True))

    @jax.jit
    def run(variables, x):
        return model.apply(variables, x, False), model.apply(
            variables, x, True, mutable=["batch_stats"]
        )

    evaluated, (trained, updates) = run(variables, x)
    return evaluated, trained, updates["batch_stats"]


@pytest.mark.parametrize(("name", "size"), CI, ids=str)
def test_logits_and_statistics_are_those_of_torch(name, size):
    known = KNOWN[f"torchvision {name} {size[0]}x{size[1]}"]
    evaluated, trained, stats = both_modes(name, loaded(name), images(size))
    for logits, expected in ((evaluated, known["eval"]), (trained, known["train"])):
        expected = np.array(expected)
        bound = 1e-4 * max(1, np.abs(expected).max())
        np.testing.assert_allclose(logits, expected, rtol=0, atol=bound)
    total = sum(np.asarray(leaf, float).sum() for leaf in jax.tree.leaves(stats))
    np.testing.assert_allclose(total, known["sum_of_statistics"], rtol=1e-5)


@pytest.mark.parametrize(("library", "name"), MODELS)
def test_torch_itself_agrees_where_it_is_installed(library, name):
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")
    from tests.models.torch_logits import create, run

    model = create(name, library)
    variables = load_torch(name, model.float().state_dict())
    for size in SIZES:
        known = run(name, library, size)
        evaluated, trained, _ = both_modes(name, variables, images(size))
        for logits, mode in ((evaluated, "eval"), (trained, "train")):
            expected = np.array(known[mode])
            bound = 1e-4 * max(1, np.abs(expected).max())
            np.testing.assert_allclose(logits, expected, rtol=0, atol=bound)


@pytest.mark.parametrize(
    ("name", "arrays"),
    [("resnet18", 102), ("resnet34", 182), ("resnet50", 267)],
)
def test_names_and_their_number_are_those_of_torchvision(name, arrays):
    shapes = torch_shapes(name)
    assert len(shapes) == arrays
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer4.1.bn2.running_var"] == (512,)
    assert shapes["fc.weight"] == (1000, 2048 if arrays > 182 else 512)


def test_half_precision_and_prefixes_are_taken():
    arrays = draw(torch_shapes("resnet18", num_outputs=3))
    stored = {f"module.{k}": v.astype(np.float16) for k, v in arrays.items()}
    stored["module.bn1.num_batches_tracked"] = np.array(7)
    stored["optimizer.step"] = np.array(7)
    variables = load_torch("resnet18", stored, prefix="module.")
    head = variables["params"]["head"]["kernel"]
    assert head.dtype == np.float32
    np.testing.assert_array_equal(head, arrays["fc.weight"].T.astype(np.float16))


def test_dumped_weights_are_those_that_were_loaded():
    arrays = draw(torch_shapes("resnet18", num_outputs=3))
    there = dump_torch("resnet18", load_torch("resnet18", arrays))
    assert there.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(there[name], array)


def without(name):
    return lambda arrays: arrays.pop(name)


def renamed(arrays):
    arrays["layer9.0.conv1.weight"] = arrays.pop("layer1.0.conv1.weight")


def reshaped(arrays):
    arrays["conv1.weight"] = np.zeros((64, 1, 7, 7))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("fc.bias"), "state_dict lacks fc.bias; .* expected that of resnet18"),
        (renamed, r"lacks layer1.0.conv1.weight; has, unexpected, layer9.0.conv1"),
        (reshaped, r"conv1.weight \(64, 1, 7, 7\) instead of \(64, 3, 7, 7\)"),
        (dict.clear, r"lacks .* and 97 more; .* pass prefix= if its names have one"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    arrays = draw(torch_shapes("resnet18", num_outputs=3))
    change(arrays)
    with pytest.raises(ValueError, match=message):
        load_torch("resnet18", arrays)


def test_bad_arguments_are_refused():
    variables = loaded("resnet18")
    del variables["params"]["bn_stem"]
    with pytest.raises(ValueError, match=r"variables differ .* in params/bn_stem/bias"):
        dump_torch("resnet18", variables)
    with pytest.raises(ValueError, match="num_outputs is 0; expected 1 or more"):
        torch_shapes("resnet18", num_outputs=0)
    with pytest.raises(ValueError, match="name is 'resnet20', expected one of"):
        load_torch("resnet20", {})
    with pytest.raises(ValueError, match="state_dict is"):
        load_torch("resnet18", [1])
    with pytest.raises(ValueError, match="prefix is 3, expected the start of names"):
        load_torch("resnet18", {}, prefix=3)
