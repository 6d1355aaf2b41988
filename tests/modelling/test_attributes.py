"""Codes of attributes: their distribution, reading and writing."""

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import jit
from gyoza.modelling.attributes import AttributeCode
from gyoza.modelling.conditioners import MLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AffineCoupling,
    FlowModel,
    Reflection,
)

pytestmark = pytest.mark.compiled_by("tensorflow")

# Names out of alphabetical order, so that a sorted dictionary would be noticed.
ATTRIBUTES = {"shape": 3, "x": None, "scale": 2}
LABELS = np.array([[2, 0.25, 1], [0, -1.0, 0], [1, 3.0, 1], [0, 0.0, 0]])
UNKNOWN = np.nan


def make(**kwargs):
    """Two dimensions of the residual, three of the shape, one of x, and two of the scale."""
    return AttributeCode(ATTRIBUTES, **{"dimension_count": 8, "separation": 4.0, **kwargs})


def latents(count=4, seed=0):
    return np.random.default_rng(seed).normal(scale=2.0, size=(count, 8)).astype("float32")


def test_layout():
    assert make().dimensions_per_factor == [2, 3, 1, 2]
    assert AttributeCode(ATTRIBUTES).dimensions_per_factor == [0, 3, 1, 2]
    assert AttributeCode(ATTRIBUTES).make_distribution().event_shape == (6,)


def test_likelihood_is_cross_entropy_and_squared_distance():
    """Up to the marginal density of blocks of classes, which no label enters."""
    code, z = make(), latents().astype("float64")
    distribution = code.make_distribution(noise=0.5, location=1.0, scale=2.0, dtype="float64")
    assert not distribution.trainable_variables
    labels = np.array([[2, 0.25, 1], [0, UNKNOWN, -1], [-1, 3.0, 0], [-1, UNKNOWN, -1]])
    log_prob = to_numpy(distribution.log_prob(ops.convert_to_tensor(z), labels=labels))

    cross_entropy, marginal = np.zeros(4), np.zeros(4)
    for column, block in ((0, z[:, 2:5]), (2, z[:, 6:])):
        count = block.shape[1]
        of_classes = scipy.special.log_softmax(4.0 * block, axis=1)
        classes = labels[:, column].astype(int)
        chosen = of_classes[np.arange(4), classes]
        cross_entropy -= np.where(classes == -1, 0.0, chosen + np.log(count))
        means = 4.0 * np.eye(count)[:, None]
        parts = scipy.stats.norm(means, 1.0).logpdf(block).sum(axis=-1)
        marginal += scipy.special.logsumexp(parts, axis=0) - np.log(count)
    distance = np.where(
        np.isnan(labels[:, 1]),
        -scipy.stats.norm(1.0, 4.25**0.5).logpdf(z[:, 5]),
        (z[:, 5] - labels[:, 1]) ** 2 / (2 * 0.5**2) + np.log(0.5 * np.sqrt(2 * np.pi)),
    )
    residual = scipy.stats.norm().logpdf(z[:, :2]).sum(axis=1)
    np.testing.assert_allclose(
        -log_prob, cross_entropy + distance - marginal - residual, rtol=1e-12
    )


def test_probabilities_of_classes_are_the_softmax_reading():
    code, z = make(), latents()
    distribution = code.make_distribution()
    blocks = distribution.split(z)
    for name, index in (("shape", 1), ("scale", 3)):
        probabilities = np.exp(
            to_numpy(distribution.distributions[index].class_log_prob(blocks[index]))
        )
        received = to_numpy(code.read(z, "softmax", name))
        np.testing.assert_allclose(received, probabilities, rtol=1e-4, atol=1e-6)


