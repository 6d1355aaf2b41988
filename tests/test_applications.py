"""Ready-made flows are densities that train, sample, save and load, made as their papers say."""

import dataclasses
import inspect
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy import stats

from gyoza import applications
from gyoza.backend import flatten_layers, jit
from gyoza.data import CategoricalPairs
from gyoza.modelling import distributions, flow_layers
from gyoza.modelling.conditioners import MADE
from gyoza.testing.functions import compile_on_jax, there_and_back

pytestmark = pytest.mark.usefixtures("without_xla")

# Small flows of each kind: a function without arguments, and the shape of an instance.
FLOWS = {
    "NICE": (lambda: applications.NICE(2, [8]), [3]),
    "RealNVP": (lambda: applications.RealNVP(2, [8]), [3]),
    "Glow": (lambda: applications.Glow(step_count=1, width=4), [4, 4, 1]),
    "MAF": (lambda: applications.MAF(2, [8]), [3]),
    "IAF": (lambda: applications.IAF(2, [8]), [3]),
    "NeuralSplineFlow": (lambda: applications.NeuralSplineFlow(2, [8], bin_count=4), [3]),
    "NeuralSplineFlow, autoregressive": (
        lambda: applications.NeuralSplineFlow(1, [8], autoregressive=True, bin_count=4),
        [3],
    ),
    "GaussianizationFlow": (lambda: applications.GaussianizationFlow(2, 4), [3]),
    "ResidualFlow": (lambda: applications.ResidualFlow(2, [8]), [3]),
    "FlowMatching": (lambda: applications.FlowMatching([8]), [3]),
    "FFJORD": (lambda: applications.FFJORD([8]), [3]),
    "InterpretationNetwork": (lambda: applications.InterpretationNetwork(1, [8]), [3]),
    "InterpretationNetwork, kept": (
        lambda: applications.InterpretationNetwork(1, [8], kept_count=2),
        [3],
    ),
}
COMPILED_BY_JAX = {
    "Glow",
    "NeuralSplineFlow",
    "GaussianizationFlow",
    "FlowMatching",
    "FFJORD",
    "InterpretationNetwork",
}


def divide(names):
    """Divides flows between the backends that compile them, which takes longest."""
    return [
        pytest.param(
            name,
            marks=pytest.mark.compiled_by("jax" if name in COMPILED_BY_JAX else "tensorflow"),
        )
        for name in names
    ]


# TensorFlow takes longer to compile what is run here than to run it.
RUN_EAGERLY = keras.backend.backend() == "tensorflow"
WITHOUT_CONTEXT = {"GaussianizationFlow", "ResidualFlow"}


def get_flow(model):
    """Returns the flow of a model that is trained otherwise than by likelihood."""
    return getattr(model, "flow", model)


def draw(shape, count=96):
    """Draws skewed, dependent numbers, far from zero."""
    random = np.random.default_rng(0)
    x = random.normal(size=(count, np.prod(shape)))
    x[:, 1:] += x[:, :-1] ** 2
    return (2.0 * x + 5.0).reshape(count, *shape).astype("float32")


@dataclasses.dataclass
class Trained:
    """A flow after training, and how it did before."""

    name: str
    model: Any
    x: np.ndarray
    initial_log_prob: np.ndarray

    @property
    def log_prob(self):
        return to_numpy(self.model.log_prob(self.x))


@pytest.fixture(scope="module", params=divide(FLOWS))
def flow(request):
    keras.utils.set_random_seed(0)
    make, shape = FLOWS[request.param]
    model, x = make(), draw(shape)
    model.adapt(x)
    initial_log_prob = to_numpy(model.log_prob(x))
    model.compile(keras.optimizers.Adam(1e-3), run_eagerly=RUN_EAGERLY)
    model.fit(x, batch_size=48, verbose=0)
    return Trained(request.param, model, x, initial_log_prob)


def test_it_is_a_density_that_training_improves(flow):
    assert isinstance(get_flow(flow.model), flow_layers.FlowModel)
    assert np.all(np.isfinite(flow.initial_log_prob))
    assert flow.log_prob.mean() > flow.initial_log_prob.mean()


def test_samples_come_with_their_density_and_their_latent(flow):
    count = len(flow.x)  # as many as elsewhere, since compiled functions are traced by shapes
    samples, log_prob = flow.model.sample_and_log_prob(count, seed=1)
    z = to_numpy(get_flow(flow.model).base_distribution.sample(count, seed=1))
    assert samples.shape == flow.x.shape
    np.testing.assert_allclose(
        to_numpy(log_prob), to_numpy(flow.model.log_prob(samples)), atol=1e-3, rtol=1e-4
    )
    np.testing.assert_allclose(to_numpy(get_flow(flow.model)(samples)[0]), z, atol=1e-3)


