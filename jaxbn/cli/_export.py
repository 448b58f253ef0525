"""`jaxbn export`: a trained run as one file."""

from pathlib import Path
from typing import Annotated

import tyro


def export(
    run: Annotated[Path, tyro.conf.Positional],
    target: Annotated[Path, tyro.conf.Positional],
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu"),
    folded: bool = True,
    norm: str | None = None,
) -> None:
    """Writes a trained network, its statistics and preprocessing, as StableHLO.

    The file takes batches of any size, of inputs as the data set has them (uint8
    images), and is read by jax.export.deserialize without jaxbn.
    Example: jaxbn export runs/digits digits.stablehlo

    Args:
        run: The workdir of a run of train.py.
        target: The file to write.
        platforms: That it is to run on: cpu, cuda, rocm, tpu.
        folded: Fold batch norms into the layers before them first.
        norm: Which of the norms of the run; the first by default.
    """
    from jaxbn.training import export_trained, load_trained
    from jaxbn.training._files import write_whole

    trained = load_trained(run, norm=norm)
    exported = export_trained(trained, platforms=platforms, folded=folded)
    write_whole(target, lambda path: path.write_bytes(exported.serialize()))
    shape = ", ".join(map(str, exported.in_avals[0].shape))
    print(
        f"{target}: [{shape}] {exported.in_avals[0].dtype} in, for "
        f"{', '.join(exported.platforms)}; {target.stat().st_size / 1e6:.1f} MB"
    )
