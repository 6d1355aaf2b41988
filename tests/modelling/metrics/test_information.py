"""Information of codes about labels against hand-made cases and another library."""

import functools
import warnings

import numpy as np
import pytest

from gyoza.modelling.metrics import modularity, mutual_information, mutual_information_gap


def grid(*sizes, repeats=1):
    """All combinations of classes, equally often, so that labels are independent exactly."""
    axes = np.meshgrid(*map(np.arange, sizes), indexing="ij")
    return np.tile(np.stack(axes, axis=-1).reshape(-1, len(sizes)), [repeats, 1])


LABELS = grid(4, 3)
ROTATION = np.array([[1.0, 1.0], [-1.0, 1.0]]) / np.sqrt(2)


def test_information_is_that_of_frequencies():
    """Three bits of eight are seen: H = ln 8, and the sum of two coins knows 3/2 bits of itself."""
    labels = grid(2, 2)
    codes = np.stack([labels[:, 0], labels.sum(axis=1), np.zeros(4)], axis=1)
    ln2 = np.log(2.0)
    np.testing.assert_allclose(
        mutual_information(codes, labels), [[ln2, 0], [ln2 / 2, ln2 / 2], [0, 0]], atol=1e-12
    )
    itself = mutual_information(codes, codes[:, 1], categorical=True)
    np.testing.assert_allclose(itself[:, 0], [ln2 / 2, 1.5 * ln2, 0], atol=1e-12)


def test_information_of_blocks_is_that_of_their_best_dimensions():
    codes = np.concatenate([LABELS, np.zeros([12, 1])], axis=1)
    information = mutual_information(codes, LABELS, [0, 2, 1])
    np.testing.assert_allclose(information, [[0, 0], np.log([4, 3]), [0, 0]], atol=1e-12)


def test_real_numbers_are_divided_into_bins_of_equal_width():
    real = np.linspace(0.0, 1.0, 1001)[:1000] ** 2
    counts, _ = np.histogram(real, 20)
    entropy = -np.sum(counts / 1000 * np.log(counts / 1000))
    assert mutual_information(real[:, None], real)[0, 0] == pytest.approx(entropy)
    ten = mutual_information(real[:, None], real, bins=10)[0, 0]
    assert ten < entropy
    # As classes, every value is one of its own.
    classes = mutual_information(real[:, None], real, bins=10, categorical=True)[0, 0]
    assert classes > ten - 1e-12


