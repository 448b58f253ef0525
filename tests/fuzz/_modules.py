"""Calls of what is made of norms: pairs by their functions, Flax modules, models."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

import jaxbn
import jaxbn.linen
import jaxbn.nnx
from jaxbn import models

from ._arithmetic import MASK, OF_NORM, X
from ._judge import Entry

OVERRIDES = {
    "use_running_average": False,
    "update_stats": True,
    "axis_name": None,
    "axis_index_groups": None,
    "normalization_batch_size": None,
}
SAID = {
    "axis": ("mask", "num_features"),
    "num_features": ("params", "state", "shape"),
    "use_running_average": ("domain", "train"),
    "x": ("mask", "state", "params"),
    "params": ("scale",),
}
FUNCTIONS = ("scale_init", "bias_init")
IMAGES = np.ones((4, 8, 8, 2), np.float32)


def norms() -> dict[str, jaxbn.Norm]:
    plain = jaxbn.batch_norm()
    return {
        "batch_norm": plain,
        "adaptive_norm": jaxbn.adaptive_norm(),
        "batch_renorm": jaxbn.batch_renorm(warmup_steps=1, r_steps=2, d_steps=3),
        "domain_norm": jaxbn.domain_norm(2, plain, affine="per_domain"),
        "frozen_norm": jaxbn.frozen_norm(),
        "ghost_norm": jaxbn.ghost_norm(size=2),
        "group_norm": jaxbn.group_norm(3),
        "instance_norm": jaxbn.instance_norm(),
        "layer_norm": jaxbn.layer_norm(),
        "no_norm": jaxbn.no_norm(use_bias=True),
        "shuffled": jaxbn.shuffled(plain),
        "split_norm": jaxbn.split_norm(plain),
    }


def pairs() -> list[Entry]:
    """Returns entries for `init` and `apply` of each norm."""
    found = []
    for name, norm in norms().items():
        of_init = {"num_features": 3, "key": jax.random.key(0)}
        params, state = jax.tree.map(np.asarray, norm.init(3))
        of_apply = {"params": params, "state": state, "x": X, "train": True}
        of_apply |= {"mask": MASK, **OVERRIDES}
        if name in ("domain_norm", "split_norm"):
            of_apply["domain"] = np.zeros(4, np.int32)
        options: dict[str, Any] = {"traced": True, "said": SAID}
        found.append(Entry(f"jaxbn.{name}.init", norm.init, of_init, **options))
        found.append(Entry(f"jaxbn.{name}.apply", norm.apply, of_apply, **options))
    return found


OF_CALL = {"x": X, "use_running_average": False, "mask": MASK, "update_stats": True}


def of_linen(make: Callable[..., Any]) -> Callable[..., None]:
    """Returns a call of a layer and of its variables, arguments of both mixed."""

    def call(**given: Any) -> None:
        told = {name: given.pop(name) for name in OF_CALL}
        layer, x = make(**given), told.pop("x")
        variables = layer.init(jax.random.key(0), x, **told)
        layer.apply(variables, x, **told, mutable=["batch_stats"])

    return call


def of_nnx(make: Callable[..., Any]) -> Callable[..., None]:
    """Returns likewise for a layer of nnx."""

    def call(**given: Any) -> None:
        told = {name: given.pop(name) for name in OF_CALL}
        make(**given, rngs=nnx.Rngs(0))(told.pop("x"), **told)

    return call


def modules() -> list[Entry]:
    """Returns entries for the Flax modules."""
    norm = jaxbn.batch_norm()
    fields = {**OF_NORM, "use_fast_variance": True}
    options: dict[str, Any] = {"traced": True, "said": SAID, "functions": FUNCTIONS}
    options["whole"] = ("norm",)
    return [
        Entry(
            "jaxbn.linen.BatchNorm",
            of_linen(jaxbn.linen.BatchNorm),
            {**fields, "force_float32_reductions": True, **OF_CALL},
            **options,
        ),
        Entry(
            "jaxbn.linen.Norm",
            of_linen(jaxbn.linen.Norm),
            {"norm": norm, **OF_CALL},
            **options,
        ),
        Entry(
            "jaxbn.nnx.BatchNorm",
            of_nnx(jaxbn.nnx.BatchNorm),
            {"num_features": 3, **fields, **OF_CALL, "bias_metadata": {}},
            **options,
        ),
        Entry(
            "jaxbn.nnx.Norm",
            of_nnx(jaxbn.nnx.Norm),
            {"num_features": 3, "norm": norm, **OF_CALL},
            **options,
        ),
    ]


def of_model(make: Callable[..., Any]) -> Callable[..., None]:
    def call(**given: Any) -> None:
        names = ("x", "train", "mask", "domain")
        told = {name: given.pop(name) for name in names if name in given}
        make(**given).init(jax.random.key(0), **told)

    return call


def networks() -> list[Entry]:
    """Returns entries for `jaxbn.models`."""
    given = {"num_outputs": 3, "norm": jaxbn.batch_norm(), "dtype": "float32"}
    call = {"x": IMAGES, "train": True, "mask": np.ones(4, bool), "domain": None}
    kinds: dict[str, dict[str, Any]] = {
        "MLP": {"hidden": (4, 5)},
        "NarrowNet": {"hidden": (4, 5)},
        "ConvNet": {"features": (4, 5)},
        "ResNet": {
            "stages": (1, 1),
            "width": 4,
            "bottleneck": False,
            "large_images": False,
        },
    }
    found = [
        Entry(
            f"jaxbn.models.{name}",
            of_model(getattr(models, name)),
            {**given, **fields, **call},
            traced=True,
            whole=("norm",),
            said={
                "domain": ("batch_norm got", "bn_apply"),
                "mask": ("x ",),
                "x": ("mask",),
            },
        )
        for name, fields in kinds.items()
    ]
    create = of_model(models.create_model)
    options = {"name": "mlp", **given, "hidden": (4, 5), "x": IMAGES, "train": True}
    said = {"name": ("model is",)}
    found.append(
        Entry("jaxbn.models.create_model", create, options, traced=True, said=said)
    )
    found.append(Entry("jaxbn.models.model_names", models.model_names, {}))
    return found + weights_of_torch()


def weights_of_torch() -> list[Entry]:
    """Returns entries for what takes the weights of PyTorch's nets."""
    shapes = models.torch_shapes("resnet18", num_outputs=2)
    there = {name: np.broadcast_to(np.float32(1), shapes[name]) for name in shapes}
    here = models.load_torch("resnet18", there)
    load = {"name": "resnet18", "state_dict": there, "prefix": ""}
    dump = {"name": "resnet18", "variables": here}
    ask = {"name": "resnet18", "num_outputs": 2}
    return [
        Entry("jaxbn.models.torch_shapes", models.torch_shapes, ask),
        Entry(
            "jaxbn.models.load_torch",
            models.load_torch,
            load,
            fixed=("state_dict",),
            said={"prefix": ("state_dict",)},
        ),
        Entry("jaxbn.models.dump_torch", models.dump_torch, dump, fixed=("variables",)),
    ]


def entries() -> list[Entry]:
    """Returns entries for norms by their functions, modules and models."""
    return [*pairs(), *modules(), *networks()]
