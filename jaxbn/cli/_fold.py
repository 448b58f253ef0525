"""`jaxbn fold`: a trained run without its batch norms."""

from pathlib import Path
from typing import Annotated

import tyro


def fold(
    run: Annotated[Path, tyro.conf.Positional],
    target: Annotated[Path, tyro.conf.Positional],
    norm: str | None = None,
) -> None:
    """Folds the batch norms of a run into the layers before them; writes the weights.

    The outputs before and after are compared on random inputs. jaxbn export folds too.
    Example: jaxbn fold runs/digits folded.safetensors

    Args:
        run: The workdir of a run of train.py.
        target: The safetensors file to write, with Flax's names.
        norm: Which of the norms of the run; the first by default.
    """
    from jaxbn.cli._read import write_safetensors
    from jaxbn.training import fold_trained, load_trained

    trained = load_trained(run, norm=norm)
    folded = fold_trained(trained)
    metadata = {"model": trained.config.model, "format": "np"}
    write_safetensors(target, folded.variables, metadata)
    for pair in folded.pairs:
        print(f"{pair.norm} folded into {pair.layer}")
    for path, reason in folded.refused.items():
        print(f"{path} stays: {reason}")
    before, after = folded.num_params
    print(
        f"{target}: {before:,} numbers before, {after:,} after; outputs differ by at "
        f"most {folded.error:.1e} of the largest"
    )