def test_whole_numbers_and_names_are_classes_unless_told_otherwise():
    codes = np.arange(3.0)[:, None]
    numbers = np.array([0, 1, 100])
    mixed = np.array([["a", 0.5], ["b", 1.5], ["c", 100.5]], dtype=object)
    together = np.log(3) - 2 / 3 * np.log(2)  # of numbers, two share a bin
    for labels, categorical, expected in (
        (numbers[[0, 1, 1]], None, np.log(3) - 2 / 3 * np.log(2)),
        (numbers.astype(float), True, np.log(3)),
        (numbers, [False], together),
        (mixed[:, 0], None, np.log(3)),
        (mixed, None, [np.log(3), together]),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            received = mutual_information(codes, labels, bins=3, categorical=categorical)
        np.testing.assert_allclose(received[0], expected)


@pytest.mark.parametrize(
    "labels", [np.arange(22), [0, 10, 10, 20], [0.0, 1.0, 1.0]], ids=["many", "gaps", "floats"]
)
@pytest.mark.parametrize("score", [mutual_information, modularity])
def test_whole_numbers_that_may_be_measurements_are_announced(labels, score):
    score = functools.partial(score, ranks=False)
    codes = np.asarray(labels, "float64")[:, None]
    names = ["b", *["a"] * (len(codes) - 1)]
    columns = np.stack([np.array(names, object), np.array(labels, object)], axis=1)
    with pytest.warns(UserWarning, match=r"in columns \[1\] of `labels` .*`categorical=") as caught:
        score(codes, columns)
    assert [warning.filename for warning in caught] == [__file__]
    for categorical in (True, [True, False]):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            score(codes, columns, categorical=categorical)


def test_outliers_do_not_hide_what_others_know():
    labels = np.random.default_rng(0).normal(size=[500, 2])
    clean = mutual_information_gap(labels, labels)
    assert clean == mutual_information_gap(labels, labels, robust=False)
    spoilt = labels.copy()
    spoilt[7, 0] = 1e6
    for codes, truth in ((spoilt, labels), (labels, spoilt)):
        assert mutual_information_gap(codes, truth) == pytest.approx(clean, abs=0.01)
        fooled = mutual_information_gap(codes, truth, robust=False, ranks=False)
        assert fooled < 0.6 * clean
        assert modularity(codes, truth) == pytest.approx(modularity(labels, labels), abs=0.01)


def test_dimensions_that_seldom_vary_are_not_outliers():
    """A rare pulse, and a fifth of values far from the rest, are seen as they are."""
    pulse = np.zeros(1000)
    pulse[:3] = 1.0
    far = 1e-6 * np.arange(1000.0)
    far[:200] += 1.0
    codes = np.stack([pulse, far], axis=1)
    for column in (0, 1):
        labels = (codes[:, column] > 0.5).astype(int)
        share = labels.mean()
        entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
        assert mutual_information(codes, labels)[column, 0] == pytest.approx(entropy)


def test_gap_of_constructed_codes():
    assert mutual_information_gap(LABELS, LABELS) == pytest.approx(1.0)
    twice = np.concatenate([LABELS, LABELS], axis=1)
    assert mutual_information_gap(twice, LABELS) == 0.0
    assert mutual_information_gap(twice[:, [0, 2, 1, 3]], LABELS, [2, 2]) == pytest.approx(1.0)
    assert mutual_information_gap(grid(4, 4) @ ROTATION, grid(4, 4)) == pytest.approx(0.0)
    random = np.random.default_rng(0)
    noise = random.normal(size=[20_000, 2])
    assert mutual_information_gap(noise, random.integers(4, size=[20_000, 2])) < 0.01
    # One of two bits of the first label, in the first dimension alone.
    coarse = np.stack([LABELS[:, 0] // 2, LABELS[:, 1]], axis=1)
    assert mutual_information_gap(coarse, LABELS) == pytest.approx(0.75)


def test_modularity_of_constructed_codes():
    assert modularity(LABELS, LABELS) == pytest.approx(1.0)
    constant = np.pad(LABELS, [(0, 0), (0, 1)])
    assert modularity(np.concatenate([constant, LABELS], axis=1), LABELS) == pytest.approx(1.0)
    assert modularity(grid(4, 4) @ ROTATION, grid(4, 4)) == pytest.approx(0.0, abs=1e-9)
    assert modularity(np.zeros([12, 2]), LABELS) == 0.0
    # A dimension that holds all labels knows ln 4 of the first and ln 3 of the second.
    both = LABELS @ [[3], [1]]
    expected = 1 - (np.log(3) / np.log(4)) ** 2
    assert modularity(both, LABELS, ranks=False) == pytest.approx(expected)


@pytest.mark.parametrize("score", [mutual_information_gap, modularity])
def test_scores_do_not_depend_on_order_sign_and_scale(score):
    random = np.random.default_rng(0)
    labels = random.integers(4, size=[500, 2])
    codes = labels @ [[1.0, 0.5, 0.0], [0.0, 1.0, 1.0]] + 0.1 * random.normal(size=[500, 3])
    expected = score(codes, labels)
    assert 0.05 < expected < 0.95
    assert score(codes[:, [2, 0, 1]] * [2.0, 1.0, 3.0] + 1.0, labels) == pytest.approx(expected)
    # Bins are closed on one side, and no number lies on an edge but the extremes.
    assert score(-codes, labels) == pytest.approx(expected, abs=0.01)
    assert score(codes, labels[:, ::-1]) == pytest.approx(expected)


def test_values_are_those_of_another_library():
    """Those of disentanglement_lib 1.5 (mig.py and modularity_explicitness.py, 20 bins)."""
    random = np.random.default_rng(0)
    labels = random.integers([3, 4, 5], size=[3000, 3])
    mixing = np.array([[1.0, 0.2, 0.0, 0.5], [0.0, 1.0, 0.3, 0.0], [0.0, 0.0, 1.0, 0.5]])
    codes = labels @ mixing + 0.2 * random.normal(size=[3000, 4])
    information = [
        [1.069432, 0.009384, 0.021224],
        [0.17611, 1.281338, 0.014479],
        [0.011301, 0.248159, 1.204801],
        [0.181824, 0.011661, 0.632758],
    ]
    np.testing.assert_allclose(mutual_information(codes, labels), information, atol=1e-6)
    assert mutual_information_gap(codes, labels) == pytest.approx(0.63632074)
    assert modularity(codes, labels) == pytest.approx(0.98188582)


def count_bins(column, ranks):
    """Returns the indices of 20 bins of equal width or mass, by counting edges below."""
    if ranks:
        return np.argsort(np.argsort(column)) * 20 // len(column)
    edges = np.linspace(column.min(), column.max(), 21)[1:-1]
    return (column[:, None] >= edges).sum(axis=1)


@pytest.mark.parametrize("ranks", [False, True])
def test_scores_are_those_of_the_papers_formulas(ranks):
    """Written from equation 6 of Chen et al., and section 4.1 of Ridgeway and Mozer."""
    random = np.random.default_rng(0)
    labels = random.normal(size=[2000, 3])
    codes = labels @ random.normal(size=[3, 4]) + 0.3 * random.normal(size=[2000, 4])
    information = np.zeros([4, 3])
    entropies = np.zeros(3)
    for k, label in enumerate(labels.T):
        v = count_bins(label, ranks)
        for i, code in enumerate(codes.T):
            joint, _, _ = np.histogram2d(count_bins(code, ranks), v, bins=20)
            p = joint / joint.sum()
            q = p.sum(axis=1, keepdims=True) * p.sum(axis=0)
            information[i, k] = np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0]))
        p = np.unique(v, return_counts=True)[1] / 2000
        entropies[k] = -np.sum(p * np.log(p))
    gaps = [np.sort(column)[-1] - np.sort(column)[-2] for column in information.T]
    templates = np.eye(3)[information.argmax(axis=1)] * information.max(axis=1, keepdims=True)
    deviations = ((information - templates) ** 2).sum(axis=1) / (information.max(axis=1) ** 2 * 2)
    options = {"ranks": ranks, "robust": False}
    np.testing.assert_allclose(mutual_information(codes, labels, **options), information)
    gap = mutual_information_gap(codes, labels, **options)
    assert gap == pytest.approx(np.mean(gaps / entropies))
    assert modularity(codes, labels, **options) == pytest.approx(np.mean(1 - deviations))


