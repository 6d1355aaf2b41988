"""Sources of pairs that tests share."""

import numpy as np

from gyoza.data import CategoricalPairs, ContinuousPairs


def make_categorical(**kwargs):
    """Three independent factors of 2, 3 and 4 classes over 240 instances."""
    rng = np.random.default_rng(1)
    labels = rng.integers([2, 3, 4], size=(240, 3))
    arguments = {"x": np.arange(240.0)[:, None], "labels": labels, "batch_size": 32, "seed": 0}
    return CategoricalPairs(**(arguments | kwargs)), labels


def make_continuous(**kwargs):
    """Two independent factors over 240 instances."""
    factors = np.random.default_rng(1).normal(size=(240, 2))
    arguments = {"x": np.arange(240.0)[:, None], "factors": factors, "correlations": [0.9, -0.5]}
    return ContinuousPairs(**(arguments | {"batch_size": 32, "seed": 0} | kwargs)), factors


def read_epoch(source):
    """Concatenates the batches of an epoch, as the instances' numbers."""
    batches = [source[i] for i in range(len(source))]
    a = np.concatenate([a for (a, _), _ in batches])[:, 0].astype(int)
    b = np.concatenate([b for (_, b), _ in batches])[:, 0].astype(int)
    return a, b, np.concatenate([y for _, y in batches])
