"""Models: chains of layers, and training on pairs through the methods of Keras."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.data import CategoricalPairs
from gyoza.modelling.conditioners import MLP
from gyoza.modelling.distributions import DiagonalNormal
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AdditiveCoupling,
    Coupling,
    DisentanglingFlowModel,
    FlowModel,
    HeavisidePermutation,
    Inverse,
    LULinear,
    Reflection,
    ShufflePermutation,
)
from gyoza.modelling.losses import SupervisedFactorLoss
from gyoza.modelling.masks import HeavisideMask

pytestmark = pytest.mark.usefixtures("without_xla")


def layers():
    return [
        ActivationNormalization(),
        AdditiveCoupling(conditioner=MLP([8])),
        HeavisidePermutation(),
        AdditiveCoupling(conditioner=MLP([8])),
        ShufflePermutation(seed=0),
        Reflection(reflection_count=2),
    ]


@pytest.fixture(scope="module")
def pairs():
    """Pairs of which the first of two hidden factors correlates, mixed linearly."""
    random = np.random.default_rng(0)
    rho = np.array([0.0, 0.0, 0.9, 0.9])
    a = random.normal(size=(256, 4))
    b = rho * a + np.sqrt(1 - rho**2) * random.normal(size=a.shape)
    mixing = random.normal(size=(4, 4))
    y = np.tile([0.0, 0.9], [256, 1]).astype("float32")
    return ((a @ mixing).astype("float32"), (b @ mixing).astype("float32")), y


def compiled(**kwargs):
    # Few layers, since XLA takes longest to compile them.
    model = DisentanglingFlowModel([*layers()[:2], Reflection(reflection_count=2)])
    model.compile(keras.optimizers.Adam(1e-2), loss=SupervisedFactorLoss([2, 2]), **kwargs)
    return model


def loss_by_hand(model, a, b, y):
    (z_a, j_a), (z_b, j_b) = model(a), model(b)
    rho = np.repeat(y, 2, axis=1)
    z_a, z_b, j_a, j_b = map(to_numpy, (z_a, z_b, j_a, j_b))
    quadratic = (z_b - rho * z_a) ** 2 / (1 - rho**2) + np.log(1 - rho**2)
    return 0.5 * (z_a**2 + quadratic).sum(axis=1) - j_a - j_b


def test_chain_is_the_composition_of_its_layers():
    model = FlowModel(layers())
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    model.adapt(x)
    z, log_det = model(x)
    expected, expected_log_det = x, 0.0
    for layer in model._flow_layers_:
        expected, layer_log_det = layer(expected)
        expected_log_det = expected_log_det + layer_log_det
    np.testing.assert_allclose(to_numpy(z), to_numpy(expected), rtol=1e-6)
    np.testing.assert_allclose(to_numpy(log_det), to_numpy(expected_log_det), rtol=1e-6)
    np.testing.assert_allclose(to_numpy(model.invert(z)), x, atol=1e-5)
    assert np.all(to_numpy(log_det) != 0)


def test_layers_can_be_added_until_the_model_is_built():
    model = FlowModel(layers()[:1])
    model.add(Reflection())
    model.build((None, 4))
    assert len(model.weights) == 3
    with pytest.raises(ValueError, match="before model"):
        model.add(Reflection())
    with pytest.raises(TypeError, match="should be a `FlowLayer`"):
        FlowModel([keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="at least one flow layer"):
        FlowModel([]).build((None, 4))


def test_output_for_a_pair_concatenates_latents_and_log_determinants(pairs):
    (a, b), _ = pairs
    model = compiled()
    model.adapt((a, b))
    (z_a, j_a), (z_b, j_b) = model(a), model(b)
    expected = np.concatenate(
        [to_numpy(z_a), to_numpy(z_b), to_numpy(j_a)[:, None], to_numpy(j_b)[:, None]], axis=1
    )
    for pair in ((a, b), [a, b]):
        np.testing.assert_allclose(to_numpy(model(pair)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.predict((a, b), verbose=0), expected, rtol=1e-4, atol=1e-5)
    z, log_det = model.predict(a, verbose=0)
    np.testing.assert_allclose(z, to_numpy(z_a), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_det, to_numpy(j_a), rtol=1e-5)


def test_fit_shows_the_loss_of_training_and_validation(pairs):
    (a, b), y = pairs
    model = compiled(metrics=[SupervisedFactorLossMetric()])
    model.adapt((a, b))
    before = loss_by_hand(model, a, b, y).mean()
    assert model.evaluate((a, b), y, verbose=0)[0] == pytest.approx(before, rel=1e-4)
    history = model.fit(
        (a, b), y, epochs=8, batch_size=100, validation_data=((a[:50], b[:50]), y[:50]), verbose=0
    ).history
    after = loss_by_hand(model, a, b, y).mean()
    assert after < before - 0.3
    assert history["loss"][0] > history["loss"][-1] > after - 0.5
    validation = loss_by_hand(model, a[:50], b[:50], y[:50]).mean()
    assert history["val_loss"][-1] == pytest.approx(validation, rel=1e-4)
    loss, metric = model.evaluate((a, b), y, verbose=0)
    assert loss == pytest.approx(after, rel=1e-4)
    assert metric == pytest.approx(after, rel=1e-4)


class SupervisedFactorLossMetric(keras.metrics.MeanMetricWrapper):
    def __init__(self):
        super().__init__(SupervisedFactorLoss([2, 2], reduction=None).call, name="metric")


def test_sample_weights_weigh_pairs(pairs):
    (a, b), y = pairs
    model = compiled()
    model.adapt((a, b))
    weights = (np.arange(256) % 3).astype("float32")
    expected = np.sum(weights * loss_by_hand(model, a, b, y)) / 256
    # `evaluate` and `fit` take a batch at a time: one batch, so that batches need no weights.
    arguments = {"sample_weight": weights, "batch_size": 256, "verbose": 0}
    assert model.evaluate((a, b), y, **arguments) == pytest.approx(expected, rel=1e-4)
    history = model.fit((a, b), y, **arguments).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-4)


def test_pair_sources_and_data_sets_are_fitted(pairs):
    (a, b), y = pairs
    tf = pytest.importorskip("tensorflow")
    source = CategoricalPairs(a, (a[:, 0] > 0).astype(int), batch_size=100, seed=0)
    data_set = tf.data.Dataset.from_tensor_slices(((a, b), y)).batch(100)
    for data in (source, data_set):
        model = compiled()
        model.adapt(data)
        history = model.fit(data, epochs=2, validation_data=data, verbose=0).history
        assert np.all(np.isfinite(history["loss"] + history["val_loss"]))
        assert history["loss"][1] < history["loss"][0]


@pytest.mark.parametrize("policy", ["float64", "mixed_float16", "mixed_bfloat16"])
def test_training_under_other_dtype_policies(pairs, policy):
    (a, b), y = pairs
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled()
        model.adapt((a, b))
        history = model.fit((a, b), y, epochs=2, verbose=0).history
    finally:
        keras.config.set_dtype_policy("float32")
    outputs = model((a, b))
    assert keras.backend.standardize_dtype(outputs.dtype) == model.log_det_dtype
    assert np.all(np.isfinite(to_numpy(outputs)))
    assert history["loss"][1] < history["loss"][0]


CONTINUE_TRAINING = """
import json, sys
import keras, numpy as np
import gyoza
model = keras.saving.load_model(sys.argv[1])
data = np.load(sys.argv[2])
pair = data["a"], data["b"]
losses = [float(model.evaluate(pair, data["y"], verbose=0))]
for _ in range(2):
    losses.append(float(model.train_on_batch(pair, data["y"])))
