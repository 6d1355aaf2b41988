"""What can be said of speed without a clock: traces, operations and bytes."""

import collections
import importlib

import keras
import numpy as np
import pytest

from gyoza import applications
from gyoza.backend import flatten_layers
from gyoza.modelling import conditioners, distributions, flow_layers, metrics
from gyoza.modelling.training import trainer

BACKEND = keras.backend.backend()
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="reads what JAX compiles")
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="reads TensorFlow's graph")


def make_coupling(**kwargs):
    return flow_layers.AffineCoupling(conditioner=conditioners.MLP([16, 16]), **kwargs)


def make_data(count=96, size=6):
    return np.random.default_rng(0).normal(size=(count, size)).astype("float32")


class Counting(flow_layers.FlowModel):
    """A model that counts how often Python runs it."""

    count = 0

    def call(self, inputs, context=None, training=None):
        self.count += 1
        return super().call(inputs, context, training)


@pytest.mark.skipif(BACKEND == "torch", reason="runs eagerly")
@pytest.mark.parametrize("is_adapted", [False, True])
def test_a_model_is_traced_once_to_be_fitted(is_adapted):
    model = Counting([flow_layers.ActivationNormalization(), make_coupling()])
    if is_adapted:
        model.adapt(make_data())
    model.compile("adam")
    model.count = 0
    model.fit(make_data(), batch_size=32, epochs=3, verbose=0)
    model.fit(make_data(), batch_size=32, verbose=0)
    assert model.count == 1


def test_the_first_layer_is_described_once_to_be_fitted():
    class Described(flow_layers.ActivationNormalization):
        count = 0

        def compute_output_spec(self, *args, **kwargs):
            self.count += 1
            return super().compute_output_spec(*args, **kwargs)

    layer = Described()
    model = flow_layers.FlowModel([layer, make_coupling()])
    model.compile("adam")
    model.fit(make_data(), verbose=0)
    assert layer.count == 1


def test_a_step_computes_the_base_density_once_for_loss_and_metrics():
    class Counted(distributions.StandardNormal):
        count = 0

        def compute_log_prob(self, x):
            self.count += 1
            return super().compute_log_prob(x)

    base = Counted()
    model = flow_layers.FlowModel([make_coupling()], base)
    model.compile("adam", metrics=[metrics.BitsPerDimension()], run_eagerly=True)
    model.train_on_batch(make_data())
    # On JAX, metrics cannot see what the loss has computed to be differentiated.
    for step, count in ((model.train_on_batch, 1 + (BACKEND == "jax")), (model.test_on_batch, 1)):
        base.count = 0
        loss, bits = step(make_data())
        assert bits == pytest.approx(loss / 6 / np.log(2.0), rel=1e-5)
        assert base.count == count


@pytest.mark.skipif(BACKEND == "torch", reason="runs eagerly")
def test_a_smaller_last_batch_costs_no_second_trace_on_tensorflow():
    model = Counting([make_coupling()])
    model.build((None, 6))
    model.compile("adam")
    model.count = 0
    model.fit(make_data(90), batch_size=32, epochs=2, verbose=0)
    assert model.count == (1 if BACKEND == "tensorflow" else 2)


@pytest.mark.skipif(BACKEND == "torch", reason="runs eagerly")
def test_log_prob_is_traced_once_for_all_sizes_that_are_rounded_up_to_the_same():
    model = Counting([make_coupling()])
    model.build((None, 6))
    model.count = 0
    expected = keras.ops.convert_to_numpy(model.log_prob(make_data(64)))
    for count in (33, 50, 64):
        log_prob = keras.ops.convert_to_numpy(model.log_prob(make_data(64)[:count]))
        np.testing.assert_allclose(log_prob, expected[:count], rtol=1e-6)
    assert model.count == 1


@pytest.mark.parametrize(
    "make_model",
    [
        applications.NICE,
        applications.MAF,
        applications.NeuralSplineFlow,
        applications.GaussianizationFlow,
        applications.InterpretationNetwork,
    ],
)
def test_all_parts_of_a_model_are_built(make_model):
    # Otherwise, Keras traces the model anew in each call of `fit` and `evaluate`.
    model = make_model()
    model.build_for(make_data(8))
    assert [layer.name for layer in flatten_layers(model) if not layer.built] == []


def count_operations(layer, x):
    """Returns the number of each operation in the graph of a layer."""
    import tensorflow as tf

    layer(x)
    graph = tf.function(lambda x: layer(x)).get_concrete_function(x).graph
    return collections.Counter(
        operation.type
        for part in [graph, *graph._functions.values()]
        for operation in getattr(part, "graph", part).get_operations()
    )


@on_tensorflow
def test_models_are_compiled_by_xla_unless_they_are_told_otherwise():
    model = flow_layers.FlowModel([make_coupling()])
    model.compile("adam")
    assert model.jit_compile
    model.compile("adam", jit_compile=False)
    assert not model.jit_compile
    model = flow_layers.FlowModel([make_coupling()])
    model._flow_layers_[0].supports_jit = False
    model.compile("adam")
    assert not model.jit_compile


@on_tensorflow
@pytest.mark.parametrize(
    ("make_layer", "products", "gathers"),
    [
        (make_coupling, 3, 0),
        # Those of normals with each other and with the batch, before and after a system is solved.
        (lambda: flow_layers.Reflection(reflection_count=6), 3, 0),
        (flow_layers.HeavisidePermutation, 0, 0),
        (flow_layers.ActivationNormalization, 0, 0),
        (flow_layers.ShufflePermutation, 0, 1),
        (flow_layers.MaskedAffine, 3, 0),
        (
            lambda: flow_layers.RationalQuadraticSplineCoupling(conditioner=conditioners.MLP([16])),
            2,
            6,  # two bins with starts and sizes, and two slopes
        ),
    ],
)
def test_layers_multiply_and_gather_no_more_than_they_must(make_layer, products, gathers):
    counts = count_operations(make_layer(), make_data(8))
    assert counts["MatMul"] + counts["BatchMatMulV2"] == products
    assert counts["GatherV2"] + counts["GatherNd"] == gathers
    # Each is traced and compiled, with its gradient, before the first step.
    assert sum(counts.values()) < 400