def test_it_is_saved_with_all_that_it_has_learnt(flow, tmp_path):
    flow.model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(to_numpy(loaded.log_prob(flow.x)), flow.log_prob, rtol=1e-5)


@pytest.mark.parametrize("name", FLOWS)
def test_it_takes_a_context_if_its_layers_do(name):
    make, shape = FLOWS[name]
    model = make()
    assert get_flow(model).accepts_context == (name not in WITHOUT_CONTEXT)
    if name in WITHOUT_CONTEXT:
        with pytest.raises(ValueError, match="take a context"):
            model.log_prob(draw(shape, 2), context=np.zeros([2, 1], "float32"))


@pytest.mark.parametrize(
    "name",
    divide(
        [
            "RealNVP",
            "Glow",
            "MAF",
            "IAF",
            "NeuralSplineFlow",
            "NeuralSplineFlow, autoregressive",
            "FlowMatching",
            "FFJORD",
        ]
    ),
)
def test_a_context_counts_in_both_directions(name):
    keras.utils.set_random_seed(0)
    make, shape = FLOWS[name]
    model, x = get_flow(make()), draw(shape, 8)
    context = np.linspace(-1.0, 1.0, 8, dtype="float32")[:, None]
    model.adapt({"inputs": x, "context": context})
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign_add(0.2 * random.normal(size=weight.shape))

    def run(x, context):
        z, log_det = model(x, context=context)
        return log_det, model(x, context=-context)[1], model.invert(z, context=context)

    run = run if RUN_EAGERLY else jit(run)
    log_det, other, again = map(to_numpy, run(ops.array(x), ops.array(context)))
    assert np.all(np.abs(log_det - other) > 1e-3)
    np.testing.assert_allclose(again, x, atol=1e-3)


@pytest.mark.parametrize("name", applications.__all__)
def test_arguments_of_the_model_are_passed_on(name):
    base_distribution = distributions.StudentT()
    model = getattr(applications, name)(base_distribution=base_distribution, name="mine")
    assert model.name == "mine"
    model = get_flow(model)
    assert isinstance(model, flow_layers.FlowModel)
    assert model.base_distribution is base_distribution


@pytest.mark.parametrize("name", applications.__all__)
def test_arguments_that_nothing_takes_are_rejected(name):
    make = getattr(applications, name)
    first = next(iter(inspect.signature(make).parameters))
    expected = rf"`{name}` should be some of \['{first}', .*'dtype'\], .* Received: \['layers'\]"
    with pytest.raises(TypeError, match=expected):
        make(layers=2, name="mine")


@pytest.mark.parametrize("policy", ["float64", keras.DTypePolicy("mixed_bfloat16")])
@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("NICE", {"hidden_sizes": [2]}, [3]),
        ("Glow", {"step_count": 1, "width": 2, "block_count": 1, "levels": 8}, [4, 4, 1]),
        ("IAF", {"layer_count": 1, "hidden_sizes": [2], "residual": True}, [3]),
        ("NeuralSplineFlow", {"layer_count": 1, "hidden_sizes": [2], "residual": True}, [3]),
        ("GaussianizationFlow", {"layer_count": 2, "component_count": 2}, [3]),
        ("ResidualFlow", {"layer_count": 1, "hidden_sizes": [2]}, [3]),
        ("FlowMatching", {"hidden_sizes": [2]}, [3]),
        ("FFJORD", {"hidden_sizes": [2]}, [3]),
        ("InterpretationNetwork", {"block_count": 1, "hidden_sizes": [2]}, [3]),
    ],
)
def test_dtype_reaches_all_layers_networks_and_the_base_distribution(name, options, shape, policy):
    model = getattr(applications, name)(**options, dtype=policy)
    model.build((None, *shape))
    layers = flatten_layers(model)
    assert get_flow(model).base_distribution in layers
    expected = keras.dtype_policies.get(policy).name
    assert {layer.dtype_policy.name for layer in layers} == {expected}
    assert keras.config.dtype_policy().name == "float32"


