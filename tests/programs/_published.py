"""The programs: where each is from, and how it is made small and trained."""

import functools
from types import ModuleType, SimpleNamespace

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from tests.programs._change import Program, Source
from tests.programs._fit import (
    RATE,
    STEPS,
    Curve,
    Tree,
    draw,
    fit_linen,
    fit_nnx,
    squares,
    statistics_of,
)

# Programs that bring a step of their own.


def train_imagenet(module: ModuleType, half: bool = False) -> Curve:
    """Its own state, schedule, step and evaluation, on two devices by pmap."""
    sizes = {"num_filters": 8, "stage_sizes": [1, 1]}
    smaller = functools.partial(module.models.ResNet18, **sizes)
    model = module.create_model(model_cls=smaller, half_precision=half)
    options = {"momentum": 0.9, "warmup_epochs": 1, "num_epochs": 4}
    config = SimpleNamespace(half_precision=half, **options)
    schedule = module.create_learning_rate_fn(config, RATE, STEPS // 4)
    state = module.create_train_state(jax.random.key(0), config, model, 32, schedule)
    axes = {"in_axes": (None, 0), "axis_name": "batch", "devices": jax.devices()[:2]}
    step = functools.partial(module.train_step, learning_rate_fn=schedule)
    step = jax.pmap(step, out_axes=(None, 0), **axes)
    losses = []
    for x, y in draw((16, 32, 32, 3), 1000):
        x = x.reshape(2, 8, 32, 32, 3).astype(model.dtype)
        batch = {"image": x, "label": y.reshape(2, 8)}
        state, metrics = step(state, batch)
        losses.append(metrics["loss"][0])
    losses.append(jax.pmap(module.eval_step, **axes)(state, batch)["loss"][0])
    return Curve(np.asarray(losses, np.float64), state.batch_stats)


def train_mnist(module: ModuleType) -> Curve:
    """Its own step and evaluation, with its dropout."""
    model, rngs = module.CNN(rngs=nnx.Rngs(0)), nnx.Rngs(0)
    optimizer = nnx.Optimizer(model, optax.sgd(RATE, momentum=0.9), wrt=nnx.Param)
    metrics = nnx.MultiMetric(loss=nnx.metrics.Average("loss"))
    losses = []
    model.train()
    for x, y in draw((16, 28, 28, 1), 10):
        batch = {"image": x, "label": y}
        module.train_step(model, optimizer, metrics, batch, rngs)
        losses.append(metrics.compute()["loss"])
        metrics.reset()
    model.eval()
    module.eval_step(model, metrics, batch)
    losses.append(metrics.compute()["loss"])
    return Curve(np.asarray(losses, np.float64), statistics_of(model))


@flax.struct.dataclass
class OldOptimizer:
    """What the GAN uses of `flax.optim`, which Flax no longer has."""

    target: Tree
    memory: Tree

    @classmethod
    def create(cls, target: Tree, memory: Tree = None) -> "OldOptimizer":
        return cls(target, memory or optax.adam(2e-4, 0.5).init(target))

    def apply_gradient(self, gradient: Tree) -> "OldOptimizer":
        updates, memory = optax.adam(2e-4, 0.5).update(gradient, self.memory)
        return self.create(optax.apply_updates(self.target, updates), memory)


def train_gan(module: ModuleType) -> Curve:
    """Its own step of both networks; the last number is the square of its samples."""
    key, latent = jax.random.key(0), jax.random.normal(jax.random.key(1), (16, 64))
    batches = draw((16, 28, 28, 1))
    makers = (module.Generator(), latent), (module.Discriminator(), batches[0][0])
    networks = [network.init(key, x) for network, x in makers]
    optimizers = [OldOptimizer.create(v["params"]) for v in networks]
    losses = []
    for x, _ in batches:
        out = module.train_step(np.tanh(x), *networks, *optimizers, key)
        loss, networks, optimizers, key = out[0], out[1:3], out[3:5], out[5]
        losses += [loss["generator"], loss["discriminator"]]
    samples = module.eval_step(optimizers[0].target, networks[0], latent)
    losses.append(jnp.mean(samples**2))
    statistics = [network["batch_stats"] for network in networks]
    return Curve(np.asarray(losses, np.float64), statistics)


# Programs that are a model.


def train_bonsai(module: ModuleType) -> Curve:
    """A bottleneck block in each of the four stages, of the published width."""
    model = module.ResNet(module.ModelConfig([1, 1, 1, 1], 10), rngs=nnx.Rngs(0))
    return fit_nnx(model, draw((8, 32, 32, 3), 10))


def train_densenet(module: ModuleType, seed: int = 0) -> Curve:
    """Three blocks of two layers."""
    model = module.DenseNet(module.ModelConfig(10, [2, 2, 2], 8), rngs=nnx.Rngs(0))
    return fit_nnx(model, draw((16, 32, 32, 3), 10, seed=seed))


def train_efficientnet(module: ModuleType) -> Curve:
    """Its first four kinds of blocks, without the dropout, which has no keys."""
    blocks = module.BlockConfigs(module.BlockConfigs.default_block_config().items[:4])
    config = module.ModelConfig(1.0, 1.0, 32, 0.0, 1, 0.99, 1e-5, blocks, 10)
    model = module.EfficientNet(config, rngs=nnx.Rngs(0))
    return fit_nnx(model, draw((16, 32, 32, 3), 10), flag="training")


def train_scan(module: ModuleType) -> Curve:
    """A multilayer perceptron whose layers were made by vmap and are run by scan."""
    model = module.ScanMLP(10, n_layers=5, rngs=nnx.Rngs(0))
    return fit_nnx(model, draw((16, 10), target=(10,)), squares)


def train_guide(module: ModuleType) -> Curve:
    """The guide's model; its own loss is that of one class, which is always zero."""
    return fit_linen(module.MLP(), draw((16, 3), target=(1,)), squares)


def train_jax_resnet(module: ModuleType, name: str) -> Curve:
    """Two stages; the model trains where its statistics may change."""
    build = getattr(module, name)
    model = build(n_classes=10, stage_sizes=[1, 1], hidden_sizes=(16, 32))
    return fit_linen(model, draw((16, 32, 32, 3), 10), flag=None)


def train_flaxmodels(module: ModuleType) -> Curve:
    """As published, but for random weights and ten classes."""
    model = module.ResNet18("logits", None, False, 10)
    return fit_linen(model, draw((16, 32, 32, 3), 10))


def train_scenic(module: ModuleType) -> Curve:
    """A bottleneck block in each of the four stages."""
    model = module.ResNet(10, num_filters=8, num_layers=14)
    return fit_linen(model, draw((16, 32, 32, 3), 10))


def train_unet(module: ModuleType) -> Curve:
    """Two levels, a class for each pixel."""
    return fit_linen(module.UNet(4, (8, 16)), draw((8, 32, 32, 3), 4, (32, 32)))


def train_generator(module: ModuleType) -> Curve:
    """Three levels, against an image."""
    model = module.UNetGenerator([8, 16], [8, 16, 32])
    return fit_linen(model, draw((8, 32, 32, 3), target=(32, 32, 3)), squares)


FLAX = Source("google/flax", "18f8f311c275d57f46d95e41b15aa97b454754c0")
BONSAI = Source("jax-ml/bonsai", "36284254cf738d99c1c5d1e3a292d27656a0a365")
RESNETS = Source("n2cholas/jax-resnet", "5b00735aa0a68ec239af4a728ad4a596c1b551f6")
SCENIC = Source("google-research/scenic", "4a38d475ee89cb821078c0e2bf2065ee030e1535")
MODELS = Source(
    "matthias-wright/flaxmodels", "09bc77215032375d124e3f1eba828dd89c80a850"
)
GANS = Source("giganttheo/GAN-JAX", "36ff6ab9543bfbba83fc1754a907a0f0e347d7ed")

DATA = ("tensorflow", "tensorflow_datasets", "ml_collections")
DRAWING = ("IPython", "IPython.display", "matplotlib", "matplotlib.pyplot")
BASE = "scenic.model_lib.base_models."
TASKS = tuple(
    f"{BASE}{t}_model" for t in ("classification", "multilabel_classification")
)
PARTS = ("scenic/model_lib/layers/nn_layers.py", "scenic/model_lib/layers/nn_ops.py")

IMAGENET = (FLAX, "examples/imagenet", ("models.py", "train.py"))
RESNET = (
    RESNETS,
    ".",
    tuple(f"jax_resnet/{n}.py" for n in ("common", "splat", "resnet")),
)
GAN_FILES = ("utils", "architecture/dcgan", "models/base_model", "models/vanilla_gan")
PROGRAMS = (
    Program(
        "imagenet: ResNet of two stages, its own steps in pmap",
        *(*IMAGENET, train_imagenet, (*DATA, "clu", "input_pipeline")),
    ),
    Program(
        "imagenet in float16",
        *(*IMAGENET, functools.partial(train_imagenet, half=True)),
        unused=(*DATA, "clu", "input_pipeline"),
    ),
    Program(
        "mnist (nnx), its own steps",
        *(FLAX, "examples/mnist", ("train.py",), train_mnist),
        unused=(*DATA, "flax.metrics.tensorboard"),
    ),
    Program(
        "toy example 06 (nnx): vmap and scan",
        *(FLAX, "examples/nnx_toy_examples", ("06_scan_over_layers.py",), train_scan),
    ),
    Program(
        "guide to batch normalization",
        *(FLAX, "docs/guides/training_techniques", ("batch_norm.rst",), train_guide),
    ),
    Program(
        "ResNet (nnx), a block a stage",
        *(BONSAI, ".", ("bonsai/models/resnet/modeling.py",), train_bonsai),
    ),
    Program(
        "DenseNet (nnx), three blocks",
        *(BONSAI, ".", ("bonsai/models/densenet121/modeling.py",), train_densenet),
        known="a relu's sign",
    ),
    Program(
        "DenseNet (nnx) on other data",
        *(BONSAI, ".", ("bonsai/models/densenet121/modeling.py",)),
        functools.partial(train_densenet, seed=1),
    ),
    Program(
        "EfficientNet (nnx), four kinds of blocks",
        *(BONSAI, ".", ("bonsai/models/efficientnet/modeling.py",), train_efficientnet),
    ),
    *(
        Program(
            f"{name}, two stages",
            *(*RESNET, functools.partial(train_jax_resnet, name=name)),
        )
        for name in ("ResNet18", "ResNetD50", "ResNeSt50Fast")
    ),
    Program(
        "ResNet-18, its copy of an older layer of Flax",
        *(MODELS, ".", ("flaxmodels/resnet/ops.py", "flaxmodels/resnet/resnet.py")),
        *(train_flaxmodels, ("h5py", "flaxmodels.utils")),
    ),
    Program(
        "ResNet-14 of width 8",
        *(SCENIC, ".", (*PARTS, "scenic/projects/baselines/resnet.py"), train_scenic),
        unused=("ml_collections", "scenic.common_lib", *TASKS),
    ),
    Program(
        "U-Net, two levels",
        *(SCENIC, ".", (*PARTS, "scenic/projects/baselines/unet.py"), train_unet),
        unused=("ml_collections", f"{BASE}segmentation_model"),
    ),
    Program(
        "U-Net generator of a CycleGAN",
        *(GANS, "src", ("architecture/unet.py",), train_generator),
    ),
    Program(
        "DCGAN, its own step of both networks",
        *(GANS, "src", tuple(f"{name}.py" for name in GAN_FILES), train_gan, DRAWING),
    ),
)
