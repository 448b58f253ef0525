"""Surgery: models changed without touching their code.

Layers are found by `jaxbn.tree`; what a change would do can be read before it is done.
"""

from jaxbn.surgery._carry import Carried as Carried
from jaxbn.surgery._carry import carry_over as carry_over
from jaxbn.surgery._convert import ConversionPlan as ConversionPlan
from jaxbn.surgery._convert import convert as convert
from jaxbn.surgery._convert import plan_conversion as plan_conversion
from jaxbn.surgery._fold import Folded as Folded
from jaxbn.surgery._fold import fold as fold
from jaxbn.surgery._freeze import Plan as Plan
from jaxbn.surgery._freeze import freeze as freeze
from jaxbn.surgery._freeze import freeze_labels as freeze_labels
from jaxbn.surgery._freeze import plan_freezing as plan_freezing
from jaxbn.surgery._options import batch_norm_like as batch_norm_like
from jaxbn.surgery._options import like as like
from jaxbn.surgery._others import from_equinox as from_equinox
from jaxbn.surgery._others import from_haiku as from_haiku
from jaxbn.surgery._others import from_keras as from_keras
from jaxbn.surgery._pairs import Pair as Pair
from jaxbn.surgery._pairs import find_pairs as find_pairs
from jaxbn.surgery._torch import from_torch as from_torch
from jaxbn.surgery._torch import momentum_from_torch as momentum_from_torch
from jaxbn.surgery._torch import to_torch as to_torch
from jaxbn.surgery._where import choose as choose
