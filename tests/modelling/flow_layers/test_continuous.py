"""Flows in continuous time, by closed forms of linear and Gaussian ones."""

import dataclasses
import weakref

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy.linalg import expm

from gyoza.interpretation import Interpreter
from gyoza.modelling.conditioners import VelocityMLP
from gyoza.modelling.distributions import StandardNormal
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    ContinuousFlow,
    DisentanglingFlowModel,
    FlowModel,
    Standardize,
    VariationalModel,
)
from gyoza.modelling.functions import solve
from gyoza.modelling.losses import SupervisedFactorLoss
from gyoza.testing import check_flow_layer

pytestmark = pytest.mark.usefixtures("without_xla")

MATRIX = np.array([[-0.5, 1.0, 0.2], [-1.0, 0.3, 0.0], [0.1, -0.4, 0.8]], "float32")


@keras.saving.register_keras_serializable(package="gyoza_tests")
class LinearVelocity(keras.Layer):
    """The velocity M x, without weights."""

    def __init__(self, matrix, **kwargs):
        super().__init__(**kwargs)
        self.matrix = np.asarray(matrix, "float32")

    def call(self, inputs):
        return ops.matmul(inputs[0], ops.cast(self.matrix.T, inputs[0].dtype))

    def compute_output_shape(self, input_shape):
        return input_shape[0]


def normal(count, *shape, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype("float32")


@keras.saving.register_keras_serializable(package="gyoza_tests")
class SlowVelocity(VelocityMLP):
    """A velocity for which few steps suffice, also in float64."""

    def call(self, inputs):
        return 0.02 * super().call(inputs)


@pytest.mark.compiled_by("jax")
def test_contract(check_contract):
    layer = ContinuousFlow(SlowVelocity([8], "tanh", frequency_count=1), step_count=8)
    check_contract(layer, [3])


@pytest.mark.compiled_by("torch")
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="rk4"),
        pytest.param({"solver": "midpoint"}, id="midpoint"),
        pytest.param({"solver": "dopri5"}, id="dopri5"),
        pytest.param({"step_count": 100}, id="many steps", marks=pytest.mark.long),
    ],
)
def test_contract_of_solvers(options):
    keras.utils.set_random_seed(0)
    check_flow_layer(ContinuousFlow(VelocityMLP(), **options), [3], fresh_process=False)


@pytest.fixture
def optimised_graphs():
    """Lets TensorFlow optimise graphs, as it does for users: tests are spared it."""
    options = pytest.importorskip("tensorflow").config.optimizer
    given = options.get_experimental_options()
    options.set_experimental_options({"disable_meta_optimizer": False})
    yield
    options.set_experimental_options(given)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="optimises graphs")
def test_large_batches_are_trained_without_xla(optimised_graphs):
    """TensorFlow would use variables for sums of large tensors, and fail at those of loops."""
    model = FlowModel([ContinuousFlow(VelocityMLP([128, 128, 128]), step_count=2)])
    model.compile("adam", jit_compile=False)
    x = normal(1000, 9)
    loss, _ = model.fit(x, batch_size=1000, epochs=2, verbose=0).history["loss"]
    expected = -np.mean(to_numpy(StandardNormal().log_prob(x)))  # as a new velocity is zero
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@keras.saving.register_keras_serializable(package="gyoza_tests")
class WrongLogDet(ContinuousFlow):
    def _follow(self, *args, **kwargs):
        x, *log_dets = super()._follow(*args, **kwargs)
        return x, *(0.97 * log_det for log_det in log_dets)


@keras.saving.register_keras_serializable(package="gyoza_tests")
class WrongInverse(ContinuousFlow):
    def invert(self, outputs, **kwargs):
        return super().invert(0.99 * outputs, **kwargs)


@keras.saving.register_keras_serializable(package="gyoza_tests")
class WrongGradient(ContinuousFlow):
    def invert(self, outputs, **kwargs):
        return ops.stop_gradient(super().invert(outputs, **kwargs)) + 0.0 * outputs


