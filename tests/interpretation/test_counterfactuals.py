import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy import optimize

from gyoza.interpretation import Interpreter
from gyoza.interpretation.counterfactuals import check_target, find_nearest
from gyoza.modelling import flow_layers

pytestmark = [
    pytest.mark.usefixtures("without_xla"),
    pytest.mark.compiled_by("jax"),
]

SIZES = {"residual": 2, "shape": 3, "hue": 1}
BLOCK = slice(2, 5)
random = np.random.default_rng(0)
X = random.normal(size=[12, 6]).astype("float32")


def make_interpreter(tail):
    """An interpreter whose flow is linear, and the matrix from latent to hidden vectors."""
    linear = flow_layers.LULinear([6], seed=1)
    linear.factors.assign_add(0.3 * np.random.default_rng(1).normal(size=[6, 6]))
    flow = flow_layers.FlowModel([linear])
    flow.build((None, 6))
    identity = keras.Sequential([keras.Input([6]), layers.Identity()])
    interpreter = Interpreter(identity, flow, tail, SIZES, batch_size=8)
    return interpreter, np.linalg.inv(ops.convert_to_numpy(linear.matrix))


def make_tail(class_count, activation=None, hidden=()):
    sizes = [6, *hidden, class_count]
    parts = [layers.Dense(size, "tanh") for size in hidden]
    tail = keras.Sequential([keras.Input([6]), *parts, layers.Dense(class_count, activation)])
    random = np.random.default_rng(1)
    for layer, size in zip(tail.layers, sizes, strict=False):
        for weight in layer.weights:
            weight.assign(random.normal(size=weight.shape) / np.sqrt(size))
    return tail


def join(factors):
    return np.concatenate(list(factors.values()), axis=1)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_distance_to_a_plane(activation):
    tail = make_tail(2, activation)
    interpreter, matrix = make_interpreter(tail)
    kernel, bias = tail.get_weights()
    target = np.arange(12) % 2
    sign = 2.0 * target - 1.0
    z = join(interpreter.encode(X))
    normal = matrix @ (kernel[:, 1] - kernel[:, 0])
    margin = sign * (z @ normal + bias[1] - bias[0])
    distance = np.maximum(-margin, 0.0) / np.linalg.norm(normal[BLOCK])
    result = interpreter.counterfactual(X, target, factors=["shape"])
    np.testing.assert_allclose(result.distance, distance, rtol=5e-3)
    assert 0 < np.sum(distance > 0.0) < 12
    assert np.all(result.found)
    np.testing.assert_array_equal(np.argmax(result.outputs, axis=1), target)
    moved = join(result.factors) - z
    expected = np.zeros_like(z)
    expected[:, BLOCK] = (distance * sign)[:, None] * normal[BLOCK]
    np.testing.assert_allclose(moved, expected / np.linalg.norm(normal[BLOCK]), atol=2e-2)
    for name in ("residual", "hue"):  # the others do not change at all
        np.testing.assert_array_equal(result.factors[name], interpreter.encode(X)[name])
    np.testing.assert_array_equal(moved[distance == 0.0], 0.0)


def test_distance_to_where_several_classes_meet():
    tail = make_tail(4)
    interpreter, matrix = make_interpreter(tail)
    kernel, bias = tail.get_weights()
    z = join(interpreter.encode(X))
    result = interpreter.counterfactual(X, 2, ["shape", "hue"])
    differences = matrix @ (kernel[:, [2]] - np.delete(kernel, 2, axis=1))
    offsets = z @ differences + (bias[2] - np.delete(bias, 2))
    for offset, distance, found in zip(offsets, result.distance, result.found, strict=True):
        constraint = {"type": "ineq", "fun": lambda d, c=offset: d @ differences[2:] + c}
        best = optimize.minimize(lambda d: 0.5 * d @ d, np.zeros(4), constraints=[constraint])
        assert best.success
        assert found
        np.testing.assert_allclose(distance, np.sqrt(2.0 * best.fun), rtol=0.01, atol=1e-6)


def test_instances_for_which_no_change_gives_the_answer():
    tail = make_tail(2)
    interpreter, matrix = make_interpreter(tail)
    kernel, bias = tail.get_weights()
    kernel = np.linalg.inv(matrix) @ np.pad(np.array([[-1.0, 1.0]]), ((0, 5), (0, 0)))
    tail.set_weights([kernel, bias])  # only the first latent dimension counts
    answers = np.argmax(interpreter.decode(interpreter.encode(X)), axis=1)
    result = interpreter.counterfactual(X, 1, factors="shape")
    assert 0 < answers.sum() < 12
    np.testing.assert_array_equal(result.found, answers == 1)
    np.testing.assert_array_equal(result.distance, np.where(answers == 1, 0.0, np.inf))
    np.testing.assert_array_equal(join(result.factors), join(interpreter.encode(X)))


