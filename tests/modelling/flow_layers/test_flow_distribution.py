"""Flows as base distributions of others."""

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import MLP, VelocityMLP
from gyoza.modelling.distributions import DiagonalNormal
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    Affine,
    AffineCoupling,
    FlowDistribution,
    FlowMatchingModel,
    FlowModel,
    Inverse,
    Reflection,
    VariationalModel,
)

pytestmark = pytest.mark.compiled_by("jax")


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=[12, 2]).astype("float32")


def make_conditional(x, context):
    inner, outer = AffineCoupling(conditioner=MLP([8])), AffineCoupling(conditioner=MLP([8]))
    base = FlowModel([inner])
    base.build_for(x, context)
    nested = FlowModel([outer], base_distribution=base)
    nested.build_for(x, context)
    for variable in nested.trainable_variables:
        variable.assign(np.random.default_rng(1).normal(size=variable.shape))
    return nested, FlowModel([outer, inner])


def test_it_is_the_flow_with_the_layers_of_both(x):
    inner, outer = Affine(scale=[2.0, 0.5], shift=[1.0, -1.0]), Reflection(reflection_count=2)
    base = FlowModel([inner], base_distribution=DiagonalNormal())
    nested = FlowModel([outer], base_distribution=base)
    chain = FlowModel([outer, inner], base_distribution=base.base_distribution)
    np.testing.assert_allclose(to_numpy(nested.log_prob(x)), to_numpy(chain.log_prob(x)), rtol=1e-5)
    np.testing.assert_allclose(
        to_numpy(nested.sample(5, seed=3)), to_numpy(chain.sample(5, seed=3)), atol=1e-5
    )
    assert {id(weight) for weight in nested.weights} == {id(weight) for weight in chain.weights}


def test_a_context_reaches_both_and_is_saved(x, tmp_path):
    context = x[::-1].copy()
    nested, chain = make_conditional(x, context)
    log_prob = to_numpy(nested.log_prob(x, context))
    np.testing.assert_allclose(log_prob, to_numpy(chain.log_prob(x, context)), rtol=1e-4)
    for one_for_all in (context, context[0]):
        samples, of_samples = nested.sample_and_log_prob(12, context=one_for_all)
        expected = to_numpy(nested.log_prob(samples, one_for_all))
        np.testing.assert_allclose(to_numpy(of_samples), expected, rtol=1e-3, atol=1e-4)
    nested.save(tmp_path / "flow.keras")
    loaded = keras.models.load_model(tmp_path / "flow.keras")
    np.testing.assert_array_equal(to_numpy(loaded.log_prob(x, context)), log_prob)


def test_it_is_trained_unless_it_is_frozen(x):
    base = FlowModel([ActivationNormalization()])
    model = FlowModel([Reflection(reflection_count=2)], base_distribution=base)
    model.compile("adam")
    model.fit(x + 1.0, verbose=0)
    assert all(np.any(to_numpy(weight)) for weight in base.trainable_weights)
    base.trainable = False
    assert [tuple(weight.shape) for weight in model.trainable_weights] == [(2, 2)]


def test_paths_of_flow_matching_begin_at_its_samples(x):
    base = FlowModel([Affine(scale=100.0, shift=[-500.0, 0.0])])
    base.build((None, 2))
    model = FlowMatchingModel(VelocityMLP([8]), base_distribution=base)
    model.compile("adam")
    model.fit(x, verbose=0)
    latents = to_numpy(model.flow(model.sample(50))[0])
    np.testing.assert_allclose(latents.mean(axis=0), [5.0, 0.0], atol=0.05)


def test_bad_input(x):
    with pytest.raises(TypeError, match="`base_distribution` should be a `Distribution` or a `Flo"):
        FlowModel([Affine()], base_distribution=Affine())
    model = FlowMatchingModel(VelocityMLP([8]))
    for make in (
        lambda: FlowDistribution(model),
        lambda: FlowModel([Affine()], base_distribution=model),
        lambda: FlowModel([Affine(), model]),
        lambda: VariationalModel(model, lambda x: x),
    ):
        with pytest.raises(TypeError, match=r"should be a .* whose `flow` is one"):
            make()
    nested, _ = make_conditional(x, x)
    with pytest.raises(ValueError, match="should be given a `context`"):
        nested.log_prob(x)


@pytest.mark.parametrize("kind", ["base distribution", "inverse"])
def test_compiled_models_keep_their_metrics_to_themselves(kind):
    """Two metrics of one name would have Keras report a loss of zero."""
    x = np.random.default_rng(0).normal(size=[32, 2]).astype("float32")
    inner = FlowModel([ActivationNormalization()])
    inner.compile("sgd")
    inner.fit(x, verbose=0)
    layer = AffineCoupling(conditioner=MLP([4]))
    model = (
        FlowModel([layer], inner) if kind == "base distribution" else FlowModel([Inverse(inner)])
    )
    model.compile(keras.optimizers.SGD(0.0))
    loss = model.fit(x, batch_size=32, verbose=0).history["loss"][0]
    assert loss == pytest.approx(-np.mean(to_numpy(model.log_prob(x))), rel=1e-4)
