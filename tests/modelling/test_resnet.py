"""The convolutional conditioner: what it computes, what it depends on, where it works."""

import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import jit
from gyoza.modelling.conditioners import ResNet
from gyoza.modelling.flow_layers import (
    AdditiveCoupling,
    AffineCoupling,
    RationalQuadraticSplineCoupling,
)
from gyoza.modelling.masks import CheckerBoardMask


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def make_random(channels, **options):
    """Makes a network whose weights are all random, and a compiled function of it."""
    network = ResNet(activation="tanh", **options)
    network.build((None, None, None, channels))
    random = np.random.default_rng(1)
    network.set_weights([random.normal(size=w.shape) / 3.0 for w in network.weights])
    return network, jit(network)


def run(function, x):
    return to_numpy(function(ops.convert_to_tensor(x)))


@pytest.mark.parametrize("block_count", [0, 1, 2])
def test_pixels_of_one_size_make_it_a_residual_network_of_dense_layers(block_count):
    network, function = make_random(
        3, width=4, block_count=block_count, kernel_size=1, output_size=2
    )
    x = images(2, 3, 5, 3)
    arrays = [to_numpy(weight) for weight in network.weights]
    first, *blocks, mix, last = [
        lambda h, kernel=kernel[0, 0], bias=bias: h @ kernel + bias
        for kernel, bias in zip(arrays[::2], arrays[1::2], strict=True)
    ]
    h = first(x)
    for before, after in zip(blocks[::2], blocks[1::2], strict=True):
        h = h + after(np.tanh(before(np.tanh(h))))
    expected = last(np.tanh(mix(np.tanh(h))))
    assert len(blocks) == 2 * block_count
    np.testing.assert_allclose(run(function, x), expected, rtol=1e-4, atol=1e-5)


def test_without_blocks_it_has_the_three_convolutions_of_glow():
    network, _ = make_random(2, width=8, block_count=0, output_size=6)
    assert [tuple(weight.shape) for weight in network.weights[::2]] == [
        (3, 3, 2, 8),
        (1, 1, 8, 8),
        (3, 3, 8, 6),
    ]


@pytest.mark.parametrize(
    ("block_count", "kernel_size", "radius"), [(0, 3, 2), (1, 3, 4), (0, 5, 4)]
)
def test_a_pixel_is_seen_as_far_away_as_documented_and_no_further(block_count, kernel_size, radius):
    assert radius == (block_count + 1) * (kernel_size - 1)
    _, function = make_random(
        1, width=4, block_count=block_count, kernel_size=kernel_size, output_size=1
    )
    x = images(1, 13, 13, 1)
    other = x.copy()
    other[0, 6, 6] += 1.0
    moved = np.abs(run(function, other) - run(function, x))[0, ..., 0] > 1e-6
    expected = np.maximum(*np.abs(np.indices((13, 13)) - 6)) <= radius
    np.testing.assert_array_equal(moved, expected)


def test_a_shifted_image_has_shifted_parameters_away_from_borders():
    _, function = make_random(2, width=4, block_count=1, output_size=3)
    x = images(1, 12, 14, 2)
    y, y_shifted = run(function, x), run(function, np.roll(x, (1, 2), axis=(1, 2)))
    np.testing.assert_allclose(y_shifted[:, 5:-4, 6:-4], y[:, 4:-5, 4:-6], atol=1e-5)
    assert np.std(y[:, 4:-5, 4:-6]) > 0.1


@pytest.mark.parametrize("block_count", [0, 1])
def test_a_new_network_makes_a_coupling_the_identity(block_count):
    x = images(2, 4, 4, 3)
    layer = AffineCoupling(axes=[3], conditioner=ResNet(width=4, block_count=block_count))
    outputs, log_det = layer(x)
    np.testing.assert_array_equal(to_numpy(outputs), x)
    np.testing.assert_array_equal(to_numpy(log_det), 0.0)


CASES = {
    "affine": (
        AffineCoupling(axes=[3], conditioner=ResNet(4, 1, activation="tanh")),
        [4, 4, 4],
    ),
    "spline": (
        RationalQuadraticSplineCoupling(
            axes=[3],
            conditioner=ResNet(4, 0, activation="tanh"),
            bin_count=3,
            # No steep bins, which would magnify the rounding of outputs.
            minimum_bin_width=0.1,
            minimum_bin_height=0.1,
            minimum_slope=0.2,
        ),
        [3, 2, 4],
    ),
    "checkerboard": (
        AffineCoupling(
            conditioner=ResNet(4, 0, activation="tanh"),
            mask=CheckerBoardMask(axes=[1, 2]),
        ),
        [4, 3, 1],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_contract(name, check_contract):
    layer, input_shape = CASES[name]
    # Neither dtypes nor saving depend on the coupling: one case is enough.
    check_contract(layer, input_shape, tolerance=1e-4, is_further_layout=name != "affine")


def test_a_coupling_that_splits_pixels_hands_over_images():
    network = ResNet(4, 0)
    layer = AdditiveCoupling(conditioner=network, mask=CheckerBoardMask(axes=[1, 2]))
    layer(images(1, 4, 4, 2))
    assert tuple(network.first.kernel.shape) == (3, 3, 2, 4)
    assert network.output_size == 2


def test_bad_input():
    with pytest.raises(ValueError, match="`width` should be an integer of at least 1"):
        ResNet(width=0)
    with pytest.raises(ValueError, match="`block_count` should be an integer of at least 0"):
        ResNet(block_count=-1)
    with pytest.raises(ValueError, match=r"`kernel_size` should be odd. Received: kernel_size=4"):
        ResNet(kernel_size=4)
    with pytest.raises(ValueError, match="`kernel_size` should be an integer"):
        ResNet(kernel_size=2.5)
    with pytest.raises(ValueError, match="should be given `output_size`"):
        ResNet()(images(1, 4, 4, 2))
    with pytest.raises(ValueError, match=r"should be given images.*input_shape=\(1, 4\)"):
        ResNet(output_size=1)(images(1, 4))
