import keras
import numpy as np
import pytest
from keras import layers, ops

from gyoza.interpretation import Interpreter, SwapPairs, SwapTraining
from gyoza.modelling import flow_layers, losses

pytestmark = pytest.mark.compiled_by("jax")

SIZES = {"residual": 3, "read": 1}
HIDDEN = np.random.default_rng(0).normal(size=[512, 4]).astype("float32")
A, B = HIDDEN[:6], HIDDEN[6:12]


# Without it, JAX would run one operation after the other.
JIT_COMPILE = keras.backend.backend() == "jax"


def make_tail():
    """A tail that reads one direction, with weights and statistics that training could change."""
    tail = keras.Sequential(
        [keras.Input([4]), layers.Dense(1, use_bias=False), layers.BatchNormalization()]
    )
    direction = np.array([1.0, -2.0, 0.5, 1.0])
    tail.layers[0].set_weights([direction[:, None] / np.linalg.norm(direction)])
    return tail


def make_flow():
    flow = flow_layers.FlowModel([flow_layers.Orthogonal([4])])
    flow.build((None, 4))
    return flow


def run(model, x):
    return ops.convert_to_numpy(model(x))


def find_direction(flow):
    """Returns the direction of the last factor."""
    return ops.convert_to_numpy(flow(np.eye(4, dtype="float32"))[0])[:, -1]


def test_the_direction_that_the_tail_reads_is_found():
    tail, flow = make_tail(), make_flow()
    direction = tail.layers[0].get_weights()[0][:, 0]
    before = [weight.copy() for weight in tail.get_weights()]
    assert abs(find_direction(flow) @ direction) < 0.9
    model = SwapTraining(flow, tail, SIZES)
    answers = run(tail, HIDDEN)
    pairs = SwapPairs(HIDDEN, answers, SIZES, "read", batch_size=64, seed=0)
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=JIT_COMPILE)
    history = model.fit(pairs, epochs=15, verbose=0).history["loss"]
    assert abs(find_direction(flow) @ direction) > 0.99
    assert history[-1] < 0.05 * history[0]
    for weight, same in zip(tail.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, same)
    assert tail.trainable
    assert len(tail.trainable_weights) == 3


def test_training_traces_the_exchange_once():
    traced = []

    class Counting(SwapTraining):
        def call(self, inputs, training=None):
            traced.append(training)
            return super().call(inputs, training)

    pairs = SwapPairs(HIDDEN, HIDDEN[:, :1], SIZES, "read", batch_size=64, seed=0)
    model = Counting(make_flow(), make_tail(), SIZES)
    model.compile(keras.optimizers.SGD(0.0), "mse", metrics=["mae"], jit_compile=JIT_COMPILE)
    history = model.fit(pairs, epochs=1, shuffle=False, verbose=0).history
    assert traced == [True] * (len(pairs) if keras.backend.backend() == "torch" else 1)
    pairs.set_epoch(0)
    for name, value in model.evaluate(pairs, return_dict=True, verbose=0).items():
        np.testing.assert_allclose(history[name], value, rtol=1e-5)  # of these pairs alone


