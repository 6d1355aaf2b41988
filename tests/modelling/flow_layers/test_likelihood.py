"""Training by likelihood, densities and samples of models."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy import stats

from gyoza.backend import vjp
from gyoza.modelling.conditioners import MLP
from gyoza.modelling.distributions import DiagonalNormal, Distribution
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AdditiveCoupling,
    AffineCoupling,
    DisentanglingFlowModel,
    FlowLayer,
    FlowModel,
    HeavisidePermutation,
    Reflection,
)


@pytest.fixture(scope="module")
def x():
    """A correlated normal distribution of three dimensions."""
    random = np.random.default_rng(0)
    return (random.normal(size=(500, 3)) @ random.normal(size=(3, 3)) + 2.0).astype("float32")


def make_model(**kwargs):
    return FlowModel(
        [
            ActivationNormalization(),
            AdditiveCoupling(conditioner=MLP([8])),
            Reflection(reflection_count=2),
        ],
        **kwargs,
    )


def test_density_of_a_normalisation_is_that_of_the_normal_distribution(x):
    model = FlowModel([ActivationNormalization()])
    model.adapt(x)
    expected = stats.norm(x.mean(axis=0), x.std(axis=0)).logpdf(x).sum(axis=1)
    np.testing.assert_allclose(to_numpy(model.log_prob(x)), expected, rtol=1e-4, atol=1e-4)


def test_density_integrates_to_one():
    model = FlowModel(
        [
            AdditiveCoupling(conditioner=MLP([8], activation="tanh")),
            HeavisidePermutation(),
            ActivationNormalization(),
        ]
    )
    model.build((None, 2))
    random = np.random.default_rng(0)
    model.set_weights(
        [
            weight if weight.dtype == "int32" else weight + 0.3 * random.normal(size=weight.shape)
            for weight in model.get_weights()
        ]
    )
    grid = np.linspace(-10, 10, 201)
    points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2).astype("float32")
    mass = np.exp(to_numpy(model.log_prob(points))).sum() * (grid[1] - grid[0]) ** 2
    assert mass == pytest.approx(1, abs=1e-3)


def test_fit_without_a_loss_lowers_the_negative_log_likelihood(x):
    model = make_model()
    model.adapt(x)
    model.compile(keras.optimizers.Adam(1e-2))
    before = -to_numpy(model.log_prob(x)).mean()
    assert model.evaluate(x, verbose=0) == pytest.approx(before, rel=1e-4)
    history = model.fit(x, epochs=10, validation_data=(x[:100],), verbose=0).history
    after = -to_numpy(model.log_prob(x)).mean()
    assert after < before - 0.02
    assert history["loss"][-1] < history["loss"][0]
    assert history["val_loss"][-1] == pytest.approx(
        -to_numpy(model.log_prob(x[:100])).mean(), rel=1e-4
    )


def test_sample_weights_weigh_instances(x):
    model = make_model()
    model.build((None, 3))
    model.compile("adam")
    weights = (np.arange(500) % 2).astype("float32")
    expected = -np.sum(weights * to_numpy(model.log_prob(x))) / 500
    received = model.evaluate(x, sample_weight=weights, batch_size=500, verbose=0)
    assert received == pytest.approx(expected, rel=1e-4)


def test_data_sets_of_inputs_alone_are_fitted(x):
    tf = pytest.importorskip("tensorflow")
    model = make_model()
    model.compile("adam")
    data_set = tf.data.Dataset.from_tensor_slices(x).batch(100)
    assert np.isfinite(model.fit(data_set, epochs=1, verbose=0).history["loss"][0])


def test_data_sets_without_batches_are_rejected(x):
    tf = pytest.importorskip("tensorflow")
    model = FlowModel([ActivationNormalization()])
    model.compile("adam")
    whole = tf.data.Dataset.from_tensor_slices
    weighted = whole((x, np.zeros([500, 0]), np.ones(500)))
    for data in (whole(x), whole({"inputs": x, "context": x}), weighted):
        for run in (model.adapt, model.fit, model.evaluate):
            with pytest.raises(ValueError, match=r"at least 2 axes: `\.batch\(32\)`.*shape \(3,\)"):
                run(data)
    images = np.zeros([4, 2, 2, 3], "float32")
    model = FlowModel([ActivationNormalization(axes=[3])])
    model.build(images.shape)
    with pytest.raises(ValueError, match=r"at least 4 axes: `\.batch\(32\)`"):
        model.adapt(whole(images))


def test_samples_follow_the_density(x):
    model = FlowModel([ActivationNormalization()])
    model.adapt(x)
    samples = to_numpy(model.sample(20_000, seed=1))
    np.testing.assert_allclose(samples.mean(axis=0), x.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(samples.std(axis=0), x.std(axis=0), rtol=0.03)
    np.testing.assert_array_equal(to_numpy(model.sample(20_000, seed=1)), samples)
    assert not np.array_equal(to_numpy(model.sample(5)), to_numpy(model.sample(5)))
    again, log_prob = model.sample_and_log_prob(10, seed=2)
    np.testing.assert_allclose(to_numpy(log_prob), to_numpy(model.log_prob(again)), rtol=1e-6)


def test_density_is_differentiable(x):
    model = FlowModel([ActivationNormalization()])
    model.adapt(x)
    log_prob, pullback = vjp(model.log_prob, [ops.convert_to_tensor(x)])
    (gradient,) = pullback(ops.ones_like(log_prob))
    expected = (x.mean(axis=0) - x) / x.var(axis=0)
    np.testing.assert_allclose(to_numpy(gradient), expected, rtol=1e-3, atol=1e-3)


def test_base_distribution_is_trained_saved_and_loaded(x, tmp_path):
    model = make_model(base_distribution=DiagonalNormal(trainable=True))
    model.build((None, 3))
    model.compile(keras.optimizers.Adam(1e-2))
    before = model.base_distribution.get_weights()
    model.fit(x, epochs=2, verbose=0)
    for old, new in zip(before, model.base_distribution.get_weights(), strict=True):
        assert not np.allclose(old, new)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(to_numpy(loaded.log_prob(x)), to_numpy(model.log_prob(x)), rtol=1e-6)
    assert loaded.evaluate(x, verbose=0) == pytest.approx(model.evaluate(x, verbose=0), rel=1e-6)


def test_targets_and_what_compares_them_are_rejected(x):
    model = make_model()
    shown = r'pass `{"inputs": y\[:, None\], "context": x}`. Received: y of shape \(500,\)'
    model.compile("adam")
    for y in (x[:, 0], x[:, 0].tolist(), ["a"] * 500):
        with pytest.raises(ValueError, match=shown):
            model.fit(x, y, verbose=0)
    for metric in ("mse", keras.metrics.MeanSquaredError(), keras.metrics.mean_squared_error):
        for name in ("metrics", "weighted_metrics"):
            with pytest.raises(ValueError, match=r"should be such as .*NegativeLogLikelihood"):
                model.compile("adam", **{name: [metric]})
    keras_losses = ("mse", keras.losses.MeanSquaredError(), keras.losses.mean_squared_error)
    for loss in keras_losses:
        with pytest.raises(ValueError, match=r"without a loss, which maximises.*`y\[:, None\]`"):
            model.compile("adam", loss)
        with pytest.raises(
            ValueError, match=r"compiled with a loss of these, such as .*FactorLoss"
        ):
            DisentanglingFlowModel([ActivationNormalization()]).compile("adam", loss=loss)
    for loss in (["mse", "mse"], lambda y, y_pred: y_pred):
        model.compile("adam", loss)
        with pytest.raises(ValueError, match="compiled without a loss, which maximises"):
            model.fit(x, x, verbose=0)


def test_models_that_compute_their_loss_themselves_take_one_of_keras(x):
    class Bounded(FlowModel):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.losses.get(self.loss)(y, y_pred[0])

    model = Bounded([ActivationNormalization()])
    model.compile("adam", "mse")
    assert model.evaluate(x, np.zeros_like(x), batch_size=500, verbose=0) == pytest.approx(
        np.square(x).mean(), rel=1e-4
    )


def test_losses_and_metrics_of_users_are_used(x):
    model = make_model()
    squares = np.square(to_numpy(model(x)[0])).mean()
    model.compile("adam", ["mse", "mse"])  # of outputs and of log-determinants
    losses = model.evaluate(x, (np.zeros([500, 3]), np.zeros(500)), batch_size=500, verbose=0)
    assert np.ravel(losses)[0] == pytest.approx(squares, rel=1e-4)  # volumes are preserved
    model = make_model()
    model.compile("adam", metrics=[lambda x, log_prob: -log_prob])
    np.testing.assert_allclose(*model.evaluate(x, verbose=0), rtol=1e-5)


def test_bad_input(x):
    with pytest.raises(TypeError, match="`base_distribution` should be a `Distribution`"):
        FlowModel([ActivationNormalization()], base_distribution="normal")
    with pytest.raises(ValueError, match="should be built before it is sampled"):
        FlowModel([ActivationNormalization()]).sample(3)
    model = DisentanglingFlowModel([ActivationNormalization()])
    model.compile("adam")
    with pytest.raises(ValueError, match="should be compiled with a loss"):
        model.fit((x, x), np.zeros([500, 2]), verbose=0)


@keras.saving.register_keras_serializable(package="gyoza_tests")
class Counting(FlowLayer):
    """Doubles its inputs, and counts how often Python runs it."""

    count = 0

    def transform(self, inputs):
        self.count += 1
        return 2.0 * inputs, ops.full(ops.shape(inputs)[:-1], 3 * np.log(2.0))

    def inverse_transform(self, outputs):
        self.count += 1
        return 0.5 * outputs


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch compiles nothing")
@pytest.mark.parametrize("method", ["log_prob", "sample", "sample_and_log_prob"])
def test_one_compilation_serves_all_batch_sizes(x, method):
    layer = Counting()
    model = FlowModel([layer])
    model(x[:2])
    run = getattr(model, method)
    run(x[:5] if method == "log_prob" else 5)
    count = layer.count
    for size in (6, 1, 32):
        run(x[:size] if method == "log_prob" else size)
    assert layer.count == count


def test_compiled_densities_follow_each_weight(x):
    model = make_model(base_distribution=DiagonalNormal(trainable=True))
    model.build((None, 3))
    # The first time, some have no effect, since the last ones of networks start as zeros.
    for is_first in (True, False):
        before = to_numpy(model.log_prob(x[:5]))
        for weight in model.trainable_weights:
            weight.assign(1.1 * weight + 0.1)
            after = to_numpy(model.log_prob(x[:5]))
            expected = to_numpy(model._log_prob(ops.convert_to_tensor(x[:5])))
            np.testing.assert_allclose(after, expected, rtol=1e-4)
            assert is_first or np.abs(after - before).max() > 1e-4
            before = after


def test_samples_are_others_at_each_call():
    model = make_model()
    model.build((None, 3))
    first, second = to_numpy(model.sample(5)), to_numpy(model.sample(5))
    assert np.abs(first - second).min() > 0.0


class GammaNumbers(Distribution):
    """One whose numbers TensorFlow's XLA cannot draw."""

    def compute_log_prob(self, x):
        return ops.sum(ops.log(x) - x, axis=-1)

    def draw(self, sample_count, seed):
        return keras.random.gamma((sample_count, self.dimension_count), 2.0, seed=seed)


