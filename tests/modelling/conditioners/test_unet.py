"""The convolutional velocity: what it computes, what it depends on, where it works."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import jit, vjp
from gyoza.modelling.conditioners import VelocityUNet
from gyoza.modelling.flow_layers import ContinuousFlow, FlowMatchingModel, FlowModel
from gyoza.testing.functions import has_float64

pytestmark = [
    pytest.mark.usefixtures("without_xla"),
    pytest.mark.compiled_by(),
]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make_random(shapes, **options):
    """Makes a network whose weights are all random."""
    network = VelocityUNet(**options)
    network.build([(None, *shape) for shape in shapes])
    for k, weight in enumerate(network.trainable_weights):
        weight.assign(draw(*weight.shape, seed=k) / np.sqrt(1.0 + np.prod(weight.shape[:-1])))
    return network


@functools.lru_cache(maxsize=1)
def compile_network(network):
    return jit(lambda *inputs: network(list(inputs)))


def run(network, *inputs):
    return to_numpy(compile_network(network)(*map(ops.convert_to_tensor, inputs)))


def test_a_new_velocity_is_zero():
    velocity = VelocityUNet(widths=[4, 6], block_count=1)
    outputs = velocity([draw(3, 8, 8, 2), draw(3, 1), draw(3, 5)])
    np.testing.assert_array_equal(to_numpy(outputs), np.zeros([3, 8, 8, 2]))


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 7, 2), (5, 2, 1), (1, 1, 3)])
@pytest.mark.parametrize("widths", [[4], [4, 6, 8]])
def test_images_of_any_size_keep_their_shape(shape, widths):
    network = make_random([shape, (1,)], widths=widths, block_count=1)
    outputs = run(network, draw(2, *shape), draw(2, 1))
    assert outputs.shape == (2, *shape)
    assert np.all(np.isfinite(outputs))
    assert np.std(outputs) > 0.0
    assert len(network.blocks) == 2 * len(widths) - 1


def test_one_pixel_makes_it_a_residual_network_of_dense_layers():
    network = make_random([(1, 1, 2), (1,), (3,)], widths=[4], block_count=2, activation="tanh")
    x, time, context = draw(5, 1, 1, 2), draw(5, 1), draw(5, 3)

    def dense(layer, h):
        kernel, bias = map(to_numpy, layer.weights)
        return h @ (kernel[1, 1] if kernel.ndim == 4 else kernel) + bias

    def normalise(h):
        mean, variance = h.mean(axis=-1, keepdims=True), h.var(axis=-1, keepdims=True)
        return (h - mean) / np.sqrt(variance + 1e-3)

    angles = np.pi * np.arange(1, 5) * time
    features = np.concatenate([context, time, np.cos(angles), np.sin(angles)], axis=-1)
    embedding = np.tanh(dense(network.embedding, features))
    h = dense(network.first, x[:, 0, 0])
    for block in network.blocks:
        scale, shift = np.split(dense(block.modulation, embedding), 2, axis=-1)
        new = dense(block.convolutions[0], np.tanh(normalise(h)))
        new = (1.0 + scale) * normalise(new) + shift
        h = h + dense(block.convolutions[1], np.tanh(new))
    expected = dense(network.last, np.tanh(normalise(h)))
    np.testing.assert_allclose(run(network, x, time, context)[:, 0, 0], expected, atol=1e-5)


def test_images_depend_on_their_own_pixels_time_and_context_alone():
    network = make_random([(6, 6, 1), (1,), (2,)], widths=[4, 6], block_count=1)
    inputs = [draw(3, 6, 6, 1), draw(3, 1), draw(3, 2)]
    outputs = run(network, *inputs)
    for part in range(3):
        changed = [x.copy() for x in inputs]
        changed[part][1] += 1.0
        difference = np.abs(run(network, *changed) - outputs).max(axis=(1, 2, 3))
        assert difference[1] > 1e-3
        np.testing.assert_allclose(difference[[0, 2]], 0.0, atol=1e-6)


def test_the_lower_resolution_sees_what_the_higher_one_does_not():
    pixel = np.zeros([1, 16, 16, 1])
    pixel[0, 0, 0] = 1.0
    time = np.zeros([1, 1])
    reaches = []
    for widths in ([4], [4, 4]):
        network = make_random([(16, 16, 1), (1,)], widths=widths, block_count=1, dtype="float64")
        change = run(network, pixel, time) - run(network, 0.0 * pixel, time)
        reaches.append(np.flatnonzero(np.abs(change[0]).max(axis=(0, 2)) > 1e-13).max())
    # Four convolutions of 3×3 pixels; three that reach the second square, two from there to the
    # fourth, which has the pixels 6 and 7, and three more.
    assert reaches == [4, 7 + 3]


def test_second_derivatives_are_those_of_differences():
    network = make_random([(3, 4, 1), (1,)], widths=[4, 6], block_count=1)
    x, direction = map(ops.convert_to_tensor, (draw(2, 3, 4, 1), draw(2, 3, 4, 1, seed=1)))
    time = ops.convert_to_tensor(draw(2, 1))

    def differentiate(x):
        _, pull_back = vjp(lambda x: network([x, time]), [x])
        return pull_back(direction)[0]

    @jit
    def differentiate_twice(x):
        _, pull_back = vjp(differentiate, [x])
        return pull_back(direction)[0]

    @jit
    def estimate(x):
        change = 3e-3 * direction
        return differentiate(x + change), differentiate(x - change)

    after, before = map(to_numpy, estimate(x))
    expected = (after - before) / 6e-3  # the second derivatives are symmetric
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(to_numpy(differentiate_twice(x)), expected, atol=5e-3, rtol=1e-2)


def test_dropout_acts_in_training_alone():
    network = make_random([(4, 4, 1), (1,)], widths=[4], block_count=1, dropout=0.5)
    inputs = [draw(2, 4, 4, 1), draw(2, 1)]
    first, second = (to_numpy(network(inputs)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.abs(to_numpy(network(inputs, training=True)) - first).max() > 0.01


def test_mixed_precision_is_nearly_as_exact():
    policy = keras.DTypePolicy("mixed_float16")
    network = VelocityUNet(widths=[4, 6], block_count=1, dtype=policy)
    reference = make_random([(5, 5, 1), (1,)], widths=[4, 6], block_count=1)
    inputs = [draw(2, 5, 5, 1), draw(2, 1)]
    network.build([(None, 5, 5, 1), (None, 1)])
    network.set_weights(reference.get_weights())
    outputs = run(network, *inputs)
    assert outputs.dtype == "float16"
    np.testing.assert_allclose(outputs, run(reference, *inputs), atol=0.03)


@pytest.mark.skipif(not has_float64(), reason="has float32 alone")
def test_second_derivatives_in_float64_are_finite_differences_of_the_first():
    network = make_random([(4, 4, 1), (1,)], widths=[4, 4], block_count=1, dtype="float64")
    x, time, ones = (ops.convert_to_tensor(a, "float64") for a in (draw(2, 4, 4, 1), 0.3, 1.0))
    time, kernel = ops.broadcast_to(time, (2, 1)), network.trainable_weights[0]

    def measure_slope(value):
        def run(x):
            with keras.StatelessScope(state_mapping=[(kernel, value)]):
                return ops.sum(network([x, time]))

        return ops.sum(ops.square(vjp(run, [x])[1](ones)[0]))

    value, direction = (ops.convert_to_tensor(a, "float64") for a in (kernel, draw(*kernel.shape)))
    (gradient,) = vjp(measure_slope, [value])[1](ones)
    above, below = (measure_slope(value + step * direction) for step in (1e-5, -1e-5))
    expected = float(above - below) / 2e-5
    assert float(ops.sum(gradient * direction)) == pytest.approx(expected, rel=1e-6)


def test_densities_of_images_are_exact_ones(tmp_path):
    velocity = make_random([(2, 2, 1), (1,)], widths=[4], block_count=1)
    flow = FlowModel([ContinuousFlow(velocity, step_count=4)])
    x = draw(1, 2, 2, 1)
    changes = 1e-2 * np.eye(4, dtype="float32").reshape(4, 2, 2, 1)
    z, log_det = map(to_numpy, jit(flow)(np.concatenate([x + changes, x - changes, x])))
    matrix = (z[:4] - z[4:8]).reshape(4, 4) / 2e-2
    assert abs(log_det[-1]) > 0.05
    assert log_det[-1] == pytest.approx(np.linalg.slogdet(matrix)[1], abs=5e-3)
    np.testing.assert_allclose(to_numpy(flow.invert(z[-1:])), x, atol=1e-3)

    flow.save(tmp_path / "flow.keras")
    loaded = keras.saving.load_model(tmp_path / "flow.keras")
    np.testing.assert_allclose(to_numpy(jit(loaded)(x)[1]), log_det[-1:], atol=1e-5)


@pytest.mark.long
def test_it_learns_by_flow_matching_where_an_image_is_bright():
    random = np.random.default_rng(0)
    labels = random.integers(2, size=256)
    context = np.eye(2, dtype="float32")[labels]
    x = 0.1 * draw(256, 4, 4, 1)
    x[np.arange(256), :, 2 * labels] += 1.0
    data = {"inputs": x, "context": context}
    velocity = VelocityUNet(widths=[8, 8], block_count=1, dropout=0.1)
    model = FlowMatchingModel(velocity, step_count=4, seed=0)
    model.adapt(data)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(data, epochs=12, batch_size=64, verbose=0)
    samples = to_numpy(model.sample(64, seed=0, context=np.repeat(np.eye(2), 32, axis=0)))
    means = samples.reshape(2, 32, 4, 4).mean(axis=(1, 2))
    np.testing.assert_allclose(means, [[1, 0, 0, 0], [0, 0, 1, 0]], atol=0.25)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VelocityUNet(widths=[]), r"`widths` .* Received: widths=\[\]"),
        (lambda: VelocityUNet(widths=[4, 0]), r"Received: widths=\[4, 0\]"),
        (lambda: VelocityUNet(block_count=0), "block_count=0"),
        (lambda: VelocityUNet(dropout=1.0), "dropout=1.0"),
        (lambda: VelocityUNet(dropout="half"), "dropout='half'"),
        (lambda: VelocityUNet()(np.ones([2, 8, 8, 1])), r"the list \[x, time\]"),
        (
            lambda: VelocityUNet()([np.ones([2, 8, 8], "float32"), np.ones([2, 1], "float32")]),
            r"given images, .* Received: images of shape \(2, 8, 8\)",
        ),
        (
            lambda: VelocityUNet().build([(None, None, 8, 1), (None, 1)]),
            "Received: images of shape",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
