"""Variants: other answers to 'what is the batch?', composed of norms and of bricks.

Each file makes one kind of `Norm`, or a function beside it; none knows the others but
`_split`, which is a `_domain` norm by place.
"""

from jaxbn.variants._adaptive import adaptive_norm as adaptive_norm
from jaxbn.variants._baselines import group_norm as group_norm
from jaxbn.variants._baselines import instance_norm as instance_norm
from jaxbn.variants._baselines import layer_norm as layer_norm
from jaxbn.variants._baselines import no_norm as no_norm
from jaxbn.variants._domain import domain_norm as domain_norm
from jaxbn.variants._frozen import frozen_norm as frozen_norm
from jaxbn.variants._ghost import ghost_norm as ghost_norm
from jaxbn.variants._joint import apply_jointly as apply_jointly
from jaxbn.variants._renorm import batch_renorm as batch_renorm
from jaxbn.variants._shuffle import shuffle as shuffle
from jaxbn.variants._shuffle import unshuffle as unshuffle
from jaxbn.variants._shuffled import shuffled as shuffled
from jaxbn.variants._split import split_norm as split_norm
from jaxbn.variants._weights import standardize_kernel as standardize_kernel
from jaxbn.variants._weights import standardize_kernels as standardize_kernels