def make_codes(count=1000):
    """Returns the codes of three labels, one dimension each with little noise, and the labels."""
    random = np.random.default_rng(0)
    labels = random.integers(4, size=[count, 3])
    return labels + 0.05 * random.normal(size=[count, 3]), labels


@pytest.mark.parametrize("score", [mutual_information, mutual_information_gap, modularity])
def test_bins_of_ranks_see_the_order_of_values_only(score):
    codes, labels = make_codes()
    expected = score(codes, labels, ranks=True)
    np.testing.assert_allclose(expected, score(codes, labels), atol=0.2)
    for transform in (lambda x: np.exp(5 * x), np.cbrt, np.arctan, lambda x: np.sinh(x - 2)):
        np.testing.assert_array_equal(score(transform(codes), labels, ranks=True), expected)
    # Real labels, too. Ranks of the opposite order are the same from above.
    real = score(codes, codes[:, :3], ranks=True)
    np.testing.assert_array_equal(score(codes, np.exp(5 * codes[:, :3]), ranks=True), real)
    np.testing.assert_allclose(score(-codes, codes[:, :3], ranks=True), real, atol=1e-12)


@pytest.mark.parametrize("score", [mutual_information, mutual_information_gap, modularity])
def test_an_outlier_moves_one_instance_by_rank(score):
    """It and one neighbour of each of 20 bins change their places, of a thousand instances."""
    codes, labels = make_codes()
    expected = score(codes, labels, ranks=True)
    for value in (1e6, -1e6):
        spoilt = codes.copy()
        spoilt[3, 0] = value
        np.testing.assert_allclose(score(spoilt, labels, ranks=True), expected, atol=21 / 1000)


