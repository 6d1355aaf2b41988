"""Seeds of any size."""

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import VelocityMLP
from gyoza.modelling.distributions import GaussianMixture, StandardNormal
from gyoza.modelling.flow_layers import ContinuousFlow, FlowModel, Reflection, UniformDequantization
from gyoza.modelling.seeds import SeedGenerator, to_seed

LARGE = [2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1, 2**64, np.int64(2**62)]


def test_seeds_are_distinct_and_below_the_limit_of_keras():
    seeds = [to_seed(seed) for seed in [*LARGE, 2**40 + 1, 0, 1, 2**31 - 1]]
    assert len(set(seeds)) == len(seeds)
    assert seeds[-3:] == [0, 1, 2**31 - 1]
    assert all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize("distribution", [StandardNormal(), GaussianMixture(2)])
def test_samples_of_large_seeds_are_reproducible_and_distinct(distribution):
    model = FlowModel([Reflection()], distribution)
    model.build((None, 2))
    samples = [to_numpy(model.sample(4, seed=seed)) for seed in [*LARGE, 0]]
    assert len({sample.tobytes() for sample in samples}) == len(samples)
    np.testing.assert_array_equal(to_numpy(model.sample(4, seed=LARGE[3])), samples[3])


def test_layers_take_large_seeds():
    velocity = VelocityMLP([4])
    layers = [ContinuousFlow(velocity, exact_limit=0, seed=seed) for seed in (2**40, 2**40, 7)]
    states = [to_numpy(layer.seed_generator.state).tolist() for layer in layers]
    assert states[0] == states[1] != states[2] == [7, 0]
    assert ContinuousFlow.from_config(layers[0].get_config()).seed == 2**40


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="others keep states elsewhere")
def test_functions_that_jax_compiles_need_a_seed():
    import jax

    model = FlowModel([UniformDequantization(4), Reflection()])
    x = np.array([[0.0, 3.0], [1.0, 2.0]], "float32")
    expected = model.log_prob(x).shape
    for function in (lambda: model.sample(2), lambda: model.log_prob(x)):
        with pytest.raises(ValueError, match=r"drawn by a `seed`, or outside of `jax\.jit`"):
            jax.jit(function)()
    assert model.log_prob(x).shape == expected  # nothing is lost
    assert not np.array_equal(to_numpy(model.sample(2)), to_numpy(model.sample(2)))
    samples = jax.jit(lambda: model.sample(2, seed=1))()
    np.testing.assert_allclose(to_numpy(samples), to_numpy(model.sample(2, seed=1)), rtol=1e-6)
    gradient = jax.grad(lambda scale: jax.numpy.sum(model.base_distribution.sample(2) * scale))
    assert np.isfinite(gradient(1.0))  # states change where functions are differentiated


@pytest.mark.parametrize("seed", [-1, 0.5, "0", True])
def test_other_seeds_are_rejected(seed):
    with pytest.raises(ValueError, match="`seed` should be an integer of at least 0"):
        SeedGenerator(seed)