def test_values_with_numbers_of_their_own():
    """And with those of an attribute that has classes, which has no use for them."""
    code = AttributeCode({"x": None, "shape": 2, "y": None})
    distribution = code.make_distribution(
        noise={"x": 0.5, "y": 1.0},
        location={"x": 1.0, "shape": 9.0, "y": -2.0},
        scale={"x": 2.0, "y": 3.0},
    )
    z = latents()[:, :4]
    x, y = (
        scipy.stats.norm(location, variance**0.5).logpdf(z[:, column])
        for location, variance, column in ((1.0, 4.25, 0), (-2.0, 10.0, 3))
    )
    received = to_numpy(distribution.log_prob(z))
    shape = to_numpy(distribution.distributions[1].log_prob(z[:, 1:3]))
    np.testing.assert_allclose(received, x + y + shape, rtol=1e-5)
    with pytest.raises(ValueError, match="`scale` should have a number for attribute 'y'"):
        code.make_distribution(scale={"x": 1.0})


def test_readings():
    code, z = make(), latents()
    shape, scale = z[:, 2:5].argmax(axis=1), z[:, 6:].argmax(axis=1)
    softmax = [scipy.special.softmax(4.0 * block, axis=1) for block in (z[:, 2:5], z[:, 6:])]
    expected = {
        "sampled": z[:, 2:],
        "softmax": np.column_stack([softmax[0], z[:, 5], softmax[1]]),
        "argmax": np.column_stack([shape, z[:, 5], scale]),
        "argmax_norm": np.column_stack([shape / 2, z[:, 5], scale]),
    }
    for reading, values in expected.items():
        received = to_numpy(code.read(ops.convert_to_tensor(z), reading))
        np.testing.assert_allclose(received, values, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(to_numpy(code.read(z, "argmax", "scale")), scale[:, None])
    real = AttributeCode({"y": None, "x": None}, dimension_count=8)
    for reading in ("l2", "sampled", "softmax", "argmax", "argmax_norm"):
        np.testing.assert_array_equal(to_numpy(real.read(z, reading)), z[:, 6:])
    np.testing.assert_array_equal(to_numpy(code.read(z, "l2", "x")), z[:, 5:6])


def test_what_is_written_is_read_through_a_flow():
    """And the residual and attributes that are not written stay as they are."""
    code, z = make(), latents()
    np.testing.assert_allclose(to_numpy(code.read(code.encode(LABELS), "argmax")), LABELS)
    np.testing.assert_array_equal(to_numpy(code.encode(LABELS))[:, :2], 0.0)
    np.testing.assert_array_equal(
        to_numpy(code.encode(LABELS[1])), to_numpy(code.encode(LABELS))[1:2]
    )

    network = MLP([8])
    coupling = AffineCoupling(conditioner=network)
    flow = FlowModel([Reflection(reflection_count=8), coupling])
    flow.build((None, 8))
    for weight in network.trainable_weights:
        weight.assign(to_numpy(weight) + 0.1)
    written = code.write(z, {"scale": [1, 0, 0, 1], "x": 0.5})
    x = flow.invert(written)
    assert np.max(np.abs(to_numpy(x) - to_numpy(written))) > 0.5
    read = to_numpy(code.read(flow(x)[0], "argmax"))
    before = to_numpy(code.read(z, "argmax"))
    expected = np.column_stack([before[:, 0], np.full(4, 0.5), [1, 0, 0, 1]])
    np.testing.assert_allclose(read, expected, atol=1e-5)
    np.testing.assert_array_equal(to_numpy(written)[:, :5], z[:, :5])


def test_unknown_attributes_are_not_written():
    code, z = make(), latents()
    for unknown in (-1, UNKNOWN):
        written = to_numpy(code.write(z, {"shape": [unknown, 1, unknown, 2], "x": UNKNOWN}))
        expected = z.copy()
        expected[[1, 3], 2:5] = 4.0 * np.eye(3)[[1, 2]]
        np.testing.assert_array_equal(written, expected)
    np.testing.assert_array_equal(to_numpy(code.encode([[-1, UNKNOWN, -1]])), np.zeros([1, 8]))


def test_compiled():
    code, z = make(), ops.convert_to_tensor(latents())
    labels = ops.convert_to_tensor(LABELS.astype("float32"))
    for reading in ("sampled", "softmax", "argmax", "argmax_norm"):
        read = jit(lambda z, reading=reading: code.read(z, reading))
        np.testing.assert_allclose(
            to_numpy(read(z)), to_numpy(code.read(z, reading)), rtol=1e-5, atol=1e-7
        )
    encoded = to_numpy(jit(code.encode)(labels))
    np.testing.assert_array_equal(encoded, to_numpy(code.encode(LABELS)))
    classes = ops.convert_to_tensor([0, 3, -2, -1])
    written = to_numpy(jit(lambda z, classes: code.write(z, {"shape": classes}))(z, classes))
    is_nan = np.isnan(written[:, 2:5])
    np.testing.assert_array_equal(is_nan, np.repeat([[False], [True], [True], [False]], 3, axis=1))
    assert not np.any(np.isnan(np.delete(written, [2, 3, 4], axis=1)))


def test_flow_learns_the_code():
    """From labels of a third of the instances; it then tells the attributes of all others."""
    random = np.random.default_rng(0)
    labels = np.column_stack([random.integers(3, size=900), random.normal(size=900)])
    code = AttributeCode({"shape": 3, "x": None}, dimension_count=5, separation=4.0)
    distribution = code.make_distribution()
    x = to_numpy(distribution.sample(900, seed=0, labels=labels))
    x = 0.5 * x + np.array([2.0, 3.0, -2.0, 0.0, 1.0], "float32")
    is_known = np.arange(900) % 3 == 0

    def read():
        return to_numpy(code.read(flow(x)[0], "argmax"))[~is_known]

    flow = FlowModel([ActivationNormalization()], distribution)
    flow.compile(keras.optimizers.Adam(0.1))
    assert np.mean(read()[:, 0] == labels[~is_known, 0]) < 0.6
    given = np.where(is_known[:, None], labels, [-1, UNKNOWN])
    flow.fit(x, given, epochs=10, batch_size=90, verbose=0)
    assert np.mean(read()[:, 0] == labels[~is_known, 0]) > 0.95
    np.testing.assert_allclose(np.mean((read()[:, 1] - labels[~is_known, 1]) ** 2), 0.09, atol=0.03)


def test_config():
    code = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(make()))
    assert code.get_config() == make().get_config()
    assert list(code.attributes) == list(ATTRIBUTES)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: AttributeCode({}), "`attributes` should not be empty"),
        (
            lambda: AttributeCode({"a": 1}),
            r"`attributes\['a'\]` should be an integer of at least 2",
        ),
        (lambda: make(dimension_count=5), "`dimension_count` should be an integer of at least 6"),
        (lambda: make(separation=0.0), "`separation` should be positive"),
        (lambda: make().read(latents(), "mean"), "`reading` should be one of sampled, softmax"),
        (lambda: make().read(latents(), "l2"), "'shape' has classes"),
        (lambda: make().read(latents(), name="y"), r"one of \['shape', 'x', 'scale'\]"),
        (lambda: make().write(latents(), {"y": 1}), r"one of \['shape', 'x', 'scale'\]"),
        (lambda: make().read(latents()[:, :7]), r"`z` should have shape \[batch, 8\]"),
        (lambda: make().write(latents(), {"shape": 3}), "`shape` should be integers from 0 to 2"),
        (lambda: make().write(latents(), {"shape": 0.5}), "`shape` should be integers from 0 to 2"),
        (lambda: make().write(latents(), {"x": np.inf}), "`x` should be finite"),
        (lambda: make().write(latents(), {"x": [0.0] * 3}), "`x` should be one label, or one for"),
        (lambda: make().encode([[0, 0.5]]), r"Labels should have shape \[batch, 3\]"),
        (lambda: make().encode([[0, 0.5, 2]]), "`scale` should be integers from 0 to 1"),
    ],
)
def test_bad_input(use, message):
    with pytest.raises(ValueError, match=message):
        use()
