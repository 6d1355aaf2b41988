"""How many steps `fit` takes at once."""

import re

import keras
import numpy as np
import pytest

from gyoza.callbacks import ResumableTraining
from gyoza.data import ContinuousPairs
from gyoza.modelling import conditioners, flow_layers, losses

BACKEND = keras.backend.backend()
ONE = BACKEND == "torch"  # Keras takes one step after the other


class Counting(keras.callbacks.Callback):
    """Counts the calls of what takes steps, without a look at batches."""

    def on_train_begin(self, logs=None):
        self.count = 0
        take_steps = self.model.train_function

        def count(*args):
            self.count += 1
            return take_steps(*args)

        self.model.train_function = count


class Watching(Counting):
    """Looks at batches, too."""

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.batches = []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(batch)


def make_model(**kwargs):
    conditioner = conditioners.MLP([8])
    model = flow_layers.FlowModel(
        [
            flow_layers.ActivationNormalization(),
            flow_layers.AffineCoupling(conditioner=conditioner),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), **kwargs)
    return model


def make_data(count):
    return np.random.default_rng(0).normal(2.0, 3.0, size=(count, 4)).astype("float32")


def fit(callback, data, **options):
    keras.utils.set_random_seed(0)
    model = make_model()
    history = model.fit(*data, callbacks=[callback], epochs=3, verbose=0, **options)
    assert model.steps_per_execution == 1
    return history.history, [keras.ops.convert_to_numpy(v) for v in model.variables]


@pytest.mark.parametrize("is_weighted", [False, True])
def test_steps_at_once_train_as_steps_one_by_one_do(is_weighted):
    # 20 whole batches and one of 3 instances: two executions, of which the second is not full.
    x = make_data(20 * 8 + 3)
    options = {"batch_size": 8, "validation_data": (x,)}
    if is_weighted:
        options["sample_weight"] = np.linspace(0.5, 1.5, len(x), dtype="float32")
    counting, watching = Counting(), Watching()
    history, weights = fit(counting, (x,), **options)
    expected_history, expected_weights = fit(watching, (x,), **options)
    assert counting.count == (63 if ONE else 6)
    assert watching.count == 63
    assert watching.batches == list(range(21)) * 3
    for name, values in expected_history.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-4)
    for value, expected in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(BACKEND == "torch", reason="TensorFlow's data sets suit it less")
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_data_sets_are_fitted_in_steps_at_once(drop_remainder):
    tf = pytest.importorskip("tensorflow")
    x = make_data(60)
    data = tf.data.Dataset.from_tensor_slices(x).batch(8, drop_remainder=drop_remainder)
    counting, watching = Counting(), Watching()
    history, _ = fit(counting, (data,))
    expected, _ = fit(watching, (data,))
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-4)
    # The size of batches is only known where they are equal.
    assert counting.count == (3 if drop_remainder else 24)


def test_sources_may_fill_the_same_arrays_again():
    """Even if several batches are drawn at once, or computed later than they are drawn."""
    batches = make_data(320).reshape(10, 32, 4)
    array = np.empty_like(batches[0])

    def generate():
        for batch in batches:
            array[:] = batch
            yield (array,)

    class Source(keras.utils.PyDataset):
        def __len__(self):
            return len(batches)

        def __getitem__(self, index):
            array[:] = batches[index]
            return (array,)

    def use(make, **options):
        keras.utils.set_random_seed(0)
        model = make_model(steps_per_execution=1 if ONE else 4)
        return model, model.fit(make(), shuffle=False, verbose=0, **options).history

    def copy():
        return ((batch,) for batch in batches)

    model, losses = use(generate, validation_data=generate())
    other, expected = use(copy, validation_data=copy())
    assert losses == expected
    assert model.evaluate(generate(), verbose=0) == other.evaluate(copy(), verbose=0)
    if BACKEND == "jax":  # TensorFlow's data sets may read arrays later
        assert use(Source)[1]["loss"] == expected["loss"]