@pytest.mark.compiled_by("torch")
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (WrongLogDet(VelocityMLP([8])), "Jacobian matrix"),
        (WrongGradient(VelocityMLP([8]), solver="midpoint"), "gradient of `invert`"),
        (WrongInverse(VelocityMLP([8])), "invert"),
        (ContinuousFlow(VelocityMLP([8]), solver="euler", step_count=2), "short enough"),
    ],
)
def test_contract_finds_more_than_errors_of_solvers(layer, message):
    with pytest.raises(AssertionError, match=message):
        check_flow_layer(layer, [3], fresh_process=False)


def test_contract_of_further_axes_with_a_context(check_contract):
    layer = ContinuousFlow(SlowVelocity([8], "tanh", frequency_count=1), step_count=2)
    check_contract(layer, [2, 2], context=normal(4, 2), is_further_layout=True)


@pytest.mark.parametrize(
    ("solver", "tolerance"), [("euler", 5e-2), ("midpoint", 1e-3), ("rk4", 1e-5), ("dopri5", 1e-4)]
)
def test_linear_flows_are_matrix_exponentials(solver, tolerance):
    layer = ContinuousFlow(LinearVelocity(MATRIX), solver=solver, step_count=32)
    x = normal(4, 3)
    outputs, log_det = layer(x)
    np.testing.assert_allclose(to_numpy(outputs), x @ expm(-MATRIX.T), atol=tolerance)
    np.testing.assert_allclose(to_numpy(log_det), -np.trace(MATRIX), atol=1e-5)
    inputs, log_det = layer.invert_and_log_det(x)
    np.testing.assert_allclose(to_numpy(inputs), x @ expm(MATRIX.T), atol=tolerance)
    np.testing.assert_allclose(to_numpy(log_det), -np.trace(MATRIX), atol=1e-5)
    np.testing.assert_allclose(to_numpy(layer.invert(x)), to_numpy(inputs), atol=1e-5)


@pytest.mark.parametrize("probe", ["rademacher", "normal"])
def test_estimates_are_unbiased(probe):
    layer = ContinuousFlow(LinearVelocity(MATRIX), step_count=2, exact_limit=0, probe=probe, seed=1)
    _, log_det = layer(normal(4000, 3))
    estimates = to_numpy(log_det)
    error = estimates.std() / np.sqrt(len(estimates))
    assert 0.005 < error < 0.05
    assert abs(estimates.mean() + np.trace(MATRIX)) < 4.0 * error
    layer = ContinuousFlow(
        LinearVelocity(MATRIX), step_count=2, exact_limit=0, probe=probe, probe_count=16, seed=1
    )
    _, log_det = layer(normal(4000, 3))
    assert to_numpy(log_det).std() == pytest.approx(estimates.std() / 4.0, rel=0.1)


def test_signs_estimate_diagonal_traces_exactly():
    layer = ContinuousFlow(LinearVelocity(np.diag(np.arange(40.0) / 40)), step_count=2)
    _, log_det = layer(normal(3, 40))
    np.testing.assert_allclose(to_numpy(log_det), -np.arange(40).sum() / 40, rtol=1e-5)


def test_standard_errors_are_those_of_the_estimate():
    layer = ContinuousFlow(
        LinearVelocity(MATRIX), step_count=2, exact_limit=0, probe="normal", seed=1
    )
    log_det, error = map(to_numpy, layer.estimate_log_det(normal(500, 3), draw_count=8))
    assert np.mean(error**2) == pytest.approx(np.var(log_det), rel=0.25)
    assert np.abs(log_det.mean() + np.trace(MATRIX)) < 4.0 * np.sqrt(np.mean(error**2) / 500)
    layer = ContinuousFlow(LinearVelocity(MATRIX), step_count=2)
    log_det, error = map(to_numpy, layer.estimate_log_det(normal(5, 3), draw_count=2))
    np.testing.assert_allclose(log_det, -np.trace(MATRIX), rtol=1e-5)
    np.testing.assert_allclose(error, 0.0, atol=1e-6)


