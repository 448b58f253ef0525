"""Networks that take a normalization as an argument.

    model = create_model('resnet20', num_outputs=10, norm=batch_norm())
    variables = model.init(key, images, train=False)
    logits, updates = model.apply(
        variables, images, train=True, mutable=['batch_stats'])

Layers have the same names with and without a norm, so the same key starts both with
the same weights. `load_torch` takes the weights of torchvision's residual nets.
"""

from jaxbn.models._convnet import ConvNet as ConvNet
from jaxbn.models._create import create_model as create_model
from jaxbn.models._create import model_names as model_names
from jaxbn.models._load_torch import dump_torch as dump_torch
from jaxbn.models._load_torch import load_torch as load_torch
from jaxbn.models._load_torch import torch_shapes as torch_shapes
from jaxbn.models._mlp import MLP as MLP
from jaxbn.models._mlp import NarrowNet as NarrowNet
from jaxbn.models._resnet import ResNet as ResNet