@pytest.mark.parametrize("count", [5, 700])
def test_base_distributions_can_draw_what_xla_cannot(count):
    model = FlowModel([HeavisidePermutation()], base_distribution=GammaNumbers([2]))
    model.build((None, 2))
    samples = to_numpy(model.sample(count))
    assert samples.shape == (count, 2)
    assert samples.min() > 0.0


def test_large_inputs_are_processed_in_batches(x):
    model = make_model()
    whole = to_numpy(model.log_prob(x))
    np.testing.assert_allclose(to_numpy(model.log_prob(x, batch_size=64)), whole, rtol=1e-5)
    samples, log_prob = model.sample_and_log_prob(150, seed=0, batch_size=64)
    np.testing.assert_allclose(to_numpy(samples), to_numpy(model.sample(150, seed=0)), rtol=1e-5)
    np.testing.assert_allclose(to_numpy(log_prob), to_numpy(model.log_prob(samples)), rtol=1e-4)


def test_progress_counts_batches_and_changes_nothing(x, capsys):
    model = FlowModel([ActivationNormalization()])
    model.adapt(x)
    calls = [
        lambda count, **options: model.log_prob(x[:count], **options),
        lambda count, **options: model.sample_and_log_prob(count, seed=0, **options)[1],
    ]
    for call in calls:
        expected = to_numpy(call(96, batch_size=32))
        call(32, batch_size=32, verbose=1)
        assert capsys.readouterr().out == ""  # there is one batch, or nobody asked
        np.testing.assert_array_equal(to_numpy(call(96, batch_size=32, verbose=1)), expected)
        assert "3/3" in capsys.readouterr().out
    model.sample(96, batch_size=32, verbose=1)
    assert "3/3" in capsys.readouterr().out


