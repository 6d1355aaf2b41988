"""Axes from pairs are those that data were made of."""

import itertools

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from gyoza.data import CategoricalPairs, ContinuousPairs
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    FactorOut,
    FlowModel,
    Inverse,
    PairAxes,
    PrincipalRotation,
)


def run(layer, x):
    return to_numpy(layer(np.asarray(x, "float32"))[0])


def run_back(layer, y):
    return to_numpy(layer.invert(np.asarray(y, "float32")))


def draw_pairs(sizes, count=4000, correlations=0.9, seed=0):
    """Draws pairs by factor of standard normal codes that are mixed linearly, and the mixing.

    Codes of the residual block, the first, do not correlate.
    """
    random = np.random.default_rng(seed)
    mixing = random.normal(size=[sum(sizes), sum(sizes)])
    ends = np.cumsum(sizes)
    pairs = []
    for start, end in itertools.pairwise(ends):
        a, b = random.normal(size=[2, count, sum(sizes)])
        rho = np.broadcast_to(correlations, end - start)
        b[:, start:end] = rho * a[:, start:end] + np.sqrt(1 - rho**2) * b[:, start:end]
        pairs.append(tuple((code @ mixing + 1.0).astype("float32") for code in (a, b)))
    return pairs, mixing


def get_angle(a, b):
    """Returns the largest angle between the spaces that columns span."""
    a, b = (np.linalg.qr(x)[0] for x in (a, b))
    return np.arccos(np.clip(np.linalg.svd(a.T @ b, compute_uv=False).min(), -1.0, 1.0))


def test_pairs_are_matched_to_factors_by_name():
    random = np.random.default_rng(0)
    a, b = random.normal(size=[2, 200, 3]).astype("float32")
    pairs = {
        "hue": (a, np.concatenate([a[:, :1], b[:, 1:]], axis=1)),
        "size": (a, np.concatenate([b[:, :1], a[:, 1:2], b[:, 2:]], axis=1)),
    }
    layer, other = (PairAxes({"residual": 1, "size": 1, "hue": 1}) for _ in range(2))
    layer.adapt(pairs)
    assert np.argmax(np.abs(to_numpy(layer.matrix)), axis=0).tolist() == [2, 1, 0]
    flow = FlowModel([other])  # the names get there
    flow.adapt(pairs)
    np.testing.assert_array_equal(to_numpy(other.matrix), to_numpy(layer.matrix))
    with pytest.raises(ValueError, match=r"factors \['size', 'mood'\].*\['hue', 'size'\]"):
        PairAxes({"residual": 1, "size": 1, "mood": 1}).adapt(pairs)


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2]])
def test_pair_axes_are_those_of_planted_factors(order):
    """Whatever the order in which factors come, each gets the directions that it was made of."""
    sizes = [3, 1, 2, 2]
    pairs, mixing = draw_pairs(sizes)
    blocks = np.split(np.linalg.inv(mixing), np.cumsum(sizes)[:-1], axis=1)
    order = [0, *(1 + k for k in order)]
    layer = PairAxes({f"factor {k}": sizes[k] for k in order})
    layer.adapt({f"factor {k}": pairs[k - 1] for k in order[1:]})
    found = np.split(to_numpy(layer.matrix), np.cumsum([sizes[k] for k in order])[:-1], axis=1)
    for k, block in zip(order[1:], found[1:], strict=True):
        assert get_angle(block, blocks[k]) < 0.1
    expected = np.repeat(np.arange(3), [sizes[k] for k in order[1:]]) == np.arange(3)[:, None]
    expected = np.concatenate([np.zeros([3, 3]), 0.9 * expected], axis=1)
    np.testing.assert_allclose(to_numpy(layer.correlations), expected, atol=0.06)


def test_axes_are_ordered_uncorrelated_and_explain_all_variance():
    sizes = [3, 4]
    pairs, _ = draw_pairs(sizes, correlations=[0.2, 0.8, 0.6, 0.4])
    layer = PairAxes(sizes, shrinkage=0.0)
    layer.adapt(pairs)
    correlations, explained = to_numpy(layer.correlations)[0], to_numpy(layer.explained_variance)
    np.testing.assert_allclose(correlations[3:], [0.8, 0.6, 0.4, 0.2], atol=0.05)
    x = np.concatenate(pairs[0])
    y = run(layer, x)
    np.testing.assert_allclose(np.cov(y.T, bias=True), np.eye(7), atol=1e-3)
    np.testing.assert_allclose(y.mean(axis=0), 0.0, atol=1e-3)
    assert np.all(np.diff(explained[:3]) < 0.0)
    # What is left of the variance when an output is set to its mean.
    for i in range(7):
        rest = run_back(layer, np.where(np.arange(7) == i, 0.0, y))
        share = 1.0 - rest.var(axis=0).sum() / x.var(axis=0).sum()
        assert explained[i] == pytest.approx(share, abs=1e-3)
    log_det = to_numpy(layer(x[:1])[1])[0]
    assert log_det == pytest.approx(-0.5 * np.linalg.slogdet(np.cov(x.T, bias=True))[1], abs=1e-3)