def test_data_stay_as_exact_as_the_model():
    """The outputs of the first instances tell them apart, where float32 has 1e8 for all."""
    x = 1e8 + np.random.default_rng(0).normal(size=[64, 2])
    model = applications.RealNVP(1, [4], dtype="float64")
    model.adapt(x)
    if to_numpy(model.log_prob(x)).dtype != "float64":
        return  # JAX computes in float32 unless it is told otherwise
    log_prob = to_numpy(model.log_prob(x)).mean()
    assert len(np.unique(model.predict(x, verbose=0)[0])) == x.size
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=RUN_EAGERLY)
    assert model.evaluate(x, verbose=0) == pytest.approx(-log_prob, rel=1e-5)
    history = model.fit(x, validation_data=(x, None), verbose=0).history
    np.testing.assert_allclose([*history["loss"], *history["val_loss"]], -log_prob, rtol=1e-5)
    assert keras.config.floatx() == "float32"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(
            (name, {"layer_count": 0})
            for name in applications.__all__
            if name not in ("Glow", "FlowMatching", "FFJORD", "InterpretationNetwork")
        ),
        ("MAF", {"layer_count": 1.5}),
        ("Glow", {"scale_count": 0}),
        ("Glow", {"step_count": 0}),
        ("Glow", {"width": 0}),
        ("Glow", {"block_count": -1}),
        ("Glow", {"levels": 1}),
        ("RealNVP", {"hidden_sizes": [8, 0]}),
        ("IAF", {"hidden_sizes": [-8]}),
        ("NeuralSplineFlow", {"bin_count": 1}),
        ("NeuralSplineFlow", {"bound": 0.0}),
        ("GaussianizationFlow", {"component_count": 1}),
        ("ResidualFlow", {"hidden_sizes": []}),
        ("FlowMatching", {"hidden_sizes": [8, 0]}),
        ("RealNVP", {"hidden_sizes": 32}),
        ("MAF", {"hidden_sizes": 32}),
        ("FlowMatching", {"frequency_count": -1}),
        ("FlowMatching", {"paths": "curved"}),
        ("FFJORD", {"solver": "heun"}),
        ("FFJORD", {"step_count": 0}),
        ("InterpretationNetwork", {"block_count": 0}),
        ("InterpretationNetwork", {"kept_count": 0}),
        ("InterpretationNetwork", {"mixing": "none"}),
        ("InterpretationNetwork", {"capacity": "cubic"}),
    ],
)
def test_numbers_out_of_range_are_rejected(name, options):
    (argument,) = options
    with pytest.raises((TypeError, ValueError), match=f"`{argument}` should be .* Received: "):
        getattr(applications, name)(**options)


def get_kinds(model):
    return [type(layer).__name__ for layer in model._flow_layers_]


def test_nice_stretches_space_alike_everywhere():
    model, x = applications.NICE(2, [8]), draw([3])
    model.adapt(x)
    log_det = to_numpy(model(x[:8])[1])
    np.testing.assert_allclose(log_det, log_det[0], rtol=1e-6)
    assert abs(log_det[0]) > 0.1
    assert isinstance(model.base_distribution, distributions.Logistic)


def test_the_latent_of_glow_is_one_vector_of_two_scales():
    model = applications.Glow(scale_count=2, step_count=3, width=4)
    model.build((None, 8, 4, 3))
    assert model.compute_output_shape((None, 8, 4, 3)) == ((None, 96), (None,))
    step = ["ActivationNormalization", "InvertibleConvolution", "AffineCoupling"]
    assert get_kinds(model) == ["Squeeze", *3 * step, "FactorOut"]
    coarse = model._flow_layers_[-1].flow
    assert get_kinds(coarse) == ["Squeeze", *3 * step, "Flatten"]
    channels = [flow._flow_layers_[2].dimension_count for flow in (model, coarse)]
    assert channels == [12, 24]


def test_samples_of_glow_with_levels_are_such_integers():
    random = np.random.default_rng(0)
    x = random.integers(5, size=[32, 4, 4, 1]).astype("float32")
    model = applications.Glow(scale_count=1, step_count=1, width=4, levels=5)
    model.adapt(x)
    samples = to_numpy(model.sample(64, seed=0))
    assert set(np.unique(samples)) == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_orders_of_autoregressive_layers_alternate():
    for model in (applications.MAF(3, [8]), applications.IAF(3, [8])):
        layers = [getattr(layer, "layer", layer) for layer in model._flow_layers_]
        assert get_kinds(model)[::2] == 3 * ["ActivationNormalization"]
        assert all(isinstance(layer, flow_layers.MaskedAffine) for layer in layers[1::2])
        model.build((None, 3))
        orders = [layer.conditioner.order for layer in layers[1::2]]
        assert orders == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]


def test_densities_of_maf_and_samples_of_iaf_take_one_pass(monkeypatch):
    calls = []
    call = MADE.call

    def count(self, inputs, context=None, entry=None):
        calls.append(entry)
        return call(self, inputs, context, entry)

    monkeypatch.setattr(MADE, "call", count)
    x = draw([3], 4)
    maf, iaf = applications.MAF(2, [8]), applications.IAF(2, [8])
    for model, run in ((maf, maf), (iaf, iaf.invert), (iaf, iaf.invert_and_log_det)):
        model.build((None, 3))
        calls.clear()
        run(x)
        assert calls == [None, None]


