"""What both kinds of sources of pairs have in common."""

import json
import pickle

import keras
import numpy as np
import pytest
from pair_sources import make_categorical, make_continuous, read_epoch

either = pytest.mark.parametrize("make", [make_categorical, make_continuous])


@either
def test_epoch_covers_every_instance_once_and_never_pairs_it_with_itself(make):
    source, _ = make()
    for _ in range(3):
        a, b, _ = read_epoch(source)
        assert sorted(a) == list(range(240))
        assert np.all(a != b)
        source.on_epoch_end()


@either
def test_batches_hold_the_instances_that_pairs_names(make):
    x = np.random.default_rng(2).normal(size=(240, 2, 3)).astype("float16")
    source, _ = make(x=x, batch_size=100)
    assert [len(y) for _, y in source] == [100, 100, 40]
    (a, b), y = source[2]
    np.testing.assert_array_equal(a, x[source.pairs[200:, 0]])
    np.testing.assert_array_equal(b, x[source.pairs[200:, 1]])
    assert (a.dtype, b.dtype, y.dtype) == ("float16", "float16", "float32")
    assert y.shape == (40, 1 + source.factor_count)
    np.testing.assert_array_equal(source[-1][1], y)
    with pytest.raises(IndexError, match="number of batches, 3"):
        source[3]


@either
def test_epochs_differ_and_can_be_drawn_again(make):
    source, _ = make()
    epochs = []
    for epoch in range(3):
        assert source.epoch == epoch
        epochs.append(source.pairs)
        source.on_epoch_end()
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])
    source.set_epoch(1)
    np.testing.assert_array_equal(source.pairs, epochs[1])


@either
def test_seeds_differ(make):
    assert not np.array_equal(make(seed=0)[0].pairs, make(seed=1)[0].pairs)


@either
def test_without_a_seed_the_seed_of_keras_decides(make):
    keras.utils.set_random_seed(3)
    first, second = make(seed=None)[0], make(seed=None)[0]
    keras.utils.set_random_seed(3)
    again = make(seed=None)[0]
    assert first.seed != second.seed
    np.testing.assert_array_equal(first.pairs, again.pairs)


@either
def test_without_shuffling_pairs_and_order_stay(make):
    source, _ = make(shuffle=False)
    before = source.pairs
    np.testing.assert_array_equal(before[:, 0], np.arange(240))
    source.on_epoch_end()
    np.testing.assert_array_equal(source.pairs, before)


@either
def test_pickled_source_goes_on_alike(make):
    source, _ = make()
    source.on_epoch_end()
    copy = pickle.loads(pickle.dumps(source))
    for _ in range(2):
        for mine, theirs in zip(read_epoch(source), read_epoch(copy), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        source.on_epoch_end()
        copy.on_epoch_end()


def _distance_model():
    """A model of pairs, whose output has one dimension per column of y."""
    a, b = keras.Input([1]), keras.Input([1])
    outputs = keras.layers.Dense(4)(keras.layers.Subtract()([a, b]))
    model = keras.Model([a, b], outputs)
    model.compile("sgd", lambda y, prediction: keras.ops.mean((y - prediction) ** 2, axis=-1))
    return model


@pytest.mark.parametrize("workers", [{}, {"workers": 2}])
def test_model_fits_pairs(workers):
    x = np.random.default_rng(0).normal(size=(240, 1)).astype("float32")
    source, _ = make_categorical(x=x, batch_size=100, **workers)
    validation, _ = make_categorical(x=x, shuffle=False)
    model = _distance_model()
    history = model.fit(source, epochs=3, validation_data=validation, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert len(history["val_loss"]) == 3
    assert source.epoch >= 3
    assert model.predict(validation, verbose=0).shape == (240, 4)


def test_keras_sees_every_instance_once_per_pass():
    a, b = keras.Input([1]), keras.Input([1])
    model = keras.Model([a, b], keras.layers.Concatenate()([a, b]))
    # The loss of a batch is the mean number of its 60 instances, and that of a pass of all 240.
    model.compile(loss=lambda y, prediction: prediction[:, 0])
    source, _ = make_categorical(batch_size=60)
    for _ in range(2):
        assert model.evaluate(source, verbose=0) == pytest.approx(np.mean(np.arange(240)))


@pytest.mark.parametrize("epoch", [-1, 0.5])
def test_bad_epoch(epoch):
    source, _ = make_categorical()
    with pytest.raises(ValueError, match=f"of at least 0. Received: epoch={epoch}"):
        source.set_epoch(epoch)


@either
def test_a_source_with_the_state_of_another_goes_on_as_that_does(make):
    source, other = make(seed=None)[0], make(seed=7)[0]
    source.set_epoch(4)
    other.set_state(json.loads(json.dumps(source.get_state())))
    for _ in range(2):
        for given, expected in zip(read_epoch(other), read_epoch(source), strict=True):
            np.testing.assert_array_equal(given, expected)
        source.on_epoch_end()
        other.on_epoch_end()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instance_count": 241}, "as many instances, 240. Received: .*241"),
        ({"epoch": -1}, "of at least 0. Received: epoch=-1"),
        ({"seed": 0.5}, "of at least 0. Received: seed=0.5"),
        ({"batch": 2}, "'seed', 'epoch', 'instance_count'. Received: "),
    ],
)
def test_bad_states(change, message):
    source, _ = make_categorical()
    state = source.get_state()
    with pytest.raises(ValueError, match=message):
        source.set_state(state | change)
    assert source.get_state() == state
