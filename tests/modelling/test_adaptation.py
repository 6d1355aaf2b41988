"""Adapting layers to data: small and large numbers, constants, and what is frozen or given."""

import warnings

import keras
import numpy as np
import pandas as pd
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.applications import NeuralSplineFlow
from gyoza.modelling.conditioners import MADE, MLP, OptionalContext
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    Affine,
    AffineCoupling,
    FlowModel,
    MaskedAffine,
    MixtureGaussianization,
    PrincipalRotation,
    Standardize,
    UniformDequantization,
    YeoJohnson,
    adapting,
)
from gyoza.modelling.flow_layers.unadapted import warn_if_unscaled, warn_of_scales

KINDS = [ActivationNormalization, Standardize, MixtureGaussianization]


def draw(dtype="float64"):
    return np.random.default_rng(0).normal(size=[200, 2]).astype(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-7, 1e-30, 1e30])
def test_small_and_large_units_are_scaled(kind, scale):
    layer = kind()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        layer.adapt(scale * draw())
    outputs = to_numpy(layer((scale * draw()).astype("float32"))[0])
    np.testing.assert_allclose(outputs.std(axis=0), 1, atol=0.15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constants_count_as_having_scale_1(kind, dtype):
    x = draw(dtype)
    x[:, 1] = 0.1  # whose mean is rounded
    layer = kind()
    layer.adapt(x, batch_size=64)
    if kind is MixtureGaussianization:
        np.testing.assert_allclose(np.exp(to_numpy(layer.log_scales))[1], 0.01, rtol=1e-5)
    else:
        assert to_numpy(layer._scale_)[1] == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_too_large_for_their_spread_are_warned_of(kind, dtype):
    x = draw()
    x[:, 1] = (x[:, 1] + 1e8).astype(dtype)
    with pytest.warns(UserWarning, match=r"columns \[1\] .*float32.*dtype=\"float64\".*subtract"):
        kind().adapt(x.astype(dtype))


def test_doubles_resolve_what_floats_do_not():
    x = 1e8 + draw()
    layer = Standardize(dtype="float64")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        layer.adapt(x)
    outputs = to_numpy(layer(ops.convert_to_tensor(x, dtype="float64"))[0])
    np.testing.assert_allclose(outputs.std(axis=0), 1, rtol=1e-6)


def test_spreads_that_a_dtype_cannot_hold_are_left_and_warned_of():
    layer = ActivationNormalization(axes=[1, 2])
    x = draw().reshape(100, 2, 2)
    x[:, 1, 0] *= 1e-40
    with pytest.warns(UserWarning, match=r"columns \[\(1, 0\)\] .*too small for float32"):
        layer.adapt(x)
    assert to_numpy(layer._scale_)[1, 0] == 1


def test_steps_of_training_do_not_lead_below_zero():
    constraint = ActivationNormalization._PositiveConstraint_()
    scales = to_numpy(constraint(ops.convert_to_tensor([1e-7, -1e-3, 2.0, 0.0])))
    np.testing.assert_allclose(scales[:3], [1e-7, 1e-3, 2.0], rtol=1e-6)
    assert scales[3] > 0


def test_what_was_given_stays():
    x = 3 * draw() + 2
    layer = Standardize(location=5.0)
    layer.adapt(x)
    np.testing.assert_array_equal(to_numpy(layer._location_), 5)
    np.testing.assert_allclose(to_numpy(layer._scale_), x.std(axis=0), rtol=1e-5)
    layer = Standardize(location=5.0, scale=[1.0, 4.0])
    FlowModel([layer]).adapt(x)
    np.testing.assert_array_equal(to_numpy(layer._location_), 5)
    np.testing.assert_array_equal(to_numpy(layer._scale_), [1, 4])


def test_frozen_layers_are_left_alone_with_a_warning():
    inner = FlowModel([MixtureGaussianization(component_count=2), ActivationNormalization()])
    inner.adapt(draw())
    inner.trainable = False
    last = ActivationNormalization()
    before = [to_numpy(weight) for weight in inner.weights]
    x = 5 * draw() + 2
    with pytest.warns(UserWarning, match=f"left '{inner.name}' as it is") as caught:
        FlowModel([inner, YeoJohnson(), last]).adapt(x)
    assert len([w for w in caught if "as it is" in str(w.message)]) == 1
    for weight, value in zip(inner.weights, before, strict=True):
        np.testing.assert_array_equal(to_numpy(weight), value)
    np.testing.assert_allclose(
        to_numpy(last._location_), to_numpy(inner(x.astype("float32"))[0]).mean(0), rtol=1e-3
    )
    for layer in inner._flow_layers_:
        with pytest.warns(UserWarning, match=f"left '{layer.name}' as it is"):
            layer.adapt(x)


def test_dictionaries_hold_inputs_and_a_context():
    x = draw()
    layer = Standardize()
    layer.adapt({"inputs": x, "context": x})
    np.testing.assert_allclose(to_numpy(layer._scale_), x.std(axis=0), rtol=1e-5)
    for data in ({"input": x, "context": x}, [{"input": x}], {"inputs": x, "contexts": x}):
        with pytest.raises(ValueError, match=r"should be `\{\"inputs\".*Received: the keys"):
            FlowModel([Standardize()]).adapt(data)


@pytest.mark.parametrize("kind", [*KINDS, PrincipalRotation])
def test_rows_that_are_not_finite_are_named(kind):
    x = draw("float32")
    x[[70, 150], 1] = np.nan, np.inf
    layer = kind(name="first")
    with pytest.raises(ValueError, match=r"'first' is adapted.*: NaN in rows? 70.*, column 1$"):
        layer.adapt(x, batch_size=64)
    with pytest.raises(ValueError, match=r"'flow' is adapted.*Received: NaN in rows 70, 150, col"):
        FlowModel([layer], name="flow").adapt(x)
    # What precedes a layer may make numbers too large.
    layers = [Affine(scale=1e30), Affine(scale=1e30, name="second"), FlowModel([kind()])]
    message = r"layer 1 of 'flow', 'second', are finite.*Received: -?inf in rows 0, 1, 2"
    with pytest.raises(ValueError, match=message):
        FlowModel(layers, name="flow").adapt(draw("float32"))


def test_columns_that_are_not_finite_are_named_and_contexts_are_told_apart():
    x, context = draw("float32"), draw("float32")
    bad, bad_context = x.copy(), context.copy()
    bad[[3, 4], [0, 1]] = bad_context[5, 1] = np.nan
    names = ["a", "b"]
    orders = [MaskedAffine, Standardize], [Standardize, MaskedAffine]
    for data, received in [
        (bad, r"^`data` .*rows 3, 4, columns 0, 1$"),
        (pd.DataFrame(bad, columns=names), r"^`data` .*rows 3, 4, columns 'a', 'b'$"),
        (
            {"inputs": x, "context": bad_context},
            r"^The contexts in `data` should .*NaN in row 5, column 1$",
        ),
        (
            {"inputs": x, "context": pd.DataFrame(bad_context, columns=names)},
            r"^The contexts in `data` should .*NaN in row 5, column 'b'$",
        ),
    ]:
        for kinds in orders:
            with pytest.raises(ValueError, match=received):
                FlowModel([kind() for kind in kinds]).adapt(data)


def test_contexts_may_be_missing_where_an_encoder_takes_them():
    x, context = draw("float32"), draw("float32")
    context[5] = np.nan
    layers = [MaskedAffine(MADE([8])), Standardize()]
    FlowModel(layers, context_encoder=OptionalContext()).adapt({"inputs": x, "context": context})


def test_generator_that_adapt_has_read_is_rejected_by_fit():
    model = FlowModel([ActivationNormalization()])
    model.compile("adam")
    batches = (draw("float32") for _ in range(2))
    model.adapt(batches)
    with pytest.raises(ValueError, match="a generator that has been read to its end, as `adapt`"):
        model.fit(batches, verbose=0)


@pytest.mark.parametrize("kind", [ActivationNormalization, MixtureGaussianization])
def test_flow_that_was_never_adapted_is_warned_of_once(kind):
    x = np.floor(60.0 + 20.0 * draw("float32")).clip(0, 255)
    layers = [UniformDequantization(256), Affine(scale=1e5), kind(name="first")]
    model = FlowModel(layers, name="flow")
    model.build((None, 2))
    seed = [to_numpy(state) for state in model.non_trainable_variables]
    with pytest.warns(UserWarning, match=r"'flow' should be adapted .*'first' does not normalise"):
        warn_of_scales(model, x)
    after = [to_numpy(state) for state in model.non_trainable_variables]
    assert len(seed) == len(after) > 0
    assert all(map(np.array_equal, seed, after))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warn_of_scales(model, x)


def encode_and_reload(model, data, directory):
    """Returns encoded contexts and densities of an adapted model, and those of its saved copy."""
    model.adapt(data)
    model.save(directory / "model.keras")
    models = [model, keras.saving.load_model(directory / "model.keras")]
    return [[to_numpy(m.encode(data["context"])), to_numpy(m.log_prob(data))] for m in models]


@pytest.mark.parametrize("is_application", [True, False])
def test_contexts_far_from_standardised_are_warned_of_once(is_application, tmp_path):
    def make(**kwargs):
        if is_application:
            return NeuralSplineFlow(1, hidden_sizes=[4], autoregressive=True, **kwargs)
        inner = FlowModel([ActivationNormalization(), MaskedAffine(MADE([4]))])
        return FlowModel([Standardize(), inner], **kwargs)

    x, random = draw("float32"), np.random.default_rng(0)
    bounds = [[20.0, 1950.0], [200.0, 2024.0]]
    context = random.uniform(*bounds, size=[len(x), 2]).astype("float32")
    model = make(name="flow")
    data = {"inputs": x, "context": pd.DataFrame(context, columns=["area", "year"])}
    message = r"'flow' is given contexts.*e\+03 in dimension 'year'"
    with pytest.warns(UserWarning, match=message) as caught:
        model.adapt(data)
    caught = [each for each in caught if "far from standardised" in str(each.message)]
    assert [each.filename for each in caught] == [__file__]
    # What the warning advises.
    encoder = keras.layers.Normalization()
    encoder.adapt(context)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.adapt(data)
        (codes, log_prob), loaded = encode_and_reload(
            make(context_encoder=encoder), {"inputs": x, "context": context}, tmp_path
        )
    np.testing.assert_allclose(codes.mean(axis=0), 0.0, atol=1e-3)
    np.testing.assert_allclose(codes.std(axis=0), 1.0, rtol=1e-3)
    np.testing.assert_allclose(loaded[0], codes, rtol=1e-6)
    np.testing.assert_allclose(loaded[1], log_prob, rtol=1e-5)


@pytest.mark.parametrize("is_data_set", [False, True])
def test_contexts_are_looked_at_without_adapting_too(is_data_set):
    model = FlowModel([MaskedAffine(MADE([4]))], name="flow")
    data = Batches("context") if is_data_set else {"inputs": draw(), "context": 30.0 + draw()}
    with pytest.warns(UserWarning, match="'flow' is given contexts that are far from standard"):
        warn_of_scales(model, data)


def test_models_with_an_encoder_are_not_warned_of_what_it_returns():
    x = draw("float32")
    inner = FlowModel([ActivationNormalization(), MaskedAffine(MADE([4]))])
    model = FlowModel([inner], context_encoder=keras.layers.Rescaling(100.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.adapt({"inputs": x, "context": x})


@pytest.mark.parametrize("kind", ["one-hot", "interval", "unit", "integers", "images", "few"])
def test_contexts_of_usual_sizes_are_not_warned_of(kind):
    random = np.random.default_rng(0)
    context = {
        "one-hot": np.eye(3)[random.integers(3, size=500)],
        "interval": random.uniform(-2.0, 2.0, size=[500, 2]),
        "unit": random.uniform(size=[500, 1]),
        "integers": random.integers(10, size=[500, 1]),
        "images": random.uniform(size=[300, 4, 4, 3]),
        "few": np.full([1, 1], 9.0),
    }[kind].astype("float32")
    model = FlowModel([Standardize()])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warn_if_unscaled(model, context)
    with pytest.warns(UserWarning, match="far from standardised"):
        warn_if_unscaled(model, context + 255.0)


def test_models_among_the_layers_are_warned_of_as_layers_are():
    inner = FlowModel([ActivationNormalization()], name="inner")
    model = FlowModel([Affine(scale=2.0), inner])
    x = 30.0 + 100.0 * draw("float32")
    with pytest.warns(UserWarning, match="'inner' does not normalise"):
        warn_of_scales(model, x)
    other = FlowModel([FlowModel([Affine(scale=2.0)])])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warn_of_scales(other, x)


class Batches(keras.utils.PyDataset):
    """Two batches, with a context or as a pair, that know how often they are asked for."""

    def __init__(self, form):
        super().__init__()
        self.form, self.count = form, 0

    def __len__(self):
        return 2

    def __getitem__(self, index):
        self.count += 1
        x = 30.0 + 100.0 * draw("float32")
        if self.form == "context":
            return ({"inputs": x, "context": x[:, :1]},)
        return ((x, x), np.zeros([len(x), 2])) if self.form == "pair" else (x,)


@pytest.mark.parametrize("form", ["alone", "context", "pair"])
def test_first_batch_of_a_data_set_is_looked_at(form):
    data, model = Batches(form), FlowModel([ActivationNormalization()])
    if form == "context":
        model.add(AffineCoupling(conditioner=MLP([2])))
    with pytest.warns(UserWarning, match="does not normalise"):
        warn_of_scales(model, data)
    warn_of_scales(model, data)
    assert data.count == 1


def test_data_sets_that_can_be_read_once_are_left_alone():
    batches = (batch for batch in [30.0 + 100.0 * draw("float32")])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warn_of_scales(FlowModel([ActivationNormalization()]), batches)
    assert len(list(batches)) == 1


def test_flow_is_not_warned_of_that_knows_its_data_or_need_not():
    x = 30.0 + 100.0 * draw("float32")
    adapted = FlowModel([ActivationNormalization()])
    adapted.adapt(x)
    scaled = FlowModel([Affine(scale=0.01), ActivationNormalization()])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for model in (adapted, scaled, FlowModel([YeoJohnson()])):
            model.compile("sgd")
            model.fit(x, verbose=0)
        model = FlowModel([ActivationNormalization()])
        model.compile("sgd")
        model.fit(draw("float32"), verbose=0)


def test_data_without_an_end_are_told_of(monkeypatch):
    monkeypatch.setattr(adapting, "_MANY_BATCHES", 4)
    x = draw("float32")
    with pytest.warns(UserWarning, match="has read 4 batches of a map, and goes on") as caught:
        FlowModel([Standardize()]).adapt(map(x.__add__, range(4)))
    assert [warning.filename for warning in caught if warning.category is UserWarning] == [__file__]
    if keras.backend.backend() == "tensorflow":
        data = pytest.importorskip("tensorflow").data.Dataset.from_tensors(x)
        FlowModel([Standardize()]).adapt(data)
        with pytest.raises(ValueError, match="`data` should come to an end"):
            FlowModel([Standardize()]).adapt(data.repeat())


@pytest.mark.parametrize("batch_size", [0, 1.5])
def test_bad_batch_sizes(batch_size):
    with pytest.raises(ValueError, match=r"of at least 1\. Received: batch_size="):
        ActivationNormalization().adapt(draw("float32"), batch_size=batch_size)