def test_pairs_are_fitted_in_steps_at_once():
    x = make_data(64)
    source = ContinuousPairs(x, factors=x[:, 0], correlations=0.9, batch_size=8)
    model = flow_layers.DisentanglingFlowModel([flow_layers.ActivationNormalization()])
    model.compile("adam", loss=losses.SupervisedFactorLoss([3, 1]))
    counting = Counting()
    model.fit(source, callbacks=[counting], verbose=0)
    assert counting.count == (8 if ONE else 1)


@pytest.mark.parametrize(("steps", "count"), [(12, 1), (34, 17), (17, 17)])
def test_no_more_steps_are_taken_than_are_asked_for(steps, count):
    model, counting = make_model(), Counting()
    model.build((None, 4))
    x = make_data(8 * 40)
    model.fit(x, batch_size=8, steps_per_epoch=steps, callbacks=[counting], verbose=0)
    assert int(model.optimizer.iterations) == steps
    assert counting.count == (steps if ONE else count)


def test_callbacks_that_do_not_look_at_batches_leave_steps_at_once(tmp_path):
    model, x = make_model(), make_data(64)
    for callback, count in (
        (keras.callbacks.ModelCheckpoint(tmp_path / "model.keras"), 1),
        (keras.callbacks.LambdaCallback(on_epoch_end=print), 1),
        (ResumableTraining(tmp_path / "backup"), 1),
        (keras.callbacks.LambdaCallback(on_train_batch_begin=lambda *_, **__: None), 8),
        (keras.callbacks.ModelCheckpoint(tmp_path / "model.keras", save_freq=3), 8),
    ):
        counting = Counting()
        model.fit(x, batch_size=8, callbacks=[callback, counting], verbose=0)
        assert counting.count == (8 if ONE else count)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras takes one step at a time")
def test_a_given_number_of_steps_per_execution_stays():
    model, watching = make_model(steps_per_execution=3), Watching()
    model.fit(make_data(64), batch_size=8, callbacks=[watching], verbose=0)
    assert watching.batches == [2, 5, 8]
    assert int(model.optimizer.iterations) == 8
    assert model.steps_per_execution == 3


def test_training_on_a_batch_takes_one_step_after_several_at_once():
    model = make_model()
    model.fit(make_data(64), batch_size=8, verbose=0)
    model.train_on_batch(make_data(8))
    assert int(model.optimizer.iterations) == 9
    model.compile("adam")
    model.train_on_batch(make_data(8))
    model.fit(make_data(64), batch_size=8, verbose=0)
    assert int(model.optimizer.iterations) == 9


@pytest.mark.parametrize("inner", [[], [Watching()]])
def test_a_fit_within_a_fit_leaves_it_all_its_steps(inner):
    model, x = make_model(), make_data(64)

    def fit_again(epoch, logs):
        if model.optimizer.iterations < 10:  # and not within the inner one
            model.fit(x[:8], batch_size=8, callbacks=inner, verbose=0)

    outer = keras.callbacks.LambdaCallback(on_epoch_end=fit_again)
    model.fit(x, batch_size=8, epochs=2, callbacks=[outer], verbose=0)
    assert int(model.optimizer.iterations) == 8 + 1 + 8


def test_convolutions_are_not_put_into_a_loop():
    # XLA computes them there without the library that it uses elsewhere.
    coupling = flow_layers.AffineCoupling(
        axes=[3], conditioner=conditioners.ResNet(2, block_count=0)
    )
    model, counting = flow_layers.FlowModel([coupling]), Counting()
    model.compile("adam")
    x = np.random.default_rng(0).normal(size=(24, 2, 2, 2)).astype("float32")
    model.fit(x, batch_size=8, callbacks=[counting], verbose=0)
    assert counting.count == 3


def test_the_progress_bar_shows_as_many_steps_as_there_are(capsys):
    make_model().fit(make_data(20 * 8 + 3), batch_size=8, verbose=1)
    shown = {int(count) for count in re.findall(r"(\d+)/21", capsys.readouterr().out)}
    assert max(shown) == 21
    assert ONE or shown == {16, 21}