def test_the_axes_of_classes_are_those_of_linear_discriminant_analysis():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 15)
    x = random.normal(size=[4, 6])[labels] + random.normal(size=[60, 6])
    x = (x @ random.normal(size=[6, 6])).astype("float32")
    a, b = np.nonzero(labels[:, None] == labels)
    layer = PairAxes([3, 3], shrinkage=0.0)
    layer.adapt([(x[a], x[b])])
    axes = LinearDiscriminantAnalysis(solver="eigen").fit(x, labels).scalings_[:, :3]
    assert get_angle(to_numpy(layer.matrix)[:, 3:], axes) < 2e-3


def test_a_class_with_fewer_instances_than_dimensions_is_found_where_it_is():
    """Shrinkage keeps directions that chance alone made similar from being taken for factors."""
    random = np.random.default_rng(0)
    labels, others = random.integers(2, size=[2, 100])
    direction = np.linalg.qr(random.normal(size=[200, 1]))[0][:, 0]

    def make(labels):
        return random.normal(size=[len(labels), 200]) + 8.0 * labels[:, None] * direction

    layer = PairAxes([199, 1])
    layer.adapt(CategoricalPairs(make(labels), labels, seed=0))
    codes = run(layer, make(others))[:, -1]
    assert abs(np.corrcoef(codes, others)[0, 1]) > 0.9


def test_correlations_of_either_sign_tell_factors_apart():
    random = np.random.default_rng(0)
    factors = random.normal(size=[4000, 2])
    x = np.concatenate([factors, random.normal(size=[4000, 2])], axis=1)
    mixing = np.linalg.qr(random.normal(size=[4, 4]))[0]
    pairs = ContinuousPairs(x @ mixing, factors, [0.8, -0.8], seed=0)
    layer = PairAxes([2, 1, 1])
    layer.adapt(pairs)
    codes = run(layer, pairs._x)[:, 2:]
    agreement = np.abs(np.corrcoef(codes.T, factors.T)[:2, 2:])
    np.testing.assert_allclose(agreement, np.eye(2), atol=0.1)
    correlations = to_numpy(layer.correlations)[:, 2:]
    np.testing.assert_allclose(correlations, [[0.8, -0.8], [-0.8, 0.8]], atol=0.1)


def test_pairs_that_cannot_tell_factors_apart_are_rejected():
    random = np.random.default_rng(0)
    factors = random.normal(size=[100, 2])
    pairs = ContinuousPairs(random.normal(size=[100, 4]), factors, 0.8, seed=0)
    with pytest.raises(ValueError, match="tell factors apart"):
        PairAxes([2, 1, 1]).adapt(pairs)


def test_constants_are_left_to_the_residual():
    (pair, *_), _ = draw_pairs([2, 2])
    pair = [np.concatenate([x, np.full([len(x), 1], 7.0, "float32")], axis=1) for x in pair]
    layer = PairAxes([3, 2])
    layer.adapt([pair])
    y = run(layer, pair[0])
    np.testing.assert_allclose(sorted(y.var(axis=0).round(1)), [0.0, 1.0, 1.0, 1.0, 1.0])
    assert np.argmin(y.var(axis=0)) == 2
    np.testing.assert_allclose(run_back(layer, y), pair[0], atol=1e-4)


