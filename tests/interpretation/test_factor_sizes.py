import numpy as np
import pytest

from gyoza.data import CategoricalPairs, ContinuousPairs
from gyoza.interpretation import estimate_factor_sizes

DIMENSION_COUNT, PAIR_COUNT = 64, 40_000


def make_pairs(sizes, seed=0):
    """Pairs of normal vectors, rotated, that share all dimensions of one factor."""
    random = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(random.normal(size=[DIMENSION_COUNT, DIMENSION_COUNT]))
    ends = np.cumsum(sizes)
    pairs = {}
    for name, start, end in (("first", 0, ends[0]), ("second", ends[0], ends[1])):
        a, b = random.normal(size=[2, PAIR_COUNT, DIMENSION_COUNT])
        b[:, start:end] = a[:, start:end]
        pairs[name] = (3.0 + a @ rotation, 3.0 + b @ rotation)
    return pairs


@pytest.mark.parametrize(
    ("true_sizes", "of_softmax"),
    [
        ((20, 10, 34), (16, 14, 34)),
        ((32, 16, 16), (18, 14, 32)),
        ((2, 2, 60), (13, 13, 38)),
    ],
)
def test_sizes_of_linear_factors(true_sizes, of_softmax):
    pairs = make_pairs(true_sizes)
    names = "first", "second", "residual"
    assert estimate_factor_sizes(pairs) == dict(zip(names, true_sizes, strict=True))
    assert estimate_factor_sizes(pairs, "softmax") == dict(zip(names, of_softmax, strict=True))
    # the order in which a loss wants them
    assert next(iter(estimate_factor_sizes(pairs))) == "residual"


def test_sizes_depend_on_correlations_not_on_scales():
    pairs = make_pairs((20, 10, 34))
    scaled = {name: (1e-3 * a + 7.0, 1e-3 * b + 7.0) for name, (a, b) in pairs.items()}
    assert estimate_factor_sizes(scaled) == estimate_factor_sizes(pairs)


def test_constant_dimensions_belong_to_the_residual_factor():
    random = np.random.default_rng(0)
    a, b = random.normal(size=[2, 1000, 4])
    b[:, 0] = a[:, 0]
    a[:, 1] = b[:, 1] = 5.0
    assert estimate_factor_sizes([(a, b)]) == {"residual": 3, "factor_1": 1}


def test_factors_that_overlap_do_not_exceed_the_whole():
    a = np.random.default_rng(0).normal(size=[1000, 2, 2, 1])
    sizes = estimate_factor_sizes([(a, a), (a, a), (a, a)])
    assert list(sizes.values()) == [1, 1, 1, 1]
    # 1.5 each, which both are rounded up
    b = np.array(a)
    b[:, 1, 1] *= -1.0
    b[:, 1, 0] = np.random.default_rng(1).permutation(a[:, 1, 0])
    assert sum(estimate_factor_sizes([(a, a), (a, b)]).values()) == 4


def test_pair_source_and_names():
    random = np.random.default_rng(0)
    labels = random.integers(6, size=[3000, 2])
    x = np.concatenate([np.eye(6)[labels[:, 0]], random.normal(size=[3000, 2])], axis=1)
    source = CategoricalPairs(x, labels, seed=0)
    sizes = estimate_factor_sizes(source, names=["shape", "noise"])
    assert sizes == {"residual": 2, "shape": 6, "noise": 0}
    continuous = ContinuousPairs(x, random.normal(size=[3000, 2]), 0.9, seed=0)
    with pytest.raises(ValueError, match="exactly one factor"):
        estimate_factor_sizes(continuous)


def test_bad_input():
    a = np.random.default_rng(0).normal(size=[10, 3])
    with pytest.raises(ValueError, match="rule"):
        estimate_factor_sizes([(a, a)], rule="other")
    with pytest.raises(ValueError, match="same shape"):
        estimate_factor_sizes([(a, a[:5])])
    with pytest.raises(ValueError, match="finite"):
        estimate_factor_sizes([(a, a * np.nan)])
    with pytest.raises(ValueError, match="finite numbers, not all the same"):
        estimate_factor_sizes([(np.ones([4, 2]), np.ones([4, 2]))])
    with pytest.raises(ValueError, match="names"):
        estimate_factor_sizes([(a, a)], names=["one", "two"])
