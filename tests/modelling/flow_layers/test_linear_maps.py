"""Linear maps are set with their inverse, and principal axes are those of the data."""

import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy
from sklearn.decomposition import PCA

from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    FlowModel,
    LinearMap,
    PairAxes,
    PrincipalRotation,
)


def run(layer, x):
    return to_numpy(layer(np.asarray(x, "float32"))[0])


def draw(count, size, seed=0):
    """Draws correlated numbers with distinct principal axes, far from zero."""
    random = np.random.default_rng(seed)
    mixing = np.linalg.qr(random.normal(size=[size, size]))[0]
    scales = 3.0 * 0.8 ** np.arange(size)
    return ((random.normal(size=[count, size]) * scales) @ mixing + 5.0).astype("float32")


def test_a_map_is_set_with_its_inverse_and_its_determinant():
    random = np.random.default_rng(0)
    location, matrix = random.normal(size=3), random.normal(size=[3, 3])
    layer = LinearMap(axes=[2], shape=[3])
    layer.set_map(location, matrix)
    x = random.normal(size=[5, 2, 3]).astype("float32")
    y, log_det = map(to_numpy, layer(x))
    np.testing.assert_allclose(y, (x - location) @ matrix, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_det, 2 * np.linalg.slogdet(matrix)[1], rtol=1e-5)
    np.testing.assert_allclose(to_numpy(layer.inverse_matrix), np.linalg.inv(matrix), rtol=1e-4)
    np.testing.assert_allclose(to_numpy(layer.invert(y)), x, atol=1e-5)
    assert layer.trainable_weights == []


@pytest.mark.parametrize(
    ("location", "matrix", "message"),
    [
        (np.zeros(2), np.eye(3), "shapes"),
        (np.zeros(3), np.ones([3, 3]), "invertible"),
        (np.full(3, np.nan), np.eye(3), "finite"),
    ],
)
def test_what_is_not_a_map_is_rejected(location, matrix, message):
    layer = LinearMap(shape=[3])
    with pytest.raises(ValueError, match=message):
        layer.set_map(location, matrix)
    np.testing.assert_array_equal(to_numpy(layer.matrix), np.eye(3))


def test_a_rotation_is_set_to_orthogonal_matrices_only():
    with pytest.raises(ValueError, match="orthogonal"):
        PrincipalRotation(shape=[2]).set_map([0.0, 0.0], [[2.0, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize("make", [LinearMap, PrincipalRotation])
@pytest.mark.parametrize(("location", "matrix"), [(0.0, 2.0), ([0.0, 0.0], np.ones(2))])
def test_a_map_is_a_matrix(make, location, matrix):
    layer = make()
    with pytest.raises(ValueError, match="should have shapes"):
        layer.set_map(location, matrix)
    layer.set_map([1.0], [[1.0]])  # nothing was built
    assert layer.dimension_count == 1


def test_layers_adapt_to_the_width_that_they_take_only():
    x = np.random.default_rng(0).normal(size=[8, 6]).astype("float32")
    layer = PrincipalRotation()
    layer.adapt(x)
    matrix = to_numpy(layer.matrix)
    for data in (x[:, :3], [x, x[:, :3]]):
        with pytest.raises(ValueError, match=r"shape \[6\] along axes \[1\].*, 3\)"):
            layer.adapt(data)
    np.testing.assert_array_equal(to_numpy(layer.matrix), matrix)
    with pytest.raises(ValueError, match=r"shape \[3\] along"):
        PairAxes([2, 1], shape=[3]).adapt([(x, x)])


def test_principal_axes_are_those_of_scikit_learn():
    x = draw(500, 6)
    layer, pca = PrincipalRotation(), PCA(svd_solver="full").fit(x.astype("float64"))
    layer.adapt(x, batch_size=64)
    matrix = to_numpy(layer.matrix)
    products = np.abs(np.sum(matrix.T * pca.components_, axis=1))
    np.testing.assert_allclose(products, 1.0, atol=1e-4)
    assert np.all(matrix[np.argmax(np.abs(matrix), axis=0), np.arange(6)] > 0.0)
    np.testing.assert_allclose(layer.explained_variance, pca.explained_variance_ratio_, rtol=1e-3)
    np.testing.assert_allclose(to_numpy(layer.variances), run(layer, x).var(axis=0), rtol=1e-3)
    np.testing.assert_allclose(run(layer, x).mean(axis=0), 0.0, atol=1e-4)


def test_channels_rotate_alike_at_all_positions():
    x = draw(600, 3)
    layer, of_vectors = PrincipalRotation(axes=[3]), PrincipalRotation()
    layer.adapt(x.reshape(100, 2, 3, 3))
    of_vectors.adapt(x)
    np.testing.assert_allclose(
        run(layer, x.reshape(100, 2, 3, 3)).reshape(-1, 3), run(of_vectors, x), atol=1e-4
    )


def test_fewer_instances_than_dimensions_and_constants_are_no_problem():
    x = draw(20, 60)
    x[:, 7] = 3.0
    layer = PrincipalRotation()
    layer.adapt(x)
    y = run(layer, x)
    np.testing.assert_allclose(y[:, 19:], 0.0, atol=1e-4)
    np.testing.assert_allclose(np.sum(y.var(axis=0)), np.sum(x.var(axis=0)), rtol=1e-4)
    np.testing.assert_allclose(to_numpy(layer.invert(y)), x, atol=1e-4)


@pytest.mark.parametrize("data", [np.zeros([4, 2]), np.full([4, 2], np.nan), np.zeros([0, 2])])
def test_data_without_axes_are_rejected(data):
    layer = PrincipalRotation(shape=[2])
    with pytest.raises(ValueError, match="Received: "):
        layer.adapt(data)
    np.testing.assert_array_equal(to_numpy(layer.matrix), np.eye(2))


@pytest.mark.parametrize("make", [PrincipalRotation, lambda: PairAxes([1, 2])])
def test_frozen_layers_are_left_alone_and_need_no_pairs(make):
    layer = make()
    layer.trainable = False
    model = FlowModel([layer, ActivationNormalization()])
    with pytest.warns(UserWarning, match="frozen"):
        model.adapt(draw(50, 3))
    np.testing.assert_array_equal(to_numpy(layer.matrix), np.eye(3))
