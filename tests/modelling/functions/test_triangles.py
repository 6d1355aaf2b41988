import numpy as np
import pytest
from keras import ops

from gyoza.backend import jit, vjp
from gyoza.modelling.functions import triangles
from gyoza.modelling.functions.triangles import create_diagonal, solve_triangle


def solve(matrix, right, lower):
    matrix, right = (ops.convert_to_tensor(values, "float32") for values in (matrix, right))
    return ops.convert_to_numpy(solve_triangle(matrix, right, lower))


@pytest.fixture(params=["by rows", "by blocks"])
def way(request, monkeypatch):
    """Solves systems in one of two ways, whatever takes less time."""
    monkeypatch.setattr(triangles, "has_slow_substitution", lambda _: request.param == "by blocks")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("size", [1, 3, 8, 21])
def test_solutions_are_those_of_numpy(size, lower):
    random = np.random.default_rng(size)
    matrix = random.normal(size=(size, size)) / size + 2 * np.eye(size)
    matrix = np.tril(matrix) if lower else np.triu(matrix)
    right = random.normal(size=(size, 4))
    solved = solve(matrix, right, lower)
    np.testing.assert_allclose(solved, np.linalg.solve(matrix, right), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("way")
@pytest.mark.compiled_by("tensorflow")
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("size", [1, 3])
def test_gradients_are_those_of_the_closed_form(size, lower):
    random = np.random.default_rng(size)
    matrix = random.normal(size=(size, size)) / size + 2 * np.eye(size)
    take = np.tril if lower else np.triu
    matrix, right, weights = take(matrix), *random.normal(size=(2, size, 4))
    arguments = [ops.convert_to_tensor(values, "float32") for values in (matrix, right)]
    _, pull_back = vjp(lambda *both: solve_triangle(*both, lower=lower), arguments)
    gradients = pull_back(ops.convert_to_tensor(weights, "float32"))
    of_matrix, of_right = map(ops.convert_to_numpy, gradients)
    expected = np.linalg.solve(matrix.T, weights)
    np.testing.assert_allclose(of_right, expected, rtol=1e-4, atol=1e-5)
    expected = take(-expected @ np.linalg.solve(matrix, right).T)
    np.testing.assert_allclose(take(of_matrix), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("way")
def test_it_is_as_stable_as_substitution():
    # The powers of this matrix grow beyond all bounds, but not its inverse; nor do scales of
    # columns do harm.
    size = 150
    matrix = np.triu(np.ones((size, size)), k=1) + 0.5 * np.eye(size)
    scales = 10.0 ** np.random.default_rng(0).uniform(-6, 6, size=size)
    expected = np.linalg.inv(matrix)
    solved = solve(matrix * scales, np.eye(size), lower=False) * scales[:, None]
    np.testing.assert_allclose(solved, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_diagonal_matrices_have_a_known_shape(dtype):
    shapes = []

    @jit
    def create(values):
        matrix = create_diagonal(values)
        shapes.append(tuple(matrix.shape))
        return matrix

    values = np.array([1.0, -2.0, np.inf], dtype)
    matrix = ops.convert_to_numpy(create(ops.convert_to_tensor(values)))
    np.testing.assert_array_equal(matrix, np.diag(values))
    assert matrix.dtype == dtype
    assert set(shapes) == {(3, 3)}
