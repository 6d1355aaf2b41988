"""Linear layers: triangular factors against dense matrices."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy import stats

from gyoza.modelling.flow_layers import FlowModel
from gyoza.modelling.flow_layers.linear import InvertibleConvolution, LULinear, TriangularAffine


def randomise(layer, seed=0):
    """Moves all trainable weights away from where they start."""
    random = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(to_numpy(weight) + 0.3 * random.normal(size=weight.shape))
    return layer


CASES = {
    "lu-vector": (LULinear(seed=1), [5]),
    "lu-one-dimension": (LULinear(seed=1), [1]),
    "lu-from-identity": (LULinear(initializer="identity"), [4]),
    "lu-without-bias": (LULinear([4], [1], use_bias=False, seed=2), [4]),
    "lu-not-contiguous": (LULinear(axes=[1, 3], seed=3), [2, 3, 2]),
    "convolution": (InvertibleConvolution(seed=4), [2, 3, 3]),
    "convolution-vector": (InvertibleConvolution([3], seed=4), [3]),
    "convolution-channels-first": (InvertibleConvolution(axes=[1], seed=4), [3, 2, 2]),
    "triangular-vector": (TriangularAffine(), [4]),
    "triangular-one-dimension": (TriangularAffine([1]), [1]),
    "triangular-channels": (TriangularAffine(axes=[3]), [2, 2, 3]),
}


@pytest.mark.parametrize("name", CASES)
def test_contract(name, check_contract):
    layer, input_shape = CASES[name]
    # Neither dtypes nor saving depend on axes: one case of each class is enough there.
    is_further = name not in ("lu-vector", "convolution", "triangular-vector")
    check_contract(layer, input_shape, tolerance=2e-5, is_further_layout=is_further)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_a_new_layer_is_orthogonal(size):
    layer = LULinear([size], dtype="float64", seed=5)
    if layer.log_det_dtype != keras.backend.standardize_dtype(layer.matrix.dtype):
        pytest.skip("float64 is not enabled")
    matrix = to_numpy(layer.matrix)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-12)
    np.testing.assert_allclose(to_numpy(layer(np.ones([2, size]))[1]), 0, atol=1e-12)


def test_a_new_layer_is_the_identity_if_it_is_told_so():
    layer = InvertibleConvolution([3], initializer="identity")
    x = np.random.default_rng(0).normal(size=[2, 2, 2, 3]).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)[0]), x)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.invert(x)), x)
    with pytest.raises(ValueError, match="`initializer` should be"):
        LULinear(initializer="zeros")


def test_lu_is_the_product_of_its_factors():
    layer = randomise(LULinear([6], seed=6))
    factors, signs = to_numpy(layer.factors), to_numpy(layer.signs)
    permutation = np.zeros([6, 6])
    permutation[np.arange(6), to_numpy(layer.permutation)] = 1
    lower = np.tril(factors, -1) + np.eye(6)
    upper = np.triu(factors, 1) + np.diag(signs * np.exp(np.diag(factors)))
    dense = permutation @ lower @ upper
    assert not np.array_equal(permutation, np.eye(6))
    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    outputs, log_det = layer(x)
    np.testing.assert_allclose(to_numpy(layer.matrix), dense, atol=1e-5)
    np.testing.assert_allclose(to_numpy(outputs), x @ dense + to_numpy(layer.bias), atol=1e-5)
    np.testing.assert_allclose(to_numpy(log_det), np.linalg.slogdet(dense)[1], rtol=1e-5)
    np.testing.assert_allclose(
        to_numpy(layer.invert(x)), (x - to_numpy(layer.bias)) @ np.linalg.inv(dense), atol=1e-4
    )


def test_convolution_multiplies_the_log_determinant_by_the_number_of_pixels():
    layer = randomise(InvertibleConvolution([3], seed=7))
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype("float32")
    outputs, log_det = layer(x)
    matrix = to_numpy(layer.matrix)
    convolved = ops.conv(x, ops.reshape(matrix, [1, 1, 3, 3]), data_format="channels_last")
    np.testing.assert_allclose(
        to_numpy(outputs), to_numpy(convolved) + to_numpy(layer.bias), atol=1e-5
    )
    np.testing.assert_allclose(
        to_numpy(log_det), 20 * np.linalg.slogdet(matrix)[1] * np.ones(2), rtol=1e-5
    )


def test_convolution_works_at_another_resolution():
    layer = randomise(InvertibleConvolution(seed=7))
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    outputs = to_numpy(layer(x)[0])
    np.testing.assert_allclose(to_numpy(layer(x[:, :2, :3])[0]), outputs[:, :2, :3], atol=1e-6)


def test_triangular_affine_is_the_normal_distribution_of_its_precision():
    layer = randomise(TriangularAffine([4]))
    matrix, bias = to_numpy(layer.matrix), to_numpy(layer.bias)
    np.testing.assert_array_equal(np.triu(matrix, 1), 0)
    assert np.all(np.diag(matrix) > 0)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    z, log_det = map(to_numpy, layer(x))
    np.testing.assert_allclose(z, x @ matrix.T + bias, atol=1e-5)
    normal = stats.multivariate_normal(
        -np.linalg.solve(matrix, bias), np.linalg.inv(matrix.T @ matrix)
    )
    log_prob = log_det + stats.norm.logpdf(z).sum(axis=1)
    np.testing.assert_allclose(log_prob, normal.logpdf(x), rtol=1e-4)


def test_half_precision_solves_an_ill_conditioned_system_in_float32():
    layer = LULinear([4], seed=8, use_bias=False, dtype="mixed_float16")
    factors = to_numpy(layer.factors).copy()
    np.fill_diagonal(factors, [-6.0, -2.0, 2.0, 6.0])
    layer.factors.assign(factors)
    y = np.array([[1.0, -2.0, 0.5, 3.0]], "float16")
    expected = y.astype("float64") @ np.linalg.inv(to_numpy(layer.matrix).astype("float64"))
    np.testing.assert_allclose(to_numpy(layer.invert(y)), expected, rtol=2e-3)


def test_the_seed_decides_and_is_kept():
    first, second, other = (LULinear([5], seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(to_numpy(first.matrix), to_numpy(second.matrix))
    assert not np.allclose(to_numpy(first.matrix), to_numpy(other.matrix))
    unseeded = LULinear([5])
    copy = LULinear.from_config(unseeded.get_config())
    np.testing.assert_array_equal(to_numpy(copy.matrix), to_numpy(unseeded.matrix))


@pytest.mark.parametrize("layer", [LULinear(seed=0), TriangularAffine()], ids=["lu", "triangular"])
def test_infinite_inputs_leave_the_log_determinant_alone(layer):
    x = np.array([[np.inf, 1.0], [1.0, np.nan]], "float32")
    np.testing.assert_allclose(to_numpy(layer(x)[1]), [0.0, 0.0], atol=1e-6)


def test_training_decorrelates():
    """A normal distribution is fitted: outputs become uncorrelated, with variance 1."""
    random = np.random.default_rng(0)
    x = random.normal(size=(500, 2)) @ np.array([[2.0, 1.0], [0.0, 0.5]]) + 1.0
    model = FlowModel([LULinear([2], seed=9)])
    optimizer = keras.optimizers.Adam(0.05)

    class Likelihood(keras.Model):
        def __init__(self):
            super().__init__()
            self.flow = model

        def call(self, x):
            z, log_det = self.flow(x)
            return 0.5 * ops.sum(z**2, axis=-1) - log_det

    trainer = Likelihood()
    trainer.compile(optimizer, loss=lambda _, energy: energy)
    repeated = np.tile(x.astype("float32"), [20, 1])  # since each epoch has a cost of its own
    options = {"batch_size": 500, "epochs": 6, "shuffle": False, "verbose": 0}
    trainer.fit(repeated, np.zeros(len(repeated)), **options)
    z = to_numpy(model(x.astype("float32"))[0])
    np.testing.assert_allclose(np.cov(z.T), np.eye(2), atol=0.05)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.05)


def test_bad_shapes():
    with pytest.raises(ValueError, match=r"`shape` should hold only the number of channels"):
        InvertibleConvolution([2, 3])
    with pytest.raises(ValueError, match=r"The input should have the axes \[1\]"):
        InvertibleConvolution().build((None,))
    layer = InvertibleConvolution([3])
    with pytest.raises(ValueError, match=r"The input should have shape \[3\] along axes \[3\]"):
        layer(np.ones([1, 2, 2, 4], "float32"))
    with pytest.raises(ValueError, match="should be built before `invert`"):
        LULinear().invert(np.ones([1, 3], "float32"))