@pytest.mark.parametrize("names", [["read"], ["residual"], ["residual", "read"]])
def test_an_exchange_is_a_swap(names):
    tail, flow = make_tail(), make_flow()
    identity = keras.Sequential([keras.Input([4]), layers.Identity()])
    model = SwapTraining(flow, tail, SIZES)
    expected = Interpreter(identity, flow, tail, SIZES).swap(A, B, names)
    several = np.tile([float(name in names) for name in SIZES], [6, 1]).astype("float32")
    np.testing.assert_allclose(run(model, (A, B, several)), expected, atol=1e-5)
    if len(names) == 1:
        index = np.full([6], list(SIZES).index(names[0]))
        for factor in (index, index[:, None].astype("float32")):
            np.testing.assert_allclose(run(model, (A, B, factor)), expected, atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_unknown_factors_have_no_answer(compiled):
    model = SwapTraining(make_flow(), make_tail(), SIZES)
    inputs = (A, B, np.array([[0], [1], [2], [7], [-1], [0]]))
    outputs = model.predict(inputs, verbose=0) if compiled else run(model, inputs)
    assert np.isnan(outputs[:, 0]).tolist() == [False, False, True, True, True, False]


def test_likelihood_of_pairs():
    tail, flow = make_tail(), make_flow()
    correlations = np.tile([0.0, 0.9], [6, 1]).astype("float32")
    factor, answers = np.ones([6], "int32"), np.zeros([6, 1], "float32")
    z_a, z_b = (run(lambda x: flow(x)[0], x) for x in (A, B))
    of_pairs = np.concatenate([z_a, z_b, np.zeros([6, 2])], axis=1)
    for others, expected in (([], 0.0 * correlations), ([correlations], correlations)):
        model = SwapTraining(flow, tail, SIZES, likelihood_weight=0.5)
        model.compile(loss="mse", jit_compile=JIT_COMPILE)
        loss = model.evaluate((A, B, factor, *others), answers, verbose=0)
        of_answers = np.mean(run(model, (A, B, factor, *others)) ** 2)
        likelihood = float(losses.SupervisedFactorLoss([3, 1])(expected, of_pairs))
        np.testing.assert_allclose(loss, of_answers + 0.5 * likelihood, rtol=1e-4)


def test_representations_with_spatial_axes():
    tail = keras.Sequential([keras.Input([2, 2, 1]), layers.Flatten(), layers.Dense(2)])
    flow = make_flow()
    model = SwapTraining(flow, tail, SIZES)
    grids = [x.reshape(6, 2, 2, 1) for x in (A, B)]
    outputs = run(model, (*grids, np.zeros([6], "int32")))
    z_a, z_b = (run(lambda x: flow(x)[0], x) for x in (A, B))
    hidden = run(flow.invert, np.concatenate([z_b[:, :3], z_a[:, 3:]], axis=1))
    np.testing.assert_allclose(outputs, run(tail, hidden.reshape(6, 2, 2, 1)), atol=1e-5)


def test_saved_and_loaded(tmp_path):
    model = SwapTraining(make_flow(), make_tail(), SIZES, likelihood_weight=0.1)
    pairs = SwapPairs(HIDDEN, HIDDEN[:, :1], SIZES, "read", batch_size=128, seed=0)
    model.compile("adam", "mse", jit_compile=JIT_COMPILE)
    model.fit(pairs, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    inputs = (A, B, np.ones([6], "int32"))
    np.testing.assert_allclose(run(loaded, inputs), run(model, inputs), atol=1e-6)
    assert len(loaded.trainable_weights) == len(model.trainable_weights) == 1
    assert int(loaded.optimizer.iterations) == 4
    loaded.fit(pairs, verbose=0)


def test_pairs_have_the_answers_of_the_exchange():
    sizes = {"residual": 3, "shape": 0, "hue": 1, "read": 2}
    x = np.arange(1000)
    pairs = SwapPairs(x[:, None], x, sizes, "read", batch_size=300, seed=0)
    a, b, factor, answers = (
        np.concatenate(parts)
        for parts in zip(*[(*x, y) for x, y in (pairs[k] for k in range(4))], strict=True)
    )
    follows = factor[:, 3] == 1.0
    np.testing.assert_array_equal(answers, np.where(follows, b[:, 0], a[:, 0]))
    np.testing.assert_array_equal(np.sort(a[:, 0]), x)
    assert np.all(a != b)
    np.testing.assert_allclose(factor.mean(axis=0), [0.25, 0.0, 0.25, 0.5], atol=0.05)
    pairs.on_epoch_end()
    assert np.any(pairs[0][1] != answers[:300])


def test_bad_arguments():
    flow, tail = make_flow(), make_tail()
    with pytest.raises(ValueError, match=r"sum to the number of latent dimensions, 4"):
        SwapTraining(flow, tail, [3, 2])
    with pytest.raises(ValueError, match="likelihood_weight=-1"):
        SwapTraining(flow, tail, SIZES, likelihood_weight=-1)
    with pytest.raises(TypeError, match="`tail` should be a Keras"):
        SwapTraining(flow, len, SIZES)
    model = SwapTraining(flow, tail, SIZES)
    with pytest.raises(ValueError, match="Received: 2 inputs"):
        model((A, B))
    with pytest.raises(ValueError, match=r"\[batch, 2\]"):
        model((A, B, np.zeros([6, 3])))
    with pytest.raises(ValueError, match="one for each of the 512"):
        SwapPairs(HIDDEN, np.zeros([5]), SIZES, "read")
    with pytest.raises(ValueError, match="factor='mood'"):
        SwapPairs(HIDDEN, np.zeros([512]), SIZES, "mood")
    with pytest.raises(ValueError, match="not the only one"):
        SwapPairs(HIDDEN, np.zeros([512]), {"residual": 0, "read": 4}, "read")