def lower_gradient(model, x):
    """Compiles the gradient of the mean latent square with respect to all weights."""
    import jax

    variables = model.trainable_variables

    def loss(values, x):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            z, log_det = model(x)
        return keras.ops.mean(keras.ops.square(z)) - keras.ops.mean(log_det)

    values = [variable.value for variable in variables]
    return jax.jit(jax.grad(loss)).lower(values, x)


@on_jax
def test_a_training_step_has_three_products_for_each_dense_layer():
    model = flow_layers.FlowModel([make_coupling(), flow_layers.HeavisidePermutation()])
    model.build((None, 6))
    text = lower_gradient(model, make_data(8)).as_text()
    # All layers have a product for their outputs, one for the gradient of their weights and, but
    # for the first one of the flow, one for the gradient of their inputs.
    assert text.count("stablehlo.dot_general") == 3 * 3 - 1


@on_jax
def test_activations_are_kept_once():
    size, width, batch = 64, 32, 1024

    def measure(depth):
        layers = []
        for _ in range(depth):
            network = conditioners.MLP([width, width])
            layers += [
                flow_layers.AffineCoupling(conditioner=network),
                flow_layers.HeavisidePermutation(),
            ]
        model = flow_layers.FlowModel(layers)
        model.build((None, size))
        compiled = lower_gradient(model, make_data(batch, size)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    kept = (measure(12) - measure(4)) / 8
    # Kept are the two parts of the inputs, the units of both hidden layers, and the log-scales and
    # shifts.
    assert kept <= 1.5 * 4 * batch * (size + 2 * width + size)


@on_jax
def test_keras_compiles_steps_as_layers_ask_for(monkeypatch):
    compiled = []
    for name in ("jit_step", "jit_steps"):
        compile_step = getattr(trainer, name)
        monkeypatch.setattr(
            trainer,
            name,
            lambda step, *others, by=compile_step: (
                compiled.append(step.__name__) or by(step, *others)
            ),
        )
    model = flow_layers.FlowModel([flow_layers.ActivationNormalization()])
    model.compile("adam")
    x = make_data(8)
    model.fit(x, verbose=0)
    model.evaluate(x, verbose=0)
    model.predict(x, verbose=0)
    assert compiled == ["train_step", "test_step", "predict_step"]
    model.compile("adam", jit_compile=False)
    model.fit(x, verbose=0)
    assert len(compiled) == 3


@on_tensorflow
def test_arrays_are_fitted_as_a_data_set_is_without_being_one(monkeypatch):
    import tensorflow as tf

    x = make_data(20)
    weights = np.linspace(0.5, 2.0, 20, dtype="float32")
    received = []
    fit = keras.Model.fit

    def spy(self, x, **kwargs):
        received.append((x, kwargs))
        return fit(self, x, **kwargs)

    histories = []
    for data in (
        {"x": x, "sample_weight": weights},
        {"x": tf.data.Dataset.from_tensor_slices((x, np.zeros([20, 0]), weights)).batch(8)},
    ):
        model = flow_layers.FlowModel([flow_layers.ActivationNormalization()])
        model.compile(keras.optimizers.SGD(0.1))
        with monkeypatch.context() as patch:
            patch.setattr(keras.Model, "fit", spy)
            options = {"epochs": 3, "validation_data": (x,), "shuffle": False, "verbose": 0}
            if isinstance(data["x"], np.ndarray):
                options["batch_size"] = 8
            history = model.fit(**data, **options)
        histories.append(history)
    assert not isinstance(received[0][0], tf.data.Dataset)
    assert [history.params["steps"] for history in histories] == [3, 3]
    for name in ("loss", "val_loss"):
        first, second = (history.history[name] for history in histories)
        np.testing.assert_allclose(first, second, rtol=1e-5)


@on_tensorflow
def test_large_batches_are_processed_on_all_cores_with_one_trace(monkeypatch):
    part_counts = []
    of_tensorflow = importlib.import_module("gyoza.backend.tensorflow")
    run_in_parts = of_tensorflow._run_in_parts

    def spy(function, count):
        part_counts.append(count)
        return run_in_parts(function, count)

    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(5)), raising=False)
    monkeypatch.setattr(of_tensorflow, "_run_in_parts", spy)
    monkeypatch.setattr(of_tensorflow, "_count_parts", of_tensorflow._count_parts.__wrapped__)
    model = Counting([flow_layers.ActivationNormalization(), make_coupling()])
    x = make_data(600)
    model.adapt(x)
    model.count = 0
    expected = np.concatenate([model.log_prob(x[k : k + 100]) for k in range(0, 600, 100)])
    for size in (600, 300, 200):
        np.testing.assert_allclose(model.log_prob(x[:size]), expected[:size], rtol=1e-5)
    assert part_counts == [4, 2]  # of 1024 and 512 rows, and of 256
    assert model.count == 1


@on_jax
def test_samples_can_be_drawn_within_compiled_code():
    import jax

    model = flow_layers.FlowModel([make_coupling()])
    model.build((None, 6))
    expected = np.asarray(model.sample(3, seed=0))
    np.testing.assert_allclose(jax.jit(lambda: model.sample(3, seed=0))(), expected, rtol=1e-6)