def test_a_loss_as_target():
    """Finds the nearest point on an ellipsoid with different axes."""
    tail = keras.Sequential([keras.Input([6]), layers.Identity()])
    interpreter, matrix = make_interpreter(tail)
    z = join(interpreter.encode(X))
    shape = matrix @ np.diag([1.0, 2.0, 1.0, 1.0, 0.5, 1.0]) @ matrix.T
    inverse = np.linalg.inv(matrix) @ shape @ np.linalg.inv(matrix).T
    inverse = inverse.astype("float32")

    def loss(outputs):
        return 9.0 - ops.sum(outputs @ ops.convert_to_tensor(inverse) * outputs, axis=1)

    result = interpreter.counterfactual(X, loss)
    moved = join(result.factors)
    values = np.sum(moved @ shape * moved, axis=1)
    outside = np.sum(z @ shape * z, axis=1) > 9.0
    np.testing.assert_array_equal(result.distance == 0.0, outside)
    assert np.all(result.found)
    assert 0 < outside.sum() < 12
    np.testing.assert_allclose(values[~outside], 9.0, rtol=5e-3)
    # At the nearest point, the move is at right angles to the ellipsoid.
    normals, moves = (moved @ shape)[~outside], (moved - z)[~outside]
    cosines = np.sum(normals * moves, axis=1) / (
        np.linalg.norm(normals, axis=1) * np.linalg.norm(moves, axis=1)
    )
    np.testing.assert_allclose(cosines, 1.0, atol=5e-3)


def test_no_random_move_is_shorter():
    tail = make_tail(3, "softmax", hidden=[16])
    interpreter, _ = make_interpreter(tail)
    result = interpreter.counterfactual(3.0 * X, 0, ["shape", "hue"])
    z = join(interpreter.encode(3.0 * X))
    moves = np.random.default_rng(2).normal(size=[500, 1, 6]) * [0, 0, 1, 1, 1, 1]
    lengths = np.linalg.norm(moves, axis=-1, keepdims=True)
    moves = 0.98 * np.where(result.found, result.distance, 0.0)[:, None] * moves / lengths
    answers = np.argmax(
        ops.convert_to_numpy(interpreter.tail(interpreter.flow.invert((z + moves).reshape(-1, 6)))),
        axis=1,
    ).reshape(500, 12)
    wrong = (result.distance > 0.0) & result.found
    assert np.sum(wrong) > 2
    assert not np.any(answers[:, wrong] == 0)
    np.testing.assert_array_equal(np.argmax(result.outputs, axis=1)[result.found], 0)


def test_a_curved_margin():
    """From a point off the centre of a circle, the nearest point is across the nearer side."""

    def differentiate(z):
        return np.sum(z**2, axis=1) - 4.0, 2.0 * z

    start = np.array([[0.5, 0.0], [0.0, -1.0], [3.0, 0.0], [0.6, 0.8]])
    moved, distance, found = find_nearest(differentiate, start, [], np.array([True, True]), 50)
    np.testing.assert_allclose(distance, [1.5, 1.0, 0.0, 1.0], rtol=2e-3)
    np.testing.assert_allclose(moved, [[2, 0], [0, -2], [3, 0], [1.2, 1.6]], atol=1e-2)
    assert np.all(found)


@pytest.mark.parametrize("target", [3, -1, [0, 1], 0.5, "b"])
def test_bad_targets(target):
    with pytest.raises(ValueError, match="index of one of 3 classes"):
        check_target(target, np.zeros([12, 3]), 12)


@pytest.mark.parametrize("axis", [0, None])
def test_losses_that_are_not_those_of_instances(axis):
    interpreter, _ = make_interpreter(make_tail(3))
    with pytest.raises(ValueError, match=r"loss for each instance, of shape \[12\]"):
        interpreter.counterfactual(X, lambda y: y if axis is None else ops.sum(y, axis=axis))


def test_targets_where_outputs_are_not_those_of_classes():
    with pytest.raises(ValueError, match=r"callable.*\(12, 1\)"):
        check_target(0, np.zeros([12, 1]), 12)
