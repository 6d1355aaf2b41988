"""What models do with the data that they are trained with, and with what XLA cannot compile."""

import threading
import warnings

import keras
import numpy as np
import pandas
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import has_slow_substitution
from gyoza.modelling.autoencoders import VariationalAutoencoder
from gyoza.modelling.conditioners import MLP
from gyoza.modelling.distributions import GaussianMixture
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AdditiveCoupling,
    AffineCoupling,
    DisentanglingFlowModel,
    FlowModel,
    Reflection,
)
from gyoza.modelling.functions.dtypes import keep_float64
from gyoza.modelling.losses import SupervisedFactorLoss
from gyoza.modelling.training import fit

BACKEND = keras.backend.backend()
only_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow and its XLA")


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(24, 3)).astype("float32")


@pytest.fixture(scope="module")
def weights():
    return np.random.default_rng(1).uniform(0.0, 4.0, size=24).astype("float32")


@pytest.fixture(scope="module")
def model(x):
    """A density that a step of training leaves as it is."""
    model = FlowModel([ActivationNormalization(shape=[3], axes=[1])])
    model.adapt(2.0 * x)
    model.compile(keras.optimizers.SGD(0.0))
    return model


@pytest.fixture(scope="module")
def right_loss(model, x, weights):
    return np.mean(-weights * to_numpy(model.log_prob(x)))


def test_weights_of_instances_count_in_every_form(model, x, weights, right_loss):
    for given in (weights, weights[:, None], weights.tolist()):
        validation = (x[:5], None, np.zeros(5, "float32"))
        fit = {"batch_size": 24, "verbose": 0, "validation_data": validation}
        history = model.fit(x, sample_weight=given, **fit).history
        assert history["loss"][0] == pytest.approx(right_loss, abs=1e-4)
        assert history["val_loss"][0] == 0.0
    positional = model.fit(x, None, 24, 1, 0, None, 0.0, None, False, None, weights).history
    assert positional["loss"][0] == pytest.approx(right_loss, abs=1e-4)
    for loss in (
        model.evaluate(x, sample_weight=weights, verbose=0),
        model.evaluate(x, None, 24, 0, weights),
        model.train_on_batch(x, sample_weight=weights),
        model.test_on_batch(x, sample_weight=weights),
    ):
        assert loss == pytest.approx(right_loss, abs=1e-4)
    with pytest.raises(ValueError, match="`sample_weight` should have one weight for each"):
        model.evaluate(x, sample_weight=np.ones([24, 3]), verbose=0)


def test_weights_of_an_autoencoder_need_no_targets(x, weights):
    inputs = keras.Input([3])
    outputs = [keras.layers.Dense(2)(inputs), keras.layers.Dense(2)(inputs)]
    model = VariationalAutoencoder(
        keras.Model(inputs, outputs), keras.layers.Dense(3), likelihood="normal", seed=0
    )
    model.compile(keras.optimizers.SGD(0.0))
    loss = model.fit(x, batch_size=24, verbose=0).history["loss"][0]
    weightless = model.fit(x, batch_size=24, sample_weight=np.full(24, 0.0), verbose=0).history
    assert loss > 0.0
    assert weightless["loss"][0] == 0.0


def test_targets_that_nobody_uses_are_rejected(model, x):
    expected = r'`\{"inputs": y, "context": x\}`. Received: y of shape \(24, 1\)'
    for run in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=expected):
            run(x, x[:, :1], verbose=0)
    with pytest.raises(ValueError, match=expected):
        model.fit(x, validation_data=(x, x[:, :1]), verbose=0)
    with pytest.raises(ValueError, match="Received: y of shape"):
        model.fit(Batches(x), verbose=0)
    with pytest.raises(ValueError, match="`class_weight` should be given only where there are"):
        model.fit(x, class_weight={0: 1.0}, verbose=0)