def test_flows_in_continuous_time_see_white_data():
    """The first layers leave no correlation, and the velocity starts at zero."""
    x = draw([3], 500)
    for model in (applications.FlowMatching([8]), applications.FFJORD([8], step_count=1)):
        model.adapt(x)
        z = to_numpy(get_flow(model)(x)[0])
        np.testing.assert_allclose(np.cov(z.T, bias=True), np.eye(3), atol=1e-3)
        normal = stats.multivariate_normal(x.mean(axis=0), np.cov(x.T, bias=True))
        np.testing.assert_allclose(
            to_numpy(model.log_prob(x)), normal.logpdf(x.astype("float64")), atol=1e-3, rtol=1e-3
        )


@pytest.mark.parametrize("flow", ["GaussianizationFlow"], indirect=True)
def test_gaussianization_beats_a_normal_distribution_without_training(flow):
    normal = stats.multivariate_normal(flow.x.mean(axis=0), np.cov(flow.x.T, bias=True))
    assert flow.initial_log_prob.mean() > normal.logpdf(flow.x).mean() + 0.1


def test_the_interpretation_network_is_that_of_the_paper_if_it_shuffles():
    model = applications.InterpretationNetwork(mixing="shuffle")
    block = [
        "ActivationNormalization",
        "AffineCoupling",
        "HeavisidePermutation",
        "AffineCoupling",
        "ShufflePermutation",
    ]
    assert isinstance(model, flow_layers.DisentanglingFlowModel)
    assert get_kinds(model) == 12 * block
    raw = ops.convert_to_tensor(1e3 * np.random.default_rng(0).normal(size=[16, 2]), "float32")
    for layer in model._flow_layers_:
        if isinstance(layer, flow_layers.AffineCoupling):
            assert np.all(np.abs(to_numpy(layer.compute_log_scales(raw))) <= 1.0)
    mixing = applications.InterpretationNetwork()
    assert get_kinds(mixing) == [*12 * [*block[:4], "LULinear"], "Orthogonal"]


@pytest.mark.parametrize("mixing", ["linear", "shuffle"])
def test_the_mixing_of_the_interpretation_network_follows_from_its_seed(mixing):
    def get_mixing(**options):
        model = applications.InterpretationNetwork(3, [8], mixing=mixing, **options)
        model.build((None, 9))
        return [to_numpy(layer.weights[0]) for layer in model._flow_layers_[4:15:5]]

    first, again, other = get_mixing(), get_mixing(), get_mixing(seed=7)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len({array.tobytes() for array in first}) == 3


@pytest.mark.parametrize(
    ("capacity", "kept_count"),
    [("rotation", None), ("linear", None), ("affine", None), ("affine", 5), ("spline", None)],
)
def test_an_interpretation_network_starts_from_the_best_linear_answer(capacity, kept_count):
    random = np.random.default_rng(0)
    labels = random.integers(3, size=[300, 2])
    x = random.normal(size=[300, 7]) + labels @ random.normal(size=[2, 7])
    x = x.astype("float32")
    pairs = CategoricalPairs(x, labels, seed=0)
    sizes = {"residual": 4, "a": 2, "b": 1}
    model = applications.InterpretationNetwork(
        2, [8], dimensions_per_factor=sizes, kept_count=kept_count, capacity=capacity
    )
    model.adapt(pairs)
    assert model.trainable_variables
    flow, expected, thin = model, x, x[:, :0]
    if kept_count is not None:
        rotation, normalisation, factor_out = model._flow_layers_
        expected = to_numpy(normalisation(rotation(x)[0])[0])
        flow, expected, thin = factor_out.flow, expected[:, :5], expected[:, 5:]
    axes = flow._flow_layers_[0]
    assert axes.dimensions_per_factor == {"residual": 4 - len(thin[0]), "a": 2, "b": 1}
    expected = np.concatenate([thin, to_numpy(axes(expected)[0])], axis=1)
    z, log_det, again = map(to_numpy, compile_on_jax(there_and_back(model))(x))
    np.testing.assert_allclose(z, expected, atol=1e-4)
    np.testing.assert_allclose(again, x, atol=1e-4)
    np.testing.assert_allclose(log_det, log_det[0], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "argument"),
    [({"kept_count": 2}, "kept_count"), ({"mixing": "shuffle"}, "mixing")],
)
def test_a_linear_start_that_is_not_possible_is_rejected(options, argument):
    with pytest.raises(ValueError, match=f"`{argument}` should be .* Received: "):
        applications.InterpretationNetwork(1, dimensions_per_factor=[3, 2, 1], **options)
