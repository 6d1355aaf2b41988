import numpy as np
import pytest

from gyoza.modelling.functions.principal_axes import diagonalise, find_axes, measure_spread


def test_eigenvectors_diagonalise_the_matrix_by_decreasing_eigenvalue():
    factor = np.random.default_rng(0).normal(size=[3, 5])
    matrix = factor.T @ factor - np.eye(5)  # some eigenvalues are negative
    for find in (diagonalise, find_axes):
        values, vectors = find(matrix)
        assert np.all(np.diff(values) <= 0)
        np.testing.assert_allclose(vectors @ np.diag(values) @ vectors.T, matrix, atol=1e-12)
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(5), atol=1e-12)
    assert np.all(vectors.max(axis=0) == np.abs(vectors).max(axis=0))


def test_spread_of_batches_is_that_of_all_vectors():
    x = 2.0 + 0.1 * np.random.default_rng(0).normal(size=[60, 3])
    mean, covariance, fourth = measure_spread([x[:10], x[10:40], x[40:]])
    np.testing.assert_allclose(mean, x.mean(axis=0))
    np.testing.assert_allclose(covariance, np.cov(x.T, bias=True))
    squares = [
        ((part - x[:end].mean(axis=0)) ** 2).sum(axis=1)
        for part, end in ((x[:10], 10), (x[10:40], 40), (x[40:], 60))
    ]
    assert fourth == pytest.approx(np.mean(np.concatenate(squares) ** 2))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "^`data` should hold at least one instance. Received: no instance$"),
        (
            [np.ones([3, 2])],
            "^Data should hold .*, not all the same. Received: .* variance of 0.0$",
        ),
        ([np.full([3, 2], np.nan)], "^Data should hold finite numbers, .* variance of nan$"),
    ],
)
def test_data_without_a_spread(batches, message):
    with pytest.raises(ValueError, match=message):
        measure_spread(batches)