def test_ranks_have_bins_of_equal_mass():
    values = np.random.default_rng(0).lognormal(sigma=3.0, size=1000)
    itself = mutual_information(values[:, None], values, ranks=True)[0, 0]
    assert itself == pytest.approx(np.log(20))
    assert mutual_information(values[:, None], values, bins=8, ranks=True)[0, 0] == pytest.approx(
        np.log(8)
    )
    # Few values keep a bin each, however rare some are.
    rare = np.repeat([0.0, 1.0, 50.0], [970, 10, 20])
    labels = np.repeat(["a", "b", "c"], [970, 10, 20])
    entropy = -sum(p * np.log(p) for p in (0.97, 0.01, 0.02))
    assert mutual_information(rare[:, None], labels, ranks=True)[0, 0] == pytest.approx(entropy)


def test_noise_does_not_count_if_information_should_be_significant():
    codes, labels = make_codes()
    noise = np.random.default_rng(1).normal(size=[1000, 12])
    both = np.concatenate([codes, noise], axis=1)
    assert modularity(codes, labels, ranks=True) > 0.99
    for ranks in (True, False):
        assert modularity(both, labels, ranks=ranks) < 0.6
        assert modularity(both, labels, ranks=ranks, significance=0.01) > 0.99
    assert modularity(noise, labels, ranks=True, significance=0.01) == 0.0
    # What dimensions do know of two labels still counts against them.
    mixed = np.concatenate([labels[:, :1] + labels[:, 1:2], labels[:, :1] - labels[:, 1:2]], axis=1)
    assert modularity(mixed, labels[:, :2], significance=0.01) < 0.05


def test_a_marked_difference_between_values_and_ranks_is_announced():
    codes, labels = make_codes()
    bent = np.exp(5 * codes)
    noisy = np.concatenate([codes, np.random.default_rng(1).normal(size=[1000, 12])], axis=1)
    for score, misleading in ((mutual_information_gap, bent), (modularity, noisy)):
        with pytest.warns(UserWarning, match=rf"`{score.__name__}` is 0\.\d\d as pub") as caught:
            published = score(misleading, labels)
        assert [warning.filename for warning in caught] == [__file__]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert score(misleading, labels, ranks=False) == published
            assert score(misleading, labels, ranks=True) != published
            score(codes, labels)


@pytest.mark.parametrize("level", [0, 1.0, "0.1"])
def test_bad_significance(level):
    with pytest.raises(ValueError, match=r"`significance` should be between 0 and 1\. Received"):
        modularity(LABELS, LABELS, significance=level)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codes": np.zeros(12)}, "`codes` should have shape"),
        ({"codes": np.full([12, 2], np.nan)}, "`codes` should be finite"),
        ({"labels": LABELS[:5]}, r"`labels` should have shape \[12, K\]"),
        ({"labels": LABELS[:, :1]}, "K of at least 2"),
        ({"labels": np.full([12, 2], np.inf)}, "`labels` should be finite"),
        ({"labels": LABELS * [1, 0]}, "`labels` should vary.* in column 1"),
        ({"labels": LABELS.astype(str), "categorical": False}, "should be real numbers"),
        ({"categorical": [True]}, "`categorical` should hold a truth value for each of the 2"),
        ({"dimensions_per_factor": [1, 2]}, "`dimensions_per_factor` should sum to 2"),
        ({"dimensions_per_factor": [3, -1]}, "`dimensions_per_factor` should hold"),
        ({"bins": 1}, "`bins` should be"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        modularity(**{"codes": LABELS, "labels": LABELS} | arguments)


def test_a_gap_needs_two_factors():
    for codes, dimensions in ((LABELS[:, :1], None), (LABELS, [2])):
        with pytest.raises(ValueError, match="at least 2 dimensions or factors"):
            mutual_information_gap(codes, LABELS, dimensions)
