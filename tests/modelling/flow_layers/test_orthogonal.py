"""The learnable orthogonal map."""

import numpy as np
import pytest
from keras import ops

from gyoza.modelling.flow_layers import FlowModel, Orthogonal


def test_contract(check_contract):
    check_contract(Orthogonal(axes=[1, 3]), [2, 2, 2])


def to_matrix(layer, size):
    return np.asarray(ops.convert_to_numpy(layer(np.eye(size, dtype="float32"))[0]))


@pytest.mark.parametrize(("size", "count"), [(4, None), (5, None), (5, 4)])
def test_matrix_is_orthogonal_with_the_sign_of_its_count(size, count):
    matrix = to_matrix(Orthogonal(reflection_count=count), size)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-5)
    assert np.linalg.det(matrix) == pytest.approx((-1) ** (count or size), abs=1e-4)


def test_it_learns_any_map_of_its_sign():
    random = np.random.default_rng(0)
    target, _ = np.linalg.qr(random.normal(size=(3, 3)))
    target *= -np.sign(np.linalg.det(target))
    x = random.normal(size=(256, 3)).astype("float32")
    model = FlowModel([Orthogonal()])
    model.compile("adam", loss=["mse", None])
    model.optimizer.learning_rate = 0.05
    model.fit(x, (x @ target).astype("float32"), batch_size=16, epochs=15, verbose=0)
    np.testing.assert_allclose(to_matrix(model, 3), target, atol=0.02)


def test_count_follows_the_inputs_until_it_is_given():
    layer = Orthogonal()
    assert layer.get_config()["reflection_count"] is None
    copy = Orthogonal.from_config(layer.get_config())
    copy(np.zeros([1, 6], "float32"))
    assert copy.reflection_count == 6
    assert Orthogonal(reflection_count=2).get_config()["reflection_count"] == 2
    with pytest.raises(ValueError, match="`reflection_count` should be an integer of at least 1"):
        Orthogonal(reflection_count=0)


@pytest.mark.parametrize("size", [4, 5])
def test_it_can_start_as_the_identity_and_still_learn(size):
    layer = Orthogonal(initializer="identity")
    np.testing.assert_allclose(to_matrix(layer, size), np.eye(size), atol=1e-6)
    copy = Orthogonal.from_config(layer.get_config())
    np.testing.assert_allclose(to_matrix(copy, size), np.eye(size), atol=1e-6)
    normals = ops.convert_to_numpy(layer._reflection_normals_).copy()
    normals[0] += 0.5
    layer._reflection_normals_.assign(normals)
    matrix = to_matrix(layer, size)
    assert np.abs(matrix - np.eye(size)).max() > 0.1
    assert np.linalg.det(matrix) == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(ValueError, match="even if `initializer` is 'identity'"):
        Orthogonal(shape=[3], reflection_count=3, initializer="identity")
    with pytest.raises(ValueError, match="Received: initializer='zeros'"):
        Orthogonal(initializer="zeros")