def test_points_can_be_moved_part_of_the_way():
    layer = ContinuousFlow(LinearVelocity(MATRIX), step_count=32)
    x = normal(4, 3)
    layer(x)
    halfway = layer.transport(x, stop=0.5)
    np.testing.assert_allclose(to_numpy(halfway), x @ expm(0.5 * MATRIX.T), atol=1e-5)
    whole = layer.transport(halfway, 0.5)
    np.testing.assert_allclose(to_numpy(whole), to_numpy(layer.invert(x)), atol=1e-5)
    back = layer.transport(whole, 1.0, 0.0)
    np.testing.assert_allclose(to_numpy(back), x, atol=1e-5)
    for points in (x[0], x[:, :2]):
        with pytest.raises(ValueError, match=r"`x` should have shape \(batch, 3\)"):
            layer.transport(points)
    with pytest.raises(ValueError, match="built without a context"):
        layer.transport(x, context=normal(4, 2))


class Scaled(VelocityMLP):
    """A velocity of large weights, which counts for the gradient."""

    def __init__(self, **kwargs):
        super().__init__([8], "tanh", frequency_count=1, **kwargs)

    def build(self, input_shape):
        super().build(input_shape)
        for index, weight in enumerate(self.trainable_weights):
            weight.assign(0.5 * normal(*weight.shape, seed=index))


def solve_as_it_is(field, state, values, *arguments):
    """Solves an equation so that it is differentiated without recomputation."""
    return solve(lambda time, *state: field(time, values, state), state, *arguments)


def take_step(solver, monkeypatch=None, **options):
    """Returns the weights after a step of training by likelihood, and the loss."""
    if monkeypatch is not None:
        path = "gyoza.modelling.flow_layers.continuous.solve_with_recomputation"
        monkeypatch.setattr(path, solve_as_it_is)
    layer = ContinuousFlow(Scaled(), solver=solver, **options)
    # The first layer's weights have the gradient with respect to the second one's inputs.
    flow = FlowModel([ActivationNormalization(), layer])
    flow.compile(keras.optimizers.SGD(1.0), jit_compile=False)
    data = {"inputs": normal(6, 2), "context": normal(6, 3, seed=1)}
    loss = flow.fit(data, batch_size=6, epochs=1, verbose=0).history["loss"][0]
    return np.concatenate([to_numpy(weight).ravel() for weight in flow.trainable_weights]), loss


def test_gradients_are_those_without_recomputation(monkeypatch):
    weights, loss = take_step("rk4", step_count=4, kinetic=0.3, jacobian=0.2)
    expected = take_step("rk4", monkeypatch, step_count=4, kinetic=0.3, jacobian=0.2)
    assert loss == pytest.approx(expected[1], rel=1e-5)
    np.testing.assert_allclose(weights, expected[0], atol=1e-5)


@pytest.mark.compiled_by("jax")
def test_adjoint_gradients_are_those_of_many_steps(monkeypatch):
    weights, loss = take_step("dopri5", rtol=1e-6, atol=1e-6)
    expected = take_step("rk4", monkeypatch, step_count=16)
    assert loss == pytest.approx(expected[1], rel=1e-4)
    np.testing.assert_allclose(weights, expected[0], atol=1e-4)


@dataclasses.dataclass(eq=False)
class Box:
    """What is kept of a tensor."""

    tensor: object


