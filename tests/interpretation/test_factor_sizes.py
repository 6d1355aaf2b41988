import numpy as np
import pytest

from gyoza.data import CategoricalPairs, ContinuousPairs
from gyoza.interpretation import estimate_factor_sizes, estimate_pair_correlations
from gyoza.modelling import losses

DIMENSION_COUNT, PAIR_COUNT = 64, 40_000


def make_pairs(sizes, seed=0):
    """Returns pairs of rotated normal vectors that share all dimensions of one factor."""
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


def mix_pairs(sizes, dimension_count, pair_count, correlation=0.8, seed=0):
    """Returns pairs of normal vectors that correlate in one factor, mixed unevenly."""
    random = np.random.default_rng(seed)
    scales = np.geomspace(1.0, 0.01, dimension_count)
    mixing = random.normal(size=[dimension_count, dimension_count]) * scales[:, None]
    pairs, start = {}, 0
    for name, size in sizes.items():
        a, b = random.normal(size=[2, pair_count, dimension_count])
        part = slice(start, start + size)
        b[:, part] = correlation * a[:, part] + np.sqrt(1 - correlation**2) * b[:, part]
        pairs[name] = (a @ mixing, b @ mixing)
        start += size
    return pairs


@pytest.mark.parametrize(("dimension_count", "pair_count"), [(20, 600), (60, 110)])
def test_likelihood_finds_sizes_that_units_hide(dimension_count, pair_count):
    sizes = {"first": 4, "second": 2, "fake": 0}
    pairs = mix_pairs(sizes, dimension_count, pair_count)
    expected = {"residual": dimension_count - 6, **sizes}
    assert estimate_factor_sizes(pairs, "likelihood") == expected
    assert estimate_factor_sizes(pairs)["first"] > 8  # redundant units


@pytest.mark.parametrize("rule", ["proportional", "likelihood"])
def test_fake_pairs_have_no_dimensions(rule):
    random = np.random.default_rng(1)
    x = random.normal(size=[800, 12]) @ random.normal(size=[12, 12])
    for seed in range(3):
        labels = np.random.default_rng(seed).integers(5, size=[800, 2])
        pairs = CategoricalPairs(x, labels, seed=seed)
        sizes = estimate_factor_sizes(pairs, rule)
        assert list(sizes.values()) == [12, 0, 0]
    assert min(estimate_factor_sizes(pairs, "softmax").values()) > 0
    assert max(estimate_pair_correlations(pairs, [8, 2, 2]).values()) < 0.2


def test_likelihood_of_a_source_keeps_instances_apart():
    """Classes of two members reveal instances that were seen before, and nothing else."""
    x = np.random.default_rng(0).normal(size=[300, 100])
    pairs = CategoricalPairs(x, np.arange(300) // 2, seed=0)
    assert estimate_factor_sizes(pairs, "likelihood") == {"residual": 100, "factor_1": 0}


def test_overlapping_factors_are_scaled_down_by_likelihood():
    a = np.random.default_rng(0).normal(size=[100, 4])
    pairs = [(a, a), (a, a), (a, a)]
    assert list(estimate_factor_sizes(pairs, "likelihood").values()) == [1, 1, 1, 1]


def test_pair_correlations_are_those_that_a_linear_map_reaches():
    sizes = {"first": 3, "second": 2}
    for correlation in (0.5, 0.9):
        pairs = mix_pairs(sizes, 10, 4000, correlation)
        correlations = estimate_pair_correlations(pairs, {"residual": 5, **sizes})
        assert list(correlations) == ["first", "second"]
        np.testing.assert_allclose(list(correlations.values()), correlation, atol=0.03)
    # half of the axes have nothing in common
    halves = estimate_pair_correlations(pairs, {"residual": 0, "first": 6, "second": 4})
    np.testing.assert_allclose(list(halves.values()), 0.45, atol=0.03)
    assert estimate_pair_correlations(pairs, [8, 2, 0])["factor_2"] == 0.0
    equal = [(a, a) for a, _ in pairs.values()]
    losses.SupervisedFactorLoss(
        [5, 3, 2], correlation=list(estimate_pair_correlations(equal, [5, 3, 2]).values())
    )
    with pytest.raises(ValueError, match=r"of 2 factors and the residual one.*=\[5, 5\]"):
        estimate_pair_correlations(pairs, [5, 5])
    # names count, not their order
    exchanged = {"residual": 5, "second": 2, "first": 3}
    assert estimate_pair_correlations(pairs, exchanged) == correlations
    with pytest.raises(ValueError, match=r"factors \['first', 'third'\]"):
        estimate_pair_correlations(pairs, {"residual": 5, "first": 3, "third": 2})


def test_angles_are_not_linear():
    """An angle takes two axes, each of which correlates as the cosine of the difference."""
    random = np.random.default_rng(0)
    angles = random.uniform(-np.pi, np.pi, size=3000)
    x = np.stack([np.cos(angles), np.sin(angles), *random.normal(size=[3, 3000])], axis=1)
    pairs = CategoricalPairs(x, np.floor(angles * 12 / np.pi).astype(int), seed=0)
    assert estimate_factor_sizes(pairs, "likelihood") == {"residual": 3, "factor_1": 2}
    # sin(w / 2)^2 / (w / 2)^2 within classes of the width w
    expected = np.sinc(1 / 24) ** 2
    correlations = estimate_pair_correlations(pairs, [3, 2])
    np.testing.assert_allclose(correlations["factor_1"], expected, atol=2e-3)


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
    alike = ContinuousPairs(x, x[:, -2:], 0.95, seed=0, share="one")
    sizes = {"residual": 6, "factor_1": 1, "factor_2": 1}
    assert estimate_factor_sizes(alike) == sizes
    assert estimate_factor_sizes(alike, "likelihood") == sizes


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
    with pytest.raises(ValueError, match=r"two pairs for each factor in each half.* \(2, 1\)"):
        estimate_factor_sizes([(a[:3], a[3:6])], "likelihood")
