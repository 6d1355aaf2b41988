"""Bounds of spectral norms, which are norms of singular values in closed form."""

import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import vjp
from gyoza.modelling.functions import bound_spectral_norm


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 3)])
@pytest.mark.parametrize("options", [{"squarings": 0}, {"squarings": 1}, {"squarings": 3}, {}])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_bounds_are_norms_of_singular_values(shape, options, scale):
    matrix = scale * np.random.default_rng(0).normal(size=shape)
    values = np.linalg.svd(matrix / scale, compute_uv=False)
    order = 2 ** (2 + options.get("squarings", 6))
    bound = bound_spectral_norm(ops.convert_to_tensor(matrix, dtype="float64"), **options)
    expected = scale * np.sum(values**order) ** (1 / order)
    np.testing.assert_allclose(to_numpy(bound), expected, rtol=1e-5)


def test_equal_singular_values_have_the_loosest_bound():
    bound = to_numpy(bound_spectral_norm(ops.eye(4, dtype="float64")))
    np.testing.assert_allclose(bound, 4.0 ** (1.0 / 2**8), rtol=1e-10)


def test_tiny_matrices_stay_bounded_from_above():
    for scale in (1e-8, 1e-6):
        bound = to_numpy(bound_spectral_norm(scale * ops.eye(2, dtype="float32")))
        assert scale <= bound < 1e-5


def test_zeros_have_a_bound_and_finite_gradients():
    zeros = ops.zeros([3, 2], "float32")
    bound, pull_back = vjp(bound_spectral_norm, [zeros])
    assert 0.0 < to_numpy(bound) < 1e-5
    assert np.all(np.isfinite(to_numpy(pull_back(ops.ones_like(bound))[0])))