def count_kept(hidden_sizes, **options):
    """Returns how many numbers besides weights PyTorch keeps for the gradient of 256 points."""
    torch = pytest.importorskip("torch")
    layer = ContinuousFlow(VelocityMLP(hidden_sizes), **options)
    x = torch.ones(256, 2, requires_grad=True)
    layer(x)
    for seed, weight in enumerate(layer.trainable_weights):
        weight.assign(normal(*weight.shape, seed=seed))  # a new velocity is zero
    packed = weakref.WeakSet()

    def pack(tensor):
        box = Box(tensor)
        packed.add(box)
        return box

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        log_det = layer(x)[1]
    weights = sum(int(np.prod(weight.shape)) for weight in layer.trainable_weights)
    count = sum(box.tensor.numel() for box in packed) - weights
    assert log_det.requires_grad
    return count


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="asks PyTorch what it keeps")
def test_what_is_kept_grows_with_neither_the_network_nor_the_number_of_steps():
    few = count_kept([8], step_count=4)
    assert count_kept([64] * 6, step_count=4) == few
    # One point, with its log-determinant, for each step more, up to 64 of them.
    assert count_kept([8], step_count=16) - few == 12 * 256 * 3
    assert count_kept([8], step_count=129) < count_kept([8], step_count=64)
    adaptive = {"solver": "dopri5", "atol": 1e-9}
    assert count_kept([8], rtol=1e-7, **adaptive) == count_kept([8], rtol=1e-1, **adaptive) < few


def test_penalties_are_those_of_a_rotation():
    layer = ContinuousFlow(
        LinearVelocity([[0.0, 2.0], [-2.0, 0.0]]), step_count=32, kinetic=0.5, jacobian=0.1
    )
    x = normal(5, 2)
    layer(x, training=True)
    # Its velocity is twice the distance from the centre, which does not change.
    expected = 0.5 * np.mean(np.sum(4.0 * x**2, axis=1)) + 0.1 * 8.0
    (penalty,) = layer.losses
    assert float(penalty) == pytest.approx(expected, rel=1e-4)
    layer(x)
    assert not layer.losses


@pytest.mark.compiled_by("jax")
def test_factors_of_an_interpreter_can_be_those_of_a_continuous_flow():
    flow = DisentanglingFlowModel([ContinuousFlow(Scaled(), step_count=16)])
    loss = SupervisedFactorLoss([1, 2])
    flow.compile(keras.optimizers.Adam(1e-2), loss=loss)
    a, b = normal(64, 3), normal(64, 3, seed=1)
    history = flow.fit([a, b], np.tile([[0.0, 1.0]], [64, 1]), epochs=2, verbose=0)
    assert history.history["loss"][1] < history.history["loss"][0]
    sizes = {"residual": 1, "factor": 2}
    identity = keras.Sequential([keras.Input([3]), keras.layers.Identity()])
    interpreter = Interpreter(identity, flow, identity, sizes)
    swapped = to_numpy(interpreter.swap(a, b, "factor"))
    z_a, z_b, z = (to_numpy(flow(x)[0]) for x in (a, b, swapped))
    np.testing.assert_allclose(z, np.concatenate([z_a[:, :1], z_b[:, 1:]], axis=1), atol=1e-4)


