"""Fine-tuning on shifted data: the table of docs/guides/fine_tuning.md.

    python -m tests.finetuning --data_dir DIR --write

A ResNet-8 is trained on USPS and meets MNIST: as it is, with statistics of MNIST, and
fine-tuned on a few labels with each `--freeze`.
"""

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path

import numpy as np

from jaxbn import adaptive_norm
from jaxbn.data import load
from jaxbn.models import create_model
from jaxbn.population import precise_batch_stats
from jaxbn.training import TrainConfig, fit, load_trained

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "fine_tuning.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
FREEZE = ("nothing", "statistics", "all_but_affine", "all_but_head")
WORDS = {
    "frozen": "none: the running statistics of USPS",
    "precise": "none: precise statistics of the {few} images, without labels",
    "adapted": "none: `adaptive_norm(prior_count=16)`, test batches of 100",
    "nothing": "`--freeze=nothing`",
    "statistics": "`--freeze=statistics`",
    "all_but_affine": "`--freeze=all_but_affine`",
    "all_but_head": "`--freeze=all_but_head`",
    "scratch": "from scratch, without USPS",
}


def accuracies(folder, config, few, epochs):
    """Returns the test accuracy on MNIST in percent, by what was done.

    Args:
        folder: for the runs.
        config: of the run on USPS.
        few: labelled images of MNIST.
        epochs: of fine-tuning.
    """
    fit(dataclasses.replace(config, workdir=str(folder / "source")))
    source = load_trained(folder / "source")
    mnist = load(
        "mnist", data_dir=config.data_dir, train_limit=few, test_limit=config.test_limit
    )
    test, train = mnist.test, mnist.train
    net = create_model(config.model, 10, adaptive_norm(prior_count=16))
    precise, _ = precise_batch_stats(
        source.model,
        source.variables,
        [source.arguments(train.inputs[i : i + 128])[0][0] for i in range(0, few, 128)],
        call=lambda x: ((x, True), {}),
    )

    def score(model, variables):
        logits = [
            model.apply(variables, *source.arguments(test.inputs[i : i + 100])[0])
            for i in range(0, len(test.labels), 100)
        ]
        found = np.argmax(np.concatenate(logits), -1)
        return 100 * float(np.mean(found == test.labels))

    adapted = {**source.variables, "batch_stats": precise}
    found = {
        "frozen": score(source.model, source.variables),
        "precise": score(source.model, adapted),
        "adapted": score(net, source.variables),
    }
    tune = dataclasses.replace(
        config,
        dataset="mnist",
        train_limit=few,
        num_epochs=epochs,
        batch_size=32,
        learning_rate=0.01,
        init_from=str(folder / "source"),
    )
    runs = {name: {"freeze": name} for name in FREEZE}
    runs["scratch"] = {"init_from": None, "learning_rate": 0.05}
    for name, options in runs.items():
        workdir = str(folder / name)
        summary = fit(dataclasses.replace(tune, workdir=workdir, **options))
        found[name] = 100 * summary["final"]["batch"]["test_accuracy"]
    return found


def table(rows, few):
    """Returns Markdown: mean and standard deviation over the seeds."""
    lines = ["| training on MNIST | test accuracy on MNIST, % |", "|---|---|"]
    for name, words in WORDS.items():
        values = [row[name] for row in rows]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        mean = statistics.mean(values)
        lines.append(f"| {words.format(few=few)} | {mean:.1f} ± {spread:.1f} |")
    return "\n".join(lines) + "\n"


def main():
    """Runs all seeds, and prints the table or writes it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--few", type=int, default=256)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    rows = []
    for seed in range(given.seeds):
        config = TrainConfig(
            dataset="usps", data_dir=given.data_dir, model="resnet8", norm="batch",
            test_limit=1000, batch_size=64, num_epochs=4, eval_every=100, seed=seed,
            precise_num_samples=256,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            rows.append(accuracies(Path(folder), config, given.few, epochs=8))
        print(rows[-1], flush=True)
    text = table(rows, given.few)
    print(text)
    if given.write:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
