"""`jaxbn convert`: weights between PyTorch's names and Flax's."""

from pathlib import Path
from typing import Annotated, Literal

import tyro


def convert(
    source: Annotated[Path, tyro.conf.Positional],
    target: Annotated[Path, tyro.conf.Positional],
    model: str | None = None,
    to: Literal["flax", "torch"] = "flax",
    norm: str | None = None,
) -> None:
    """Writes the weights of a file or a run under the names of the other side.

    Example: jaxbn convert resnet50.safetensors flax.safetensors --model=resnet50

    Args:
        source: A safetensors file, or the workdir of a run.
        target: The safetensors file to write.
        model: Its architecture, such as resnet50; that of the run by default.
        to: flax, names such as params/stem/kernel; or torch, torchvision's and timm's.
        norm: Which of the norms of a run; the first by default.
    """
    from flax import traverse_util

    from jaxbn.cli._read import write_safetensors
    from jaxbn.models import dump_torch
    from jaxbn.models._safetensors import read_weights
    from jaxbn.training import load_trained

    if source.is_dir():
        run = load_trained(source, norm=norm)
        model, variables = model or run.config.model, run.variables
    elif model is None:
        raise ValueError("--model is needed for a file, such as --model=resnet50")
    else:
        variables = traverse_util.unflatten_dict(read_weights(source, model))
    tree = dump_torch(model, variables) if to == "torch" else variables
    write_safetensors(target, tree, {"model": model, "format": "np"})
    print(f"{target}: {model}, {to}'s names")
