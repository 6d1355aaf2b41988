"""Reflections: the compact form against the product of Householder matrices."""

import numpy as np
import pytest
from keras import ops

from gyoza.modelling.flow_layers import Reflection
from gyoza.modelling.flow_layers.reflections import reflect


def sequential(x, normals):
    """Reflects rows of `x` by one normal after the other."""
    for normal in normals:
        x = x - 2 * np.outer(x @ normal, normal) / (normal @ normal)
    return x


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_compact_form_equals_the_sequential_product(count):
    random = np.random.default_rng(0)
    x, normals = random.normal(size=(6, 5)), random.normal(size=(count, 5))
    arguments = [ops.convert_to_tensor(array, dtype="float64") for array in (x, normals)]
    forward = ops.convert_to_numpy(reflect(*arguments))
    backward = ops.convert_to_numpy(reflect(*arguments, reverse=True))
    np.testing.assert_allclose(forward, sequential(x, normals), atol=1e-12)
    np.testing.assert_allclose(backward, sequential(x, normals[::-1]), atol=1e-12)


def test_layer_reflects_by_its_normals_in_order():
    layer = Reflection([4], [1], reflection_count=3)
    normals = np.random.default_rng(1).normal(size=(3, 4))
    layer._reflection_normals_.assign(normals)
    x = np.random.default_rng(2).normal(size=(5, 4)).astype("float32")
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer(x)[0]), sequential(x, normals), rtol=1e-5, atol=1e-6
    )
    layer._inverse_mode_ = True
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer(x)[0]), sequential(x, normals[::-1]), rtol=1e-5, atol=1e-6
    )


class Mirrored(Reflection):
    """Reflects, and then changes the sign of the first dimension, or the other way round."""

    def _reflect_(self, x):
        signs = ops.convert_to_tensor([-1.0, 1.0, 1.0])
        if self._inverse_mode_:
            return super()._reflect_(x * signs)
        return super()._reflect_(x) * signs


@pytest.mark.parametrize("inverse_mode", [False, True])
def test_overridden_reflections_are_used_in_both_directions(inverse_mode):
    layer = Mirrored([3], [1], reflection_count=2, inverse_mode=inverse_mode)
    x = np.random.default_rng(2).normal(size=(5, 3)).astype("float32")
    normals = ops.convert_to_numpy(layer._reflection_normals_)
    signs = np.array([-1, 1, 1])
    expected = (
        sequential(x * signs, normals[::-1]) if inverse_mode else sequential(x, normals) * signs
    )
    outputs, log_det = layer(x)
    np.testing.assert_allclose(ops.convert_to_numpy(outputs), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.invert(outputs)), x, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ops.convert_to_numpy(log_det), np.zeros(5))
    assert layer._inverse_mode_ == inverse_mode


@pytest.mark.parametrize("factor", [1e-15, 1e15])
def test_length_of_normals_has_no_effect(factor):
    layer = Reflection([4], [1], reflection_count=3)
    x = np.random.default_rng(2).normal(size=(5, 4)).astype("float32")
    expected = ops.convert_to_numpy(layer(x)[0])
    layer._reflection_normals_.assign(layer._reflection_normals_ * factor)
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x)[0]), expected, rtol=1e-5, atol=1e-6)


def test_normals_start_with_unit_length():
    normals = ops.convert_to_numpy(Reflection([6], [1], reflection_count=9)._reflection_normals_)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, rtol=1e-6)


def test_map_is_orthogonal_with_determinant_given_by_the_count():
    for count in (3, 4):
        layer = Reflection([5], [1], reflection_count=count)
        matrix = ops.convert_to_numpy(layer(np.eye(5, dtype="float32"))[0])
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(5), atol=1e-6)
        assert np.linalg.det(matrix) == pytest.approx((-1) ** count, abs=1e-5)


@pytest.mark.parametrize("count", [0, -1, 1.5, "a", None])
def test_bad_count(count):
    with pytest.raises(ValueError, match="`reflection_count` should be an integer of at least 1"):
        Reflection([4], [1], reflection_count=count)
