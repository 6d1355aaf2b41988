import numpy as np

from gyoza.modelling.functions.principal_axes import diagonalise, find_axes


def test_eigenvectors_diagonalise_the_matrix_by_decreasing_eigenvalue():
    factor = np.random.default_rng(0).normal(size=[3, 5])
    matrix = factor.T @ factor - np.eye(5)  # some eigenvalues are negative
    for find in (diagonalise, find_axes):
        values, vectors = find(matrix)
        assert np.all(np.diff(values) <= 0)
        np.testing.assert_allclose(vectors @ np.diag(values) @ vectors.T, matrix, atol=1e-12)
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(5), atol=1e-12)
    assert np.all(vectors.max(axis=0) == np.abs(vectors).max(axis=0))