class WithDropout(keras.Layer):
    """A velocity of which a half is dropped in training."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.dropout = keras.layers.Dense(2), keras.layers.Dropout(0.5)

    def call(self, inputs):
        return self.dropout(self.dense(inputs[0]))

    def compute_output_shape(self, input_shape):
        return input_shape[0]


def test_dropout_acts_in_flow_matching_alone():
    layer = ContinuousFlow(WithDropout(), step_count=2)
    x = normal(5, 2)
    outputs, log_det = layer(x, training=True)
    expected = layer(x, training=False)
    np.testing.assert_array_equal(to_numpy(outputs), to_numpy(expected[0]))
    np.testing.assert_array_equal(to_numpy(log_det), to_numpy(expected[1]))
    dropped = to_numpy(layer.compute_velocity(x, 0.5, training=True))
    kept = to_numpy(layer.compute_velocity(x, 0.5))
    assert (dropped == 0.0).any()
    assert not (kept == 0.0).any()
    flow = FlowModel([layer])
    flow.compile("sgd")
    flow.fit(x, verbose=0)


def test_memory_efficient_models_train_alike():
    weights = []
    for memory_efficient in (False, True):
        layers = [ContinuousFlow(Scaled(), step_count=2), Standardize()]
        flow = FlowModel(layers, memory_efficient=memory_efficient)
        flow.compile(keras.optimizers.SGD(0.1))
        flow.fit(normal(8, 2), batch_size=8, verbose=0)
        weights.append(np.concatenate([to_numpy(w).ravel() for w in flow.trainable_weights]))
    np.testing.assert_allclose(*weights, atol=1e-6)


def test_densities_integrate_to_one():
    flow = FlowModel([ContinuousFlow(VelocityMLP([16], "tanh"), shape=[2])])
    flow.build((None, 2))
    for weight in flow.trainable_weights:
        weight.assign(normal(*weight.shape, seed=len(weight.shape)))
    line = np.linspace(-9.0, 9.0, 181, dtype="float32")
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    density = np.exp(to_numpy(flow.log_prob(grid)).astype("float64"))
    assert density.sum() * (line[1] - line[0]) ** 2 == pytest.approx(1.0, abs=0.01)


def test_a_flow_learns_by_its_likelihood():
    x = normal(512, 2) * [0.3, 2.0] + [1.0, 0.0]
    flow = FlowModel([ContinuousFlow(VelocityMLP([16]), step_count=4)])
    flow.compile(keras.optimizers.Adam(1e-2))
    history = flow.fit(x.astype("float32"), epochs=10, batch_size=128, verbose=0)
    entropy = np.log(2.0 * np.pi * np.e) + np.log(0.3 * 2.0)
    assert history.history["loss"][0] > entropy + 0.8
    assert history.history["loss"][-1] < entropy + 0.4


def test_velocities_at_tensors_of_times_outside_are_nan():
    layer = ContinuousFlow(VelocityMLP([4]))
    x = ops.ones([4, 3])
    layer(x)
    times = [[-0.1], [0.0], [1.0000001], [1.1]]
    velocity = to_numpy(layer.compute_velocity(x, ops.convert_to_tensor(times)))
    np.testing.assert_array_equal(np.isnan(velocity).all(axis=1), [True, False, False, True])
    expected = to_numpy(layer.compute_velocity(x, np.clip(np.float32(times), 0.0, 1.0)))
    np.testing.assert_allclose(velocity[1:3], expected[1:3], atol=1e-5)
    assert np.isnan(to_numpy(layer.compute_velocity(x, ops.convert_to_tensor(2.0)))).all()
    last = to_numpy(layer.compute_velocity(x, ops.convert_to_tensor(1)))
    np.testing.assert_allclose(last, to_numpy(layer.compute_velocity(x, 1.0)))


def test_velocities_of_a_subclass_are_those_that_are_followed():
    class Constant(ContinuousFlow):
        def compute_velocity(self, x, *args, **kwargs):
            return ops.ones_like(x)

    x = ops.zeros([2, 3])
    layer = Constant(VelocityMLP([4]))
    layer(x)
    np.testing.assert_allclose(to_numpy(layer.invert(x)), 1.0, rtol=1e-5)


def build(layer):
    layer.build()
    return layer


class OneRow(keras.layers.Layer):
    """A velocity for all points at once, which would be repeated for each."""

    def call(self, inputs):
        return ops.ones((1, 3))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ContinuousFlow(ops.tanh), TypeError, "`velocity` should be a Keras layer"),
        (
            lambda: ContinuousFlow(VelocityMLP(), solver="rk5"),
            ValueError,
            r"one of \['euler', 'midpoint', 'rk4', 'dopri5'\]. Received: solver='rk5'",
        ),
        (lambda: ContinuousFlow(VelocityMLP(), step_count=0), ValueError, "step_count=0"),
        (lambda: ContinuousFlow(VelocityMLP(), rtol=0.0), ValueError, "`rtol` should be positive"),
        (lambda: ContinuousFlow(VelocityMLP(), probe="cauchy"), ValueError, "probe='cauchy'"),
        (lambda: ContinuousFlow(VelocityMLP(), kinetic=-1.0), ValueError, "kinetic=-1.0"),
        (
            lambda: ContinuousFlow(VelocityMLP()).compute_velocity(np.ones([2, 3]), 1.5),
            ValueError,
            r"`time` should be in \[0, 1\]. Received: time=1.5",
        ),
        (
            lambda: ContinuousFlow(VelocityMLP()).compute_velocity(
                np.ones([2, 3]), np.array([[0.5], [1.5]])
            ),
            ValueError,
            r"`time` should be in \[0, 1\]. Received: time=array",
        ),
        (
            lambda: ContinuousFlow(VelocityMLP()).transport(np.ones([2, 3]), stop=-0.5),
            ValueError,
            r"`stop` should be a number in \[0, 1\]",
        ),
        (
            lambda: ContinuousFlow(VelocityMLP()).transport(np.ones([2, 3]), start="now"),
            ValueError,
            r"`start` should be a number in \[0, 1\]. Received: start='now'",
        ),
        (
            lambda: ContinuousFlow(VelocityMLP()).transport(np.ones([2, 3]), stop=[0.5, 1.0]),
            ValueError,
            r"`stop` should be a number in \[0, 1\]. Received: stop=\[0.5, 1.0\]",
        ),
        (
            lambda: ContinuousFlow(VelocityMLP()).transport(np.ones([2, 3])),
            ValueError,
            "should be built before points are moved",
        ),
        (
            lambda: ContinuousFlow(VelocityMLP(), axes=[2])(np.ones([2, 3, 4], "float32")),
            ValueError,
            "all axes but the batch axis",
        ),
        (
            lambda: ContinuousFlow(VelocityMLP(), axes=[1])(np.ones([2, 3, 4], "float32")),
            ValueError,
            r"all axes but .* Received: axes=\[1\], input_shape=\(2, 3, 4\)",
        ),
        (
            lambda: build(ContinuousFlow(VelocityMLP(), [3]))(np.ones([2, 3, 4], "float32")),
            ValueError,
            "expected ndim=2, found ndim=3",
        ),
        (
            lambda: ContinuousFlow(keras.layers.Dense(3))(np.ones([2, 3], "float32")),
            ValueError,
            r"a layer of the list \[x, time\], or .* Received: velocity=<Dense .* expects 1 input",
        ),
        (
            lambda: ContinuousFlow(VelocityMLP(), rtol="a"),
            ValueError,
            "`rtol` should be a number, or an array of numbers. Received: rtol='a'",
        ),
        (
            lambda: ContinuousFlow(VelocityMLP(), atol=np.array([1e-5])),
            ValueError,
            r"`atol` should be one number. Received: atol=\[1.e-05\]",
        ),
        (
            lambda: ContinuousFlow(OneRow())(np.ones([2, 3], "float32")),
            ValueError,
            r"outputs of the shape of its inputs, \(None, 3\). Received: .*\(1, 3\)",
        ),
        (
            lambda: ContinuousFlow(keras.layers.Concatenate())(np.ones([2, 3], "float32")),
            ValueError,
            r"outputs of the shape of its inputs, \(None, 3\). Received: .*\(None, 4\)",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.compiled_by("jax")
def test_a_flow_follows_a_density_given_by_a_formula():
    flow = FlowModel([ContinuousFlow(VelocityMLP([16]), step_count=4)])
    flow.build((None, 2))
    model = VariationalModel(flow, lambda x: -0.5 * ops.sum((x - 1.0) ** 2 / 0.25, axis=-1))
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(batch_size=128, steps_per_epoch=100, verbose=0)
    samples = to_numpy(flow.sample(2000, seed=0))
    np.testing.assert_allclose(samples.mean(axis=0), 1.0, atol=0.15)
    np.testing.assert_allclose(samples.std(axis=0), 0.5, atol=0.15)
