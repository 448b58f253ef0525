"""Data sets in memory and batches as rows of indices, with masks.

    dataset = load('digits')
    train = jax.device_put(dataset.train)
    for epoch in range(3):
        indices = epoch_indices(seed, len(dataset.train.labels), 64, epoch)
        ...  # lax.scan over the rows of indices; gather(train, rows) is a batch

A `Split` is whole arrays; one too large for the device goes through `stream`.
"""

from jaxbn.data._batches import augment_crop_flip as augment_crop_flip
from jaxbn.data._batches import epoch_indices as epoch_indices
from jaxbn.data._batches import eval_indices as eval_indices
from jaxbn.data._batches import gather as gather
from jaxbn.data._batches import num_batches as num_batches
from jaxbn.data._batches import to_float as to_float
from jaxbn.data._column import Column as Column
from jaxbn.data._column import DatasetUnavailable as DatasetUnavailable
from jaxbn.data._embedded import dataset_names as dataset_names
from jaxbn.data._join import join_domains as join_domains
from jaxbn.data._load import load as load
from jaxbn.data._pictures import random_crops as random_crops
from jaxbn.data._shift import CORRUPTIONS as CORRUPTIONS
from jaxbn.data._shift import corrupt as corrupt
from jaxbn.data._split import Dataset as Dataset
from jaxbn.data._split import Split as Split
from jaxbn.data._split import channel_statistics as channel_statistics
from jaxbn.data._split import read_rows as read_rows
from jaxbn.data._stream import stream as stream
