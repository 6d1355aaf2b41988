"""A context reaches layers, base distribution and data of conditional flows."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy import stats

from gyoza.backend import jit
from gyoza.modelling.conditioners import MLP
from gyoza.modelling.distributions import DiagonalNormal, GaussianMixture
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AdditiveCoupling,
    AffineCoupling,
    CircularSplineCoupling,
    DisentanglingFlowModel,
    FlowModel,
    HeavisidePermutation,
    RationalQuadraticSplineCoupling,
)
from gyoza.modelling.losses import SupervisedFactorLoss
from gyoza.modelling.masks import CheckerBoardMask

pytestmark = [
    pytest.mark.usefixtures("without_xla"),
    pytest.mark.compiled_by("jax"),
]


def dense(units):
    return keras.Sequential([keras.layers.Dense(8, "tanh"), keras.layers.Dense(units)])


@keras.saving.register_keras_serializable(package="gyoza_tests")
class Beside(keras.layers.Layer):
    """A network in full shape that is given the list of inputs and context."""

    def build(self, input_shape):
        self.dense = keras.layers.Dense(input_shape[0][-1])
        self.dense.build((None, input_shape[0][-1] + input_shape[1][-1]))

    def call(self, inputs):
        return self.dense(ops.concatenate(inputs, axis=-1))


RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=[4, 2])
MAPS = RANDOM.normal(size=[4, 2, 2, 3])

CASES = {
    "affine": (AffineCoupling(conditioner=MLP([8])), [5], VECTORS),
    "affine-channels": (AffineCoupling(None, [3], MLP([8])), [2, 2, 4], VECTORS),
    "affine-map": (AffineCoupling(None, [3], MLP([8])), [2, 2, 4], MAPS),
    "additive-full-shape": (AdditiveCoupling(conditioner=Beside()), [4], VECTORS),
    "spline-one-dimension": (
        RationalQuadraticSplineCoupling(conditioner=MLP([8]), bin_count=3),
        [1],
        VECTORS,
    ),
    "circular": (
        CircularSplineCoupling(conditioner=MLP([8]), bin_count=3, mask=CheckerBoardMask()),
        [3],
        VECTORS,
    ),
    "model": (
        FlowModel(
            [
                ActivationNormalization(),
                FlowModel([AffineCoupling(conditioner=MLP([8]))]),
                HeavisidePermutation(),
                AdditiveCoupling(conditioner=MLP([8])),
            ],
            context_encoder=keras.layers.Dense(3),
        ),
        [4],
        VECTORS,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_contract(name, check_contract):
    layer, input_shape, context = CASES[name]
    is_further = name in ("affine-channels", "affine-map", "spline-one-dimension")
    check_contract(layer, input_shape, context=context, is_further_layout=is_further)


@pytest.mark.parametrize("cls", [AdditiveCoupling, AffineCoupling, RationalQuadraticSplineCoupling])
def test_one_dimension_is_transformed_by_weights_of_the_layer(cls, check_contract):
    check_contract(cls(conditioner=MLP([8])), [1], fresh_process=False)


def make_model(**kwargs):
    return FlowModel(
        [
            AffineCoupling(conditioner=MLP([8])),
            HeavisidePermutation(),
            AffineCoupling(conditioner=MLP([8])),
        ],
        **kwargs,
    )


@pytest.fixture(scope="module")
def data():
    """Normal vectors whose first two dimensions have three times the context as a mean."""
    random = np.random.default_rng(1)
    context = random.normal(size=(512, 2)).astype("float32")
    x = random.normal(size=(512, 3)) + np.pad(3.0 * context, [(0, 0), (0, 1)])
    return x.astype("float32"), context


@pytest.fixture(scope="module")
def model(data):
    x, context = data
    model = make_model()
    model.compile(keras.optimizers.Adam(2e-2))
    inputs = {"inputs": x, "context": context}
    model.fit(inputs, epochs=30, validation_data=(inputs,), verbose=0)
    return model


def test_fit_learns_a_conditional_density(data, model):
    x, context = data
    truth = stats.norm.logpdf(x - np.pad(3.0 * context, [(0, 0), (0, 1)])).sum(axis=1).mean()
    assert to_numpy(model.log_prob(x, context)).mean() == pytest.approx(truth, abs=0.1)
    assert to_numpy(model.log_prob(x, -context)).mean() < truth - 5.0


def test_evaluate_and_predict_take_dictionaries(data, model):
    x, context = data
    inputs = {"inputs": x, "context": context}
    expected = -to_numpy(model.log_prob(inputs)).mean()
    assert model.evaluate(inputs, verbose=0) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(
        model.predict(inputs, verbose=0)[0], to_numpy(model(x, context)[0]), rtol=1e-4, atol=1e-5
    )


def test_samples_follow_one_context_or_one_for_each(model):
    one = to_numpy(model.sample(2000, seed=0, context=[1.0, -1.0]))
    np.testing.assert_allclose(one.mean(axis=0), [3.0, -3.0, 0.0], atol=0.6)
    context = np.repeat([[1.0, -1.0], [-1.0, 1.0]], 1000, axis=0).astype("float32")
    each, log_prob = model.sample_and_log_prob(2000, seed=0, context=context)
    np.testing.assert_allclose(to_numpy(each)[1000:].mean(axis=0), [-3.0, 3.0, 0.0], atol=0.6)
    np.testing.assert_allclose(
        to_numpy(log_prob), to_numpy(model.log_prob(each, context)), rtol=1e-3, atol=1e-3
    )


def test_one_context_serves_all_instances(data, model):
    x, context = data
    expected = to_numpy(model.log_prob(x, np.repeat(context[:1], len(x), axis=0)))
    for one in (context[0], context[:1]):
        np.testing.assert_allclose(to_numpy(model.log_prob(x, one)), expected, rtol=1e-5)


def test_adapt_takes_a_context(data):
    x, context = data
    model = FlowModel([AffineCoupling(conditioner=MLP([8])), ActivationNormalization()])
    model.adapt({"inputs": x, "context": context})
    outputs = to_numpy(model(x, context)[0])
    np.testing.assert_allclose(outputs.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(outputs.std(axis=0), 1.0, atol=1e-3)


def test_context_encoder_is_trained_with_the_flow(data):
    x, _ = data
    encoder = keras.Sequential([keras.layers.Embedding(5, 4), keras.layers.Flatten()])
    model = make_model(context_encoder=encoder)
    model.compile("adam")
    classes = np.arange(len(x))[:, None] % 5
    model(x[:2], classes[:2])
    before = encoder.get_weights()[0]
    last = model._flow_layers_[0]._compute_coupling_parameters_.dense_layers[-1]
    last.kernel.assign(np.random.default_rng(0).normal(size=last.kernel.shape))
    model.fit({"inputs": x, "context": classes}, verbose=0)
    assert np.all(np.any(encoder.get_weights()[0] != before, axis=1))


def test_base_distribution_with_a_context_network(data):
    x, context = data
    network = keras.layers.Dense(6, use_bias=False)
    model = FlowModel([ActivationNormalization()], DiagonalNormal([3], context_network=network))
    model(keras.Input([3]), context=keras.Input([2]))
    network.set_weights([np.eye(2, 6, dtype="float32")])
    expected = stats.norm.logpdf(x - np.pad(context, [(0, 0), (0, 1)])).sum(axis=1)
    np.testing.assert_allclose(to_numpy(model.log_prob(x, context)), expected, rtol=1e-4, atol=1e-4)
    samples = to_numpy(model.sample(2000, seed=0, context=[5.0, -5.0]))
    np.testing.assert_allclose(samples.mean(axis=0), [5.0, -5.0, 0.0], atol=0.1)


def test_labels_choose_the_classes_of_a_mixture():
    random = np.random.default_rng(0)
    labels = random.integers(2, size=600)
    x = (random.normal(size=(600, 2)) + 4.0 * labels[:, None] - 2.0).astype("float32")
    mixture = GaussianMixture(1, [2], class_count=2, location=0.0)
    model = FlowModel([ActivationNormalization()], mixture)
    model.compile(keras.optimizers.Adam(0.1))
    model.fit(x, labels, epochs=10, verbose=0)
    location = to_numpy(mixture.location)[:, 0]
    assert np.all(location[1] - location[0] > 1.0)
    expected = -to_numpy(mixture.log_prob(model(x)[0], labels=labels) + model(x)[1]).mean()
    assert model.evaluate(x, labels, verbose=0) == pytest.approx(expected, rel=1e-4)
    marginal = -to_numpy(model.log_prob(x)).mean()
    weights = np.ones(len(x))
    assert model.evaluate(x, sample_weight=weights, verbose=0) == pytest.approx(marginal, rel=1e-4)
    with pytest.raises(ValueError, match="integers from 0 to 1"):
        model.fit(x, labels + 1, verbose=0)


def test_pairs_share_a_context(data):
    x, context = data
    model = DisentanglingFlowModel([AffineCoupling(conditioner=MLP([8]))])
    model.compile("adam", loss=SupervisedFactorLoss([1, 2]))
    inputs = {"inputs": (x, x[::-1].copy()), "context": context}
    model.fit(inputs, np.full([len(x), 2], 0.5, "float32"), verbose=0)
    z, log_det = jit(model)(ops.convert_to_tensor(x), ops.convert_to_tensor(context))
    pairs = to_numpy(model(inputs))
    np.testing.assert_allclose(pairs[:, :3], to_numpy(z), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pairs[:, 6], to_numpy(log_det), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda m, x, c: m(x), ValueError, "should be given a `context`"),
        (lambda m, x, c: m.invert(x), ValueError, "should be given a `context`"),
        (lambda m, x, c: m.log_prob(x), ValueError, "should be given a `context`"),
        (lambda m, x, c: m.sample(3), ValueError, "should be given a `context`"),
        (lambda m, x, c: m.fit(x, verbose=0), ValueError, "should be given a `context`"),
        (lambda m, x, c: m(x, c[:3]), ValueError, "batch size 512"),
        (lambda m, x, c: m.log_prob(x, c[:3]), ValueError, "batch size 512"),
        (lambda m, x, c: m.sample(4, context=c[:3]), ValueError, "batch size 4"),
        (lambda m, x, c: m(x, c[:, :1]), ValueError, r"should have shape \(512, 2\)"),
        (
            lambda m, x, c: m(x, c.astype("int32")),
            TypeError,
            "floating-point numbers: one-hot rows for classes, or integers .* dtype=int32",
        ),
        (
            lambda m, x, c: m._flow_layers_[0](x, c.astype("int32")),
            TypeError,
            "floating-point numbers: one-hot rows for classes, or integers ",
        ),
        (lambda m, x, c: m({"inputs": x, "contexts": c}), ValueError, "contexts"),
        (lambda m, x, c: m(x, c[:, 0]), ValueError, r"at least one more: `context\[:, None\]`"),
        (
            lambda m, x, c: m.adapt({"inputs": x, "context": c[:, 0]}),
            ValueError,
            r"at least one more: `context\[:, None\]` .*context\.shape=\(512,\)",
        ),
        (
            lambda m, x, c: m.fit({"inputs": x, "context": c[:, 0]}, verbose=0),
            ValueError,
            r"at least one more: `context\[:, None\]` .*context\.shape=\(512,\)",
        ),
        (
            lambda m, x, c: FlowModel([ActivationNormalization()])(x, c),
            ValueError,
            "no layers, nor a base distribution, that take a context",
        ),
        (lambda m, x, c: make_model(context_encoder=len), TypeError, "Keras layer"),
    ],
)
def test_bad_input(data, model, use, error, message):
    with pytest.raises(error, match=message):
        use(model, *data)


def test_a_model_built_without_a_context_rejects_one(data):
    x, context = data
    model = make_model()
    model(x)
    with pytest.raises(ValueError, match="built without a context"):
        model.log_prob(x, context)