def test_pairs_of_images_are_pairs_at_each_position():
    (pair,), _ = draw_pairs([2, 1], count=600)
    layer, of_vectors = PairAxes([2, 1], 0.0, axes=[3]), PairAxes([2, 1], 0.0)
    layer.adapt([[x.reshape(100, 2, 3, 3) for x in pair]], batch_size=64)
    of_vectors.adapt([pair])
    np.testing.assert_allclose(to_numpy(layer.matrix), to_numpy(of_vectors.matrix), atol=1e-3)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (np.zeros([4, 3], "float32"), "There should be pairs"),
        ([np.zeros([4, 3], "float32")] * 2, "There should be pairs"),
        ([(np.zeros([4, 3]), np.zeros([5, 3]))], "There should be pairs"),
        ([np.random.default_rng(0).normal(size=[2, 9, 3])] * 2, "each of 1 factors"),
        ([np.random.default_rng(0).normal(size=[2, 1, 3])], "at least two pairs"),
        ([np.zeros([2, 9, 3])], "not all the same"),
        ({"a": 1.0}, "There should be pairs"),
        ([np.zeros([2, 9, 3]), np.zeros([2, 9, 4])], "instances of the same shape"),
    ],
)
def test_other_data_than_pairs_are_rejected(pairs, message):
    with pytest.raises(ValueError, match=message):
        PairAxes([2, 1]).adapt(pairs)


@pytest.mark.parametrize(
    ("sizes", "shrinkage"), [([2, -1], None), ([2, 2], None), ([2, 1], 1.5), ([0], None)]
)
def test_sizes_and_shrinkage_out_of_range_are_rejected(sizes, shrinkage):
    with pytest.raises(ValueError, match=r"`(dimensions_per_factor|shrinkage)` should"):
        PairAxes(sizes, shrinkage, shape=[3])


def test_pairs_reach_axes_behind_other_layers_and_within_models():
    sizes = [4, 1, 2]
    pairs, _ = draw_pairs(sizes, count=300)
    axes = PairAxes([2, 1, 2])
    inner = FlowModel([ActivationNormalization(), axes])
    model = FlowModel([PrincipalRotation(), FactorOut(inner, kept_count=5)])
    assert model.adapts_to_pairs
    model.adapt(pairs, batch_size=128)
    rotation, normalisation = PrincipalRotation(), ActivationNormalization()
    x = np.concatenate([side for k in (0, 1) for side in (pairs[0][k], pairs[1][k])])
    rotation.adapt(x)
    kept = run(rotation, x)[:, :5]
    normalisation.adapt(kept)
    alone = PairAxes([2, 1, 2])
    alone.adapt(
        [[run(normalisation, run(rotation, side)[:, :5]) for side in pair] for pair in pairs]
    )
    # The variances of residual axes are the same here, and so is any rotation of them.
    expected = np.concatenate([run(rotation, x)[:, 5:], run(alone, run(normalisation, kept))], 1)
    np.testing.assert_allclose(run(model, x)[:, 4:], expected[:, 4:], atol=1e-3)
    np.testing.assert_allclose(run(model, x)[:, :2], expected[:, :2], atol=1e-3)
    with pytest.raises(ValueError, match="There should be pairs"):
        model.adapt(x)


def test_a_source_of_pairs_gives_what_its_pairs_by_factor_give():
    random = np.random.default_rng(0)
    labels = random.integers(3, size=[400, 2])
    x = random.normal(size=[400, 5]) + labels @ random.normal(size=[2, 5])
    source = CategoricalPairs(x, labels, batch_size=150, seed=0)
    batches = [source[index] for index in range(len(source))]
    y = np.concatenate([y for _, y in batches])
    a, b = (np.concatenate([pair[side] for pair, _ in batches]) for side in (0, 1))
    by_factor = [(a[y[:, k] != 0], b[y[:, k] != 0]) for k in (1, 2)]
    matrices = []
    for pairs in (source, iter(batches), by_factor):
        layer = PairAxes([3, 1, 1])
        layer.adapt(pairs)
        matrices.append(to_numpy(layer.matrix))
    np.testing.assert_allclose(matrices[1], matrices[0], atol=1e-5)
    np.testing.assert_allclose(matrices[2], matrices[0], atol=1e-4)


def test_axes_are_saved_with_what_is_known_of_them(tmp_path):
    (pair,), _ = draw_pairs([2, 1], count=200)
    model = FlowModel(
        [PrincipalRotation(), Inverse(PrincipalRotation()), PairAxes({"residual": 2, "size": 1})]
    )
    model.adapt({"size": pair})
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(run(loaded, pair[0]), run(model, pair[0]), atol=1e-6)
    (rotation, _, axes), (_, _, expected) = loaded._flow_layers_, model._flow_layers_
    assert axes.dimensions_per_factor == {"residual": 2, "size": 1}
    for name in ("correlations", "explained_variance"):
        np.testing.assert_array_equal(
            to_numpy(getattr(axes, name)), to_numpy(getattr(expected, name))
        )
    assert rotation.explained_variance[0] > 0.34