losses.append(float(model.evaluate(pair, data["y"], verbose=0)))
print("losses:" + json.dumps(losses))
"""


def test_flow_of_one_dimension_that_fit_builds_is_saved(tmp_path):
    model = FlowModel([AdditiveCoupling(conditioner=MLP([8]))])
    model.compile()
    x = np.random.default_rng(0).normal(size=[64, 1]).astype("float32")
    model.fit(x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(*(to_numpy(flow.log_prob(x)) for flow in (model, loaded)))


@pytest.mark.long  # for densities, `test_files.py` does it, too
def test_trained_model_goes_on_in_another_process_as_it_does_here(pairs, tmp_path):
    (a, b), y = pairs
    model = compiled()
    model.adapt((a, b))
    model.fit((a, b), y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", a=a, b=b, y=y)
    expected = [model.evaluate((a, b), y, verbose=0)]
    expected += [float(model.train_on_batch((a, b), y)) for _ in range(2)]
    expected.append(model.evaluate((a, b), y, verbose=0))
    output = subprocess.run(
        [sys.executable, "-c", CONTINUE_TRAINING, tmp_path / "model.keras", tmp_path / "data.npz"],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in output.stdout.splitlines() if line.startswith("losses:")]
    assert lines, output.stderr
    received = json.loads(lines[0].removeprefix("losses:"))
    np.testing.assert_allclose(received, expected, rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [True, False, "auto"])
def test_model_that_is_not_built_is_fitted(pairs, jit_compile):
    if keras.backend.backend() == "torch" and jit_compile is True:
        jit_compile = "auto"  # PyTorch compiles by a C++ compiler, which need not be there
    model = compiled(jit_compile=jit_compile)
    assert np.all(np.isfinite(model.fit(*pairs, epochs=1, verbose=0).history["loss"]))


def test_network_shared_by_couplings_is_shared_after_loading(tmp_path):
    network = MLP([8])
    couplings = [AdditiveCoupling(conditioner=network) for _ in range(2)]
    model = FlowModel([couplings[0], HeavisidePermutation(), couplings[1]])
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    model(x)
    network.set_weights([weight + 0.5 for weight in network.get_weights()])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.trainable_weights) == len(model.trainable_weights) == 4
    np.testing.assert_array_equal(to_numpy(loaded(x)[0]), to_numpy(model(x)[0]))


@keras.saving.register_keras_serializable(package="gyoza_tests")
class UserCoupling(Coupling):
    """A coupling as the documentation asks for it."""

    def _couple_(self, inputs, coupling_parameters):
        return inputs * ops.exp(coupling_parameters)

    def _decouple_(self, outputs, coupling_parameters):
        return outputs * ops.exp(-coupling_parameters)

    def compute_jacobian_determinant(self, x):
        log_scales = self._compute_coupling_parameters_(self._mask_(x))
        return ops.sum(self._mask_(log_scales, is_positive=False), axis=1)


def test_a_coupling_of_a_user_is_trained_saved_and_loaded(pairs, tmp_path):
    (a, b), y = pairs
    mask = HeavisideMask(axes=[1], shape=[4])
    network = keras.Sequential([keras.layers.Dense(8, "tanh"), keras.layers.Dense(4)])
    coupling = UserCoupling(shape=[4], axes=[1], compute_coupling_parameters=network, mask=mask)
    model = DisentanglingFlowModel(
        [ActivationNormalization([4], [1]), coupling, Reflection([4], [1])]
    )
    model.adapt((a, b))
    model.compile("adam", loss=SupervisedFactorLoss([2, 2]))
    history = model.fit((a, b), y, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = model.evaluate((a, b), y, verbose=0)
    assert loaded.evaluate((a, b), y, verbose=0) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(to_numpy(loaded.invert(loaded(a)[0])), a, atol=1e-5)


def test_weights_of_a_shuffle_travel_with_a_weights_file(tmp_path):
    x = np.random.default_rng(0).normal(size=(3, 9)).astype("float32")
    first, second = (FlowModel([ShufflePermutation()]) for _ in range(2))
    expected = to_numpy(first(x)[0])
    assert not np.array_equal(to_numpy(second(x)[0]), expected)
    first.save_weights(tmp_path / "model.weights.h5")
    second.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(to_numpy(second(x)[0]), expected)


def test_model_is_cloned_with_equal_configuration():
    model = FlowModel(layers(), name="flow")
    model.build((None, 4))
    copy = FlowModel.from_config(model.get_config())
    assert copy.name == "flow"
    copy.build((None, 4))
    copy.set_weights(model.get_weights())
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    np.testing.assert_array_equal(to_numpy(copy(x)[0]), to_numpy(model(x)[0]))


def test_model_in_a_functional_model():
    model = DisentanglingFlowModel(layers())
    first, second = keras.Input([4]), keras.Input([4])
    outputs = model((first, second))
    assert outputs.shape == (None, 10)
    functional = keras.Model([first, second], outputs)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    np.testing.assert_allclose(
        to_numpy(functional([x[0], x[1]])), to_numpy(model((x[0], x[1]))), rtol=1e-5
    )


def test_bad_input(pairs):
    (a, b), y = pairs
    model = compiled()
    model.build((None, 4))
    for pair in ((a, b[:5]), (a, b[:, :3]), (a, b, a)):
        with pytest.raises(ValueError, match="two batches of the same shape"):
            model(pair)
    wrong = ops.convert_to_tensor(y + 1.0)
    for run in (
        lambda: model.fit((a, b), y + 1.0, verbose=0),
        lambda: model.fit((a, b), wrong, verbose=0),
        lambda: model.fit((a, b), y, validation_data=((a, b), y + 1.0), verbose=0),
        lambda: model.evaluate((a, b), y + 1.0, verbose=0),
        lambda: model.train_on_batch((a, b), wrong),
        lambda: model.test_on_batch((a, b), wrong),
    ):
        with pytest.raises(ValueError, match="correlations from -1 to 1"):
            run()
    with pytest.raises(ValueError, match=r"should be fitted to pairs"):
        model.train_on_batch(a, y)
    with pytest.raises(ValueError, match="two batches of the same shape"):
        DisentanglingFlowModel(layers()).build([(None, 4), (None, 5)])
    with pytest.raises(ValueError, match="layer of itself"):
        model.add(model)
    with pytest.raises(ValueError, match="one correlation for each"):
        model.fit((a, b), y[:, :1], verbose=0)
    # On JAX, Keras wraps what goes wrong when it builds a model.
    with pytest.raises((TypeError, RuntimeError), match="floating-point"):
        model.fit((a.astype(int), b.astype(int)), y, verbose=0)
    model.compile("adam", loss=SupervisedFactorLoss([1, 2]))
    with pytest.raises(ValueError, match="sum to the number of latent dimensions, 4"):
        model.fit((a, b), y, verbose=0)
    with pytest.raises(ValueError, match="flatten its inputs"):
        DisentanglingFlowModel([ActivationNormalization()])((a[:, None], b[:, None]))
    with pytest.raises(ValueError, match="should be built before `invert`"):
        FlowModel(layers()).invert(a)


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_a_failure_leaves_the_weights(method):
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    model = FlowModel([AdditiveCoupling(conditioner=MLP([8]))])
    model.compile("adam")
    model.fit(x, verbose=0)
    expected = to_numpy(model.log_prob(x))
    with pytest.raises(ValueError, match="expected axis 1 of input shape to have value 4"):
        getattr(model, method)(x[:, :3], verbose=0)
    np.testing.assert_array_equal(to_numpy(model.log_prob(x)), expected)
    model.fit(x, verbose=0)


def test_variables_come_in_the_order_of_layers():
    base = DiagonalNormal(shape=[3])
    parts = layers()
    model = FlowModel(parts[:2], base_distribution=base, context_encoder=keras.layers.Dense(2))
    for layer in parts[2:]:
        model.add(layer)
    model(np.ones([2, 3], "float32"), np.ones([2, 4], "float32"))
    before = [id(variable) for variable in model.variables]
    of_layers = [id(variable) for layer in parts for variable in layer.variables]
    others = [model.context_encoder, base]
    expected = of_layers + [id(variable) for part in others for variable in part.variables]
    assert before == expected
    model.sample(2, context=np.ones([2, 4], "float32"))
    assert [id(variable) for variable in model.variables] == before
    # So that weights of a functional model of the same layers can be copied by their order.
    copied = [id(weight) for weight in model.weights[: len(of_layers)]]
    assert copied == [id(weight) for layer in parts for weight in layer.weights]


def test_rows_of_the_summary_add_up_to_parameters():
    """Counted by hand, with a state of the optimizer and indices of permutations."""
    base = DiagonalNormal(shape=[4])
    coupling = AdditiveCoupling(conditioner=MLP([8]))  # (2·8 + 8) + (8·2 + 2) = 42
    inner = FlowModel([ShufflePermutation(), Inverse(coupling)])
    model = FlowModel([ShufflePermutation(shape=[4]), LULinear(), inner], base, name="flow")
    assert "Total params: 0 " in printed_summary(model)  # as its rows say
    model.compile("adam")
    model.build([None, 4])
    model.optimizer.build(model.trainable_variables)
    lines = printed_summary(model).splitlines()
    rows = [line.split("│")[1:4] for line in lines if line.startswith("│")]
    counts = {row[0].split()[0]: int(row[2]) for row in rows if row[2].strip()}
    layers = [*model._flow_layers_, base]
    numbers = [0, 16 + 4 + 4, 42, 8]  # the signs of a matrix in LU form are not trained
    assert counts == {layer.name: number for layer, number in zip(layers, numbers, strict=True)}
    assert list(counts) == [layer.name for layer in layers]
    totals = [line.split("(")[0].split(":") for line in lines if " params: " in line]
    assert [(name.strip(), int(count)) for name, count in totals] == [
        ("Total params", 74),
        ("Trainable params", 70),
        ("Non-trainable params", 4),
    ]
    nested = printed_summary(model, expand_nested=True)
    assert all(layer.name in nested for layer in inner._flow_layers_)


def printed_summary(model, **options):
    lines = []
    model.summary(print_fn=lines.append, **options)
    return "\n".join(lines)