def test_log_densities_are_differentiable_by_inputs(x):
    model = FlowModel([ActivationNormalization()])
    model.adapt(x)
    log_prob, pullback = vjp(model.log_prob, [ops.convert_to_tensor(x[:5])])
    (gradient,) = pullback(ops.ones_like(log_prob))
    expected = -(x[:5] - x.mean(axis=0)) / x.var(axis=0)
    np.testing.assert_allclose(to_numpy(gradient), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("contexts", [(), (np.ones([5, 2], "float32"),)])
def test_errors_of_log_prob_name_the_shape_that_was_given(contexts):
    model = FlowModel([AffineCoupling(conditioner=MLP([8]))])
    model(np.ones([5, 4], "float32"), *contexts)
    with pytest.raises(ValueError, match=r"shape \(5, 3\)"):
        model.log_prob(np.ones([5, 3], "float32"), *contexts)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda model: model.fit(), ValueError, "inputs of 'flow' should be given. Received: None"),
        (lambda model: model.evaluate(None), ValueError, "should be given. Received: None"),
        (lambda model: model.predict(None), ValueError, "should be given. Received: None"),
        (lambda model: model.log_prob(None), ValueError, "should be given. Received: None"),
        (lambda model: model(None), ValueError, "should be given. Received: None"),
        (lambda model: model.invert(None), ValueError, "should be a tensor. Received: None"),
        (lambda model: model.log_det(None), ValueError, "should be given. Received: None"),
        (lambda model: model._flow_layers_[0](None), ValueError, "should be tensors. Got 'None'"),
        (lambda _: FlowModel(None), TypeError, "`flow_layers` should be a list .*flow_layers=None"),
        (
            lambda model: FlowModel(model),
            TypeError,
            "`flow_layers` should be a list of flow layers",
        ),
    ],
)
def test_missing_data_and_layers(run, error, message):
    model = FlowModel([AffineCoupling(conditioner=MLP([8]))], name="flow")
    model.compile("sgd")
    model(np.ones([5, 4], "float32"))
    with pytest.raises(error, match=message):
        run(model)
