"""The configuration: one frozen dataclass, which is also the flags of `train.py`."""

import dataclasses
from typing import Any, Literal

FREE_TO_CHANGE = frozenset(
    {
        *(
            "workdir",
            "data_dir",
            "resume",
            "keep",
            "on_nonfinite",
            "profile",
            "num_devices",
            "diagnose",
            "log_to",
        ),
        *("parallel", "coordinator_address", "num_processes", "process_id"),
    }
)
"""What a resumed run may change; everything else decides the numbers."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Trains a network with batch norm, and its twin without, on real images."""

    workdir: str | None = None
    """Where everything is written; runs/DATASET-MODEL-TIME by default."""
    dataset: str = "digits"
    """digits, regression, any TFDS image classification set by name, or image_folder
    (or image_folder/SUB), pictures in DATA_DIR[/SUB]/train/CLASS and val/CLASS; image
    sets of the same classes joined by +, such as mnist+usps, are trained on together.
    """
    data_dir: str | None = None
    """Where prepared TFDS sets lie, TFDS's own default if not given; or the pictures of
    image_folder."""
    image_size: int | None = None
    """Pictures of any size become images of so many pixels a side, such as 224, decoded
    while training goes on; for sets whose images have no common size."""
    train_limit: int | None = None
    """Train on the first so many examples only."""
    test_limit: int | None = None
    """Test on the first so many examples only."""
    model: str = "mlp"
    """mlp, narrow, convnet, resnet8, resnet20, or resnet18, 34, 50, 101 or 152."""
    init_from: str | None = None
    """Start from these parameters and running statistics: the folder of a run, or a
    safetensors file with the names of Flax or, for resnet18 to 152, of PyTorch. A head
    of another number of classes starts anew."""
    freeze: Literal["nothing", "statistics", "all_but_affine", "all_but_head"] = (
        "nothing"
    )
    """What stands still: the running statistics, by which norms then normalize in
    training too; all but the scale and bias of norms, and the head; or all but the
    head."""
    norm: str = "batch,none"
    """batch, renorm, adaptive, ghost, shuffled, split, domain (of sets joined by +),
    frozen, group, instance, layer, none, or several with commas: the same net is
    trained once with each, from the same weights on the same batches."""
    norm_options: tuple[str, ...] = ()
    """Options of these: ghost.size=8 renorm.warmup_steps=100 group.num_groups=4 ..."""
    batch_size: int = 32
    """Examples of one step, over all devices (the global batch)."""
    num_epochs: int = 20
    """Passes over the training set."""
    optimizer: Literal["sgd", "nesterov", "adam", "adamw", "lamb", "rmsprop"] = (
        "nesterov"
    )
    """The optimizer; sgd and nesterov use momentum."""
    learning_rate: float = 0.05
    """The peak of the schedule."""
    momentum: float = 0.9
    """Of the optimizer; that of batch norm is bn_momentum."""
    average_decay: float | None = None
    """Also score a moving average of the weights, with this weight of the old value:
    with the running statistics of the trained ones, and with its own precise ones."""
    weight_decay: float = 1e-4
    """Applied to weights; scales and biases are left alone."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """After the warm-up: a cosine to 0, tenfold steps at 1/3 and 2/3, or constant."""
    warmup_epochs: float = 1.0
    """The rate rises linearly for so many epochs."""
    label_smoothing: float = 0.0
    """Weight of the uniform distribution in the target."""
    augment: bool = False
    """Random crops and flips of the training images: with --image_size, 8 to 100 % of
    the picture; else, and of sets joined by +, all of it, shifted by up to 4 pixels."""
    normalization_batch_size: int | None = None
    """How many examples share a mean and a variance: from 1 (ghost batches in a device)
    over a device's share to groups of devices; all of the batch by default."""
    bn_momentum: float = 0.9
    """The weight of the old value in the running statistics."""
    bn_epsilon: float = 1e-5
    """Added to the variance."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters and statistics are float32."""
    seed: int = 0
    """Of the weights, the order of the examples and the augmentation."""
    diagnose: bool = False
    """At each evaluation compare what each norm holds with what it meets, and write
    diagnosis-NORM.txt and .png."""
    eval_every: int = 1
    """Epochs between evaluations; the last epoch always has one."""
    eval_stats: Literal["ema", "precise", "batch"] = "ema"
    """Which statistics decide what the best checkpoint is: the running ones, precise
    ones, or those of each test batch. All three are reported."""
    precise_num_samples: int = 10_000
    """Training examples that the precise statistics are measured on."""
    checkpoint_every: int = 1
    """Epochs between checkpoints; the last epoch, and one that is best, has one too."""
    on_nonfinite: Literal["stop", "skip", "warn"] = "stop"
    """What to do about a step whose loss is not finite, or what it makes of parameters,
    optimizer or statistics: end the training with that norm, saying where it came
    from, and the run with code 3; leave that step out; or take it all the same, without
    saving what is not finite."""
    keep: int = 2
    """How many of the newest checkpoints are kept, besides the best."""
    resume: bool = False
    """Go on from the newest checkpoint in workdir, bit for bit as if never stopped."""
    num_devices: int | None = None
    """How many devices, in all processes; all by default. A CPU is split into them."""
    parallel: Literal["auto", "jit", "shard_map", "pmap"] = "auto"
    """How several devices share a batch; auto is jit for one device, pmap for more."""
    coordinator_address: str | None = None
    """HOST:PORT of process 0, where several processes train together; the three flags
    are not needed on clusters that JAX knows (Slurm, Open MPI, Cloud TPU)."""
    num_processes: int | None = None
    """How many processes train together."""
    process_id: int | None = None
    """Which of them this one is, from 0."""
    log_to: str = "tensorboard"
    """Where metrics go besides metrics.jsonl and metrics.csv: tensorboard (event files
    in workdir), wandb (Weights & Biases, pip install wandb), both with a comma, or
    none."""
    profile: bool = False
    """Write a trace of the second epoch to workdir/profile."""

    @property
    def norms(self) -> tuple[str, ...]:
        """The names in `norm`."""
        return tuple(name.strip() for name in self.norm.split(","))


class ConfigError(ValueError):
    """A configuration that cannot be run; `train.py` ends with code 2."""


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns the fields in which a resumed run may not differ but does, as text.

    One that `old` has not, of a version before there was such a flag, was its default.
    """
    old = {f.name: f.default for f in dataclasses.fields(TrainConfig)} | old
    names = sorted((set(old) | set(new)) - FREE_TO_CHANGE)
    return [
        f"{name} was {old.get(name)!r}, is {new.get(name)!r}"
        for name in names
        if old.get(name) != new.get(name)
    ]
