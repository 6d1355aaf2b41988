"""Products with Jacobian matrices and traces agree with those of a function in closed form."""

import keras
import numpy as np
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.functions import compute_products, compute_quadratic_forms, make_units

MATRIX = np.array([[0.5, -2.0, 1.0], [0.0, 3.0, 4.0], [-1.5, 2.5, 7.0]])
X = np.array([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]])
SCALES = np.array([[2.0], [-1.0]])


def compute(x, scales):
    """Returns s A x², row by row, with the Jacobian matrix 2 s A diag(x)."""
    return scales * ((x * x) @ ops.convert_to_tensor(MATRIX.T, dtype=x.dtype))  # with all digits


JACOBIANS = 2.0 * SCALES[..., None] * MATRIX * X[:, None]


def run(vectors):
    x, scales = ops.array(X, "float64"), ops.array(SCALES, "float64")
    outputs, products = compute_products(compute, x, vectors, [scales])
    np.testing.assert_allclose(to_numpy(outputs), SCALES * (X**2 @ MATRIX.T))
    assert {keras.backend.standardize_dtype(y.dtype) for y in (outputs, products)} == {"float64"}
    return to_numpy(products), to_numpy(compute_quadratic_forms(products, vectors))


def test_unit_vectors_give_the_rows_and_the_diagonal():
    units = make_units(ops.array(X, "float32"))
    np.testing.assert_array_equal(to_numpy(units), np.repeat(np.eye(3)[:, None], 2, axis=1))
    units = make_units(ops.array(X, "float64"))
    assert keras.backend.standardize_dtype(units.dtype) == "float64"
    products, forms = run(units)
    np.testing.assert_allclose(products, JACOBIANS.transpose(1, 0, 2))
    np.testing.assert_allclose(forms, np.diagonal(JACOBIANS, axis1=1, axis2=2).T)


def test_any_vectors_give_their_products():
    vectors = np.random.default_rng(0).normal(size=(5, 2, 3))
    products, forms = run(ops.array(vectors, "float64"))
    expected = np.einsum("kbi,bij->kbj", vectors, JACOBIANS)
    np.testing.assert_allclose(products, expected)
    np.testing.assert_allclose(forms, np.sum(expected * vectors, axis=-1))


def test_forms_sum_over_all_axes_of_an_instance():
    x = ops.array(X[:, :, None] + np.arange(2.0))
    units = make_units(x)
    assert units.shape == (6, 2, 3, 2)
    _, products = compute_products(lambda x: x * x * x, x, units)
    forms = compute_quadratic_forms(products, units)
    np.testing.assert_allclose(to_numpy(forms), 3.0 * to_numpy(x).reshape(2, 6).T ** 2, rtol=1e-6)