class Batches(keras.utils.PyDataset):
    """Batches of inputs with targets."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.x, self.x


def test_labels_have_weights_of_classes(x):
    base = GaussianMixture(component_count=2, shape=[3], class_count=2)
    model = FlowModel([ActivationNormalization()], base_distribution=base)
    model.compile(keras.optimizers.SGD(0.0))
    labels = np.arange(24) % 2
    both = model.fit(x, labels, batch_size=24, verbose=0).history["loss"][0]
    halves = [
        model.fit(x, labels, batch_size=24, class_weight=weights, verbose=0).history["loss"][0]
        for weights in ({0: 1.0, 1: 0.0}, {0: 0.0, 1: 1.0})
    ]
    assert sum(halves) == pytest.approx(both, rel=1e-5)


def test_lists_and_data_frames_are_data(model, x):
    expected = to_numpy(model.log_prob(x))
    for data in (x.tolist(), pandas.DataFrame(x, columns=["a", "b", "c"])):
        np.testing.assert_allclose(to_numpy(model.log_prob(data)), expected, rtol=1e-5)
        np.testing.assert_allclose(
            model.predict(data, verbose=0)[0], to_numpy(model(x)[0]), rtol=1e-5, atol=1e-6
        )
        loss = model.fit(data, batch_size=24, verbose=0).history["loss"][0]
        assert loss == pytest.approx(-expected.mean(), abs=1e-5)
        assert model.evaluate(data, verbose=0) == pytest.approx(-expected.mean(), abs=1e-5)


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict", "log_prob", "adapt", "__call__"])
def test_inputs_that_are_not_a_batch_say_so(model, x, method):
    run = getattr(model, method)
    with pytest.raises(ValueError, match=r"`x\[None\]` is a batch of one.*shape \(3,\)"):
        run(x[0])
    with pytest.raises(ValueError, match=r"should be one array. With a context.*a tuple of 2"):
        run((x, x[:, :2]))
    with pytest.raises(ValueError, match=r"Received: the keys \['input', 'context'\]"):
        run({"input": x, "context": x})


def test_lists_are_adapted_to(x):
    models = [FlowModel([ActivationNormalization()]) for _ in range(2)]
    models[0].adapt(x)
    models[1].adapt(x.tolist())
    for first, second in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5)


def test_models_in_float64_that_train_at_once_leave_the_dtype_of_keras(x):
    if BACKEND == "jax" and str(ops.zeros((), "float64").dtype) != "float64":
        pytest.skip("float64 is not enabled")
    inside, outside = threading.Event(), threading.Event()

    def hold():
        with keep_float64("float64"):
            inside.set()
            outside.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)
    with keep_float64("float64"):
        assert keras.config.floatx() == "float64"
    assert keras.config.floatx() == "float64"
    outside.set()
    thread.join()
    assert keras.config.floatx() == "float32"


def test_single_latents_say_so(model, x):
    with pytest.raises(ValueError, match=r"`x\[None\]` is a batch of one"):
        model.invert(x[0])


def test_no_instances_give_no_outputs(model, x):
    z, log_det = model.predict(x[:0], verbose=0)
    assert z.shape == (0, 3)
    assert log_det.shape == (0,)
    for run in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="`x` should hold at least one instance"):
            run(x[:0], verbose=0)
    for run in (model.log_prob, lambda x, **options: model.sample(2, **options)):
        with pytest.raises(ValueError, match="`batch_size` should be an integer of at least 1"):
            run(x, batch_size=0)


def test_pairs_go_through_an_overridden_call(x):
    class Doubled(DisentanglingFlowModel):
        def call(self, inputs):
            return super().call(inputs * 2.0)

    layers = [ActivationNormalization(), Reflection()]
    models = [kind(layers) for kind in (Doubled, DisentanglingFlowModel)]
    pairs = [(x[:12], x[12:]), (2.0 * x[:12], 2.0 * x[12:])]
    y = np.tile(np.array([[0.0, 0.9]], "float32"), (12, 1))
    for model in models:
        model.compile(keras.optimizers.SGD(0.0), loss=SupervisedFactorLoss([2, 1]))
    losses = [
        model.fit(pair, y, batch_size=12, verbose=0).history["loss"][0]
        for model, pair in zip(models, pairs, strict=True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    np.testing.assert_allclose(
        to_numpy(models[0](pairs[0])), to_numpy(models[1](pairs[1])), rtol=1e-5, atol=1e-5
    )


def run_in_threads(function, count):
    threads = [threading.Thread(target=function) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_draw_different_samples(model):
    model.sample(2)
    drawn = []

    def draw():
        for _ in range(25):
            drawn.append(to_numpy(model.sample(2)).tobytes())

    run_in_threads(draw, 4)
    assert len(set(drawn)) == 100


@pytest.mark.parametrize("count", [25, pytest.param(200, marks=pytest.mark.long)])
def test_threads_compute_what_one_does(count, x):
    """Four threads do so at once, in another order each."""
    model = FlowModel([Reflection()])
    inputs = [k + x for k in range(count)]

    def run(k):
        return to_numpy(model.log_prob(inputs[k])), to_numpy(model.sample(2, seed=k))

    expected = [run(k) for k in range(count)]
    assert len({samples.tobytes() for _, samples in expected}) == count
    found = [[] for _ in range(4)]
    orders = [np.random.default_rng(k).permutation(count) for k in range(4)]
    waiting = iter(zip(found, orders, strict=True))

    def run_all():
        results, order = next(waiting)
        for k in order:
            results.append(run(k))

    run_in_threads(run_all, 4)
    for results, order in zip(found, orders, strict=True):
        for result, k in zip(results, order, strict=True):
            for given, other in zip(result, expected[k], strict=True):
                np.testing.assert_array_equal(given, other)


@pytest.mark.skipif(BACKEND != "jax", reason="elsewhere, models can be run meanwhile")
def test_models_that_another_thread_trains_say_so(model, x):
    errors = []

    def sample():
        try:
            model.sample(2)
        except RuntimeError as error:
            errors.append(str(error))

    def sample_elsewhere(batch, logs):
        run_in_threads(sample, 1)

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=sample_elsewhere)
    model.fit(x, batch_size=24, callbacks=[callback], verbose=0)
    assert len(errors) == 1
    assert "should not be run while another thread trains" in errors[0]
    assert model.sample(2).shape == (2, 3)


@only_tensorflow
def test_lengths_that_a_data_set_leaves_open_are_those_of_the_layers(x):
    import tensorflow as tf

    model = FlowModel(
        [ActivationNormalization(shape=[3], axes=[1]), Reflection(shape=[3], axes=[1])]
    )
    model.compile("adam")
    data = tf.data.Dataset.from_generator(
        lambda: iter([x, x]), output_signature=tf.TensorSpec([None, None], "float32")
    )
    assert np.isfinite(model.fit(data, verbose=0).history["loss"][0])


def make_printing_model(jit_compile):
    import tensorflow as tf

    class Printing(keras.layers.Layer):
        """A conditioner with an operation that XLA does not know."""

        def build(self, shape):
            self.dense = keras.layers.Dense(3, kernel_initializer="zeros")
            self.dense.build(shape)

        def call(self, x):
            tf.print("mean", tf.reduce_mean(x), output_stream="file:///dev/null")
            return self.dense(x)

        def compute_output_shape(self, shape):
            return shape

    model = FlowModel([AdditiveCoupling(conditioner=Printing()), ActivationNormalization()])
    model.compile(keras.optimizers.SGD(0.01), jit_compile=jit_compile)
    return model


@only_tensorflow
def test_what_xla_cannot_compile_runs_without_it(x):
    options = {"batch_size": 4, "shuffle": False, "epochs": 2, "verbose": 0}
    expected = make_printing_model(False).fit(x, **options).history["loss"]
    watching = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    for callbacks in ([], [watching]):  # several steps per execution, and one
        model = make_printing_model("auto")
        with pytest.warns(UserWarning, match="XLA cannot compile the operation StringFormat"):
            history = model.fit(x, callbacks=callbacks, **options).history
        np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)
        assert int(model.optimizer.iterations) == 12


@only_tensorflow
@pytest.mark.parametrize("method", ["evaluate", "predict", "log_prob"])
def test_models_find_out_once_that_xla_cannot_compile_them(x, method, recwarn):
    model = make_printing_model("auto")
    model(x)
    getattr(model, method)(x, **({} if method == "log_prob" else {"verbose": 0}))
    model.fit(x, verbose=0)
    model.evaluate(x, verbose=0)
    assert model.predict(x, verbose=0)[0].shape == (24, 3)
    assert model.log_prob(x).shape == (24,)
    assert model.sample(5).shape == (5, 3)
    assert len([w for w in recwarn if "XLA cannot compile" in str(w.message)]) == 1
    assert not model.jit_compile
    assert model.get_compile_config()["jit_compile"] == "auto"


@only_tensorflow
def test_xla_that_was_asked_for_says_what_it_cannot_compile(x):
    import tensorflow as tf

    model = make_printing_model(True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="unsupported operations"):
        model.fit(x, verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="unsupported operations"):
        model.log_prob(x)


def test_models_remember_whether_xla_was_asked_for(tmp_path):
    model = FlowModel([ActivationNormalization(shape=[3])])
    for jit_compile in ("auto", True, False, "auto"):
        model.compile("adam", jit_compile=jit_compile)
        assert model.get_compile_config()["jit_compile"] == jit_compile
    assert repr(model.jit_compile) in ("True", "False")
    model.build((None, 3))
    model.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert model.get_compile_config()["jit_compile"] == "auto"


@only_tensorflow
def test_errors_of_users_are_not_taken_for_those_of_xla(model, x):
    import tensorflow as tf

    class Failing(keras.layers.Layer):
        def call(self, x):
            with tf.control_dependencies([tf.debugging.assert_less(x, 1.0)]):
                return tf.ensure_shape(tf.py_function(lambda x: x, [x], "float32"), x.shape)

        def compute_output_shape(self, shape):
            return shape

    failing = FlowModel([AdditiveCoupling(conditioner=Failing())])
    failing.compile("adam")
    failing(0.0 * x)
    with pytest.raises(tf.errors.InvalidArgumentError, match="assert"):
        failing.fit(x + 5.0, verbose=0)
    assert failing.jit_compile


def test_models_are_cloned_after_training(x, tmp_path):
    layer = AffineCoupling(conditioner=MLP([4]))
    model, c = FlowModel([layer]), x[:, :2]
    model.compile("adam")
    model.fit({"inputs": x, "context": c}, batch_size=4, verbose=0)
    clone = keras.models.clone_model(model)
    clone(x, c)
    clone.set_weights(model.get_weights())
    expected = to_numpy(model(x, c)[0])
    np.testing.assert_array_equal(to_numpy(clone(x, c)[0]), expected)
    with pytest.raises(ValueError, match=r"`filepath` should end in '.keras'.*model.h5"):
        model.save(tmp_path / "model.h5")


class Traced(keras.layers.Dense):
    """A conditioner that notes whether XLA compiles it, each time that it is traced."""

    def call(self, x):
        self.by_xla.append(has_slow_substitution(1))  # as in code that XLA compiles
        return super().call(x)


def make_traced_model(jit_compile="auto"):
    conditioner = Traced(3)
    conditioner.by_xla = []
    model = FlowModel([AdditiveCoupling(conditioner=conditioner)])
    model.build((None, 3))
    model.compile(keras.optimizers.SGD(0.01), jit_compile=jit_compile)
    return model, conditioner.by_xla


@only_tensorflow
def test_xla_is_left_out_until_training_is_long(x, monkeypatch):
    monkeypatch.setattr(fit, "LEAST_STEPS_FOR_XLA", 10)
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, "validation_data": (x[:8],)}
    model, by_xla = make_traced_model()
    always, by_xla_always = make_traced_model(True)
    always.set_weights(model.get_weights())
    by_xla.clear()
    by_xla_always.clear()
    for epochs, step_count, expected in (
        (2, 6, {False}),
        (1, 9, set()),
        (2, 15, {True}),
        (1, 18, set()),
    ):
        history = model.fit(x, epochs=epochs, **options).history
        of_xla = always.fit(x, epochs=epochs, **options).history
        assert set(by_xla) == expected  # nothing is traced again
        by_xla.clear()
        for name in ("loss", "val_loss"):
            np.testing.assert_allclose(history[name], of_xla[name], rtol=1e-5)
        assert int(model.optimizer.iterations) == step_count
        assert model.jit_compile
        assert model.get_compile_config()["jit_compile"] == "auto"
    assert set(by_xla_always) == {True}
    np.testing.assert_allclose(model.get_weights()[0], always.get_weights()[0], rtol=1e-4)


@only_tensorflow
def test_the_other_methods_have_xla_after_a_short_training(x, monkeypatch):
    monkeypatch.setattr(fit, "LEAST_STEPS_FOR_XLA", 10)
    model, by_xla = make_traced_model()
    model.fit(x, verbose=0)
    for name in ("evaluate", "predict", "log_prob"):
        by_xla.clear()
        getattr(model, name)(x, **({} if name == "log_prob" else {"verbose": 0}))
        assert set(by_xla) == {True}


class FourBatches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise AssertionError("No batch should be drawn to count them.")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"x": np.zeros([65, 2])}, 3),
        ({"x": {"inputs": np.zeros([65, 2]), "context": np.zeros([65, 1])}, "epochs": 5}, 15),
        ({"x": np.zeros([65, 2]), "batch_size": 13, "epochs": 5, "initial_epoch": 2}, 15),
        ({"x": np.zeros([65, 2]), "steps_per_epoch": 2, "epochs": 5}, 10),
        ({"x": FourBatches(), "epochs": 3}, 12),
        ({"x": iter([]), "epochs": 3}, np.inf),
        ({"x": iter([]), "epochs": 3, "steps_per_epoch": 7}, 21),
    ],
)
def test_steps_are_counted_in_advance_where_that_is_possible(arguments, expected):
    assert fit.count_all_steps(arguments) == expected


@only_tensorflow
def test_steps_of_data_sets_are_counted_where_their_length_is_known(x):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(x).batch(5)
    assert fit.count_all_steps({"x": data, "epochs": 2}) == 10
    assert fit.count_all_steps({"x": data.repeat()}) == np.inf
    assert fit.count_all_steps({"x": data.filter(lambda x: True)}) == np.inf


@pytest.mark.parametrize(
    ("options", "is_warned_of"),
    [({}, False), ({"jit_compile": False}, True), ({"run_eagerly": True}, False)],
)
def test_jax_is_warned_of_without_compilation(x, options, is_warned_of):
    model = FlowModel([ActivationNormalization()])
    model.adapt(x)
    model.compile("sgd", **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x, verbose=0)
    found = [each for each in caught if "without the argument `jit_compile`" in str(each.message)]
    assert len(found) == (is_warned_of and BACKEND == "jax")
