"""Residual flows: contractions, exact log-determinants and unbiased estimates of them."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import jit, vjp
from gyoza.modelling.flow_layers import FlowModel, Residual
from gyoza.modelling.functions.spectral_norms import bound_spectral_norm

pytestmark = pytest.mark.usefixtures("without_xla")


def with_random_weights(scale=1.0, **arguments):
    layer = Residual(shape=[3], **arguments)
    random = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(scale * random.normal(size=weight.shape))
    return layer


@pytest.mark.compiled_by("tensorflow")
def test_contract(check_contract):
    check_contract(Residual(hidden_sizes=[6, 5]), [3])


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (1, 5), (64, 64)])
def test_spectral_norm_is_bounded_tightly_from_above(shape):
    matrix = np.random.default_rng(0).normal(size=shape)
    bound = float(jit(bound_spectral_norm)(ops.convert_to_tensor(matrix, dtype="float64")))
    assert 1 - 1e-12 <= bound / np.linalg.norm(matrix, 2) < 1.017


def test_bound_of_a_matrix_of_zeros_has_a_finite_gradient():
    bound, pullback = vjp(bound_spectral_norm, [ops.zeros([3, 4])])
    assert 0 <= float(bound) < 1e-5
    np.testing.assert_array_equal(to_numpy(pullback(ops.ones_like(bound))[0]), np.zeros([3, 4]))


def test_inverse_exists_for_all_weights():
    layer = with_random_weights(scale=10.0, hidden_sizes=[16, 16], dtype="float64")
    for kernel in layer._cast_weights()[0]:
        assert np.linalg.norm(to_numpy(kernel), 2) <= 0.97
    x = 3 * np.random.default_rng(2).normal(size=(50, 3))
    outputs, _ = jit(layer)(ops.convert_to_tensor(x, dtype="float64"))
    np.testing.assert_allclose(to_numpy(jit(layer.invert)(outputs)), x, atol=1e-10)


def estimate_many(layer, x, count):
    """Draws log-determinants and gradients of their sums by `x` and one of the kernels."""

    @jit
    def draw(x, kernel, seed):
        def run(x, kernel):
            state = [(layer.kernels[0], kernel), (layer.seed_generator.state, seed)]
            with keras.StatelessScope(state_mapping=state):
                return layer(x, training=True)[1]

        log_det, pullback = vjp(run, [x, kernel])
        return log_det, *pullback(ops.ones_like(log_det))

    x, kernel = ops.convert_to_tensor(x), layer.kernels[0].value
    state = layer.seed_generator.state
    seeds = [ops.convert_to_tensor([seed, 0], dtype=state.dtype) for seed in range(count)]
    return [
        np.stack(list(map(to_numpy, draws)))
        for draws in zip(*(draw(x, kernel, seed) for seed in seeds), strict=True)
    ]


def test_estimates_are_unbiased_in_values_and_gradients():
    exact = with_random_weights(hidden_sizes=[8], coefficient=0.9)
    layer = Residual(shape=[3], hidden_sizes=[8], coefficient=0.9, exact_limit=2, seed=0)
    for to, weight in zip(layer.trainable_weights, exact.trainable_weights, strict=True):
        to.assign(weight)
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    draws = estimate_many(layer, x, 300)
    expected = estimate_many(exact, x, 1)
    for drawn, value in zip(draws, expected, strict=True):
        mean, error = drawn.mean(axis=0), drawn.std(axis=0) / np.sqrt(len(drawn))
        assert np.mean(error) > 1e-4  # they are estimates
        scores = (mean - value[0]) / (error + 1e-6)
        assert np.max(np.abs(scores)) < 5
        assert np.abs(scores.mean()) < 1


def test_training_with_estimates_raises_the_likelihood_and_keeps_the_layer_invertible():
    random = np.random.default_rng(0)
    x = random.normal(size=(512, 2))
    x[:, 1] = 0.3 * x[:, 1] + np.tanh(2 * x[:, 0])
    x = x.astype("float32")
    model = FlowModel([Residual(hidden_sizes=[16], exact_limit=0, seed=seed) for seed in range(2)])
    model.compile(keras.optimizers.Adam(1e-2))
    before = float(model.evaluate(x, batch_size=512, verbose=0))
    model.fit(x, batch_size=64, epochs=5, verbose=0)
    assert float(model.evaluate(x, batch_size=512, verbose=0)) < before - 0.1
    for layer in model._flow_layers_:
        assert all(np.linalg.norm(to_numpy(k), 2) < 0.971 for k in layer._cast_weights()[0])
    z, _ = model.predict(x, verbose=0)
    np.testing.assert_allclose(to_numpy(jit(model.invert)(ops.convert_to_tensor(z))), x, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"hidden_sizes": []}, "hidden_sizes"),
        ({"hidden_sizes": [0]}, "hidden_sizes"),
        ({"coefficient": 1.0}, "coefficient"),
        ({"exact_limit": -1}, "exact_limit"),
    ],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` should be"):
        Residual(**arguments)


def test_rows_that_are_not_finite_leave_others_alone():
    layer = with_random_weights(hidden_sizes=[4])
    outputs = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    expected = to_numpy(layer.invert(outputs))
    outputs[1, 0], outputs[2, 1] = np.nan, np.inf
    inputs = to_numpy(layer.invert(outputs))
    np.testing.assert_allclose(inputs[[0, 3]], expected[[0, 3]], atol=1e-5)
    assert np.isnan(inputs[1:3]).all()
