"""Variants: other answers to 'what is the batch?', composed of norms and of bricks."""

from jaxbn.variants._shuffle import shuffle as shuffle
from jaxbn.variants._shuffle import unshuffle as unshuffle
from jaxbn.variants._shuffled import shuffled as shuffled
