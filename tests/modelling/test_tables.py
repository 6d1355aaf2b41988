"""Data frames are data: their columns count in order, and messages name them."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.conditioners import MADE, MLP, VelocityMLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    Affine,
    AffineCoupling,
    Columns,
    FlowMatchingModel,
    FlowModel,
    Inverse,
    MaskedAffine,
    Softplus,
    Standardize,
)
from gyoza.modelling.flow_layers.discrete import find_degenerate, find_stretched
from gyoza.modelling.tables import frame_to_array, get_names


def make_frame(count=60):
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "price": np.exp(random.normal(size=count)),
            "rooms": random.integers(9, size=count),
            "is_new": random.integers(2, size=count) > 0,
        }
    )


def test_columns_of_any_numbers_become_floats_in_order():
    frame = make_frame()
    frame["area"] = pd.array([None, *range(1, len(frame))], dtype="Int64")
    array = frame_to_array(frame)
    assert array.dtype == "float64"
    np.testing.assert_array_equal(array[:, 0], frame["price"])
    np.testing.assert_array_equal(array[:, 1], frame["rooms"])
    np.testing.assert_array_equal(array[:, 2], frame["is_new"].astype(float))
    np.testing.assert_array_equal(array[:, 3], [np.nan, *range(1, len(frame))])
    assert frame_to_array(frame[["rooms"]]).dtype == "float64"
    assert frame_to_array(frame[["price"]].astype("float32")).dtype == "float32"


@pytest.mark.parametrize("values", [["a", "b"], pd.to_datetime(["2020-01-01", "2020-01-02"])])
def test_columns_of_other_things_are_named(values):
    frame = pd.DataFrame({"price": [1.0, 2.0], "city": values})
    model = FlowModel([ActivationNormalization()])
    for run in (model.adapt, model.log_prob, model.fit, model):
        with pytest.raises(TypeError, match="Column 'city' of the data frame should hold numbers"):
            run(frame)


def test_columns_of_objects_that_are_numbers_say_how_to_convert_them():
    frame = pd.DataFrame({"price": [1.0, 2.0], "area": [1.5, np.nan]}, dtype=object)
    model = FlowModel([ActivationNormalization()])
    message = r'Column \'price\' .* hold numbers: `frame.astype\("float32"\)`.*dtype=object'
    for run in (model.adapt, model.log_prob, model.fit):
        with pytest.raises(TypeError, match=message):
            run(frame)


@pytest.mark.parametrize("values", [["a", "b"], [1.5, "b"], np.array(["2020-01-01"] * 2, "M8")])
def test_arrays_of_other_things_are_named(values):
    is_mixed = not isinstance(values[1], np.datetime64)
    x = np.array([[1.0, values[0]], [2.0, values[1]]], object) if is_mixed else values[:, None]
    good = np.ones([2, 2], "float32")
    model = FlowModel([ActivationNormalization()])
    conditional = FlowModel([AffineCoupling(MLP([4]))])
    model.compile("sgd")
    for array in (x, x.astype("U")):
        both = {"inputs": good, "context": array}
        for run, name in [
            (lambda a: model.adapt(a), "data"),
            (lambda a: model.adapt([a]), "data"),
            (lambda a: model.log_prob(a), "x"),
            (lambda a: model.fit(a, verbose=0), "x"),
            (lambda a: model.predict(a, verbose=0), "x"),
            (lambda a, both=both: conditional.adapt(both), "context"),
            (lambda a, both=both: conditional.fit(both, verbose=0), "context"),
            (lambda a: conditional.log_prob(good, a), "context"),
        ]:
            message = f"`{name}` should be an array of numbers.* Received: an array of dtype "
            with pytest.raises(TypeError, match=message + re.escape(str(array.dtype))):
                run(array)


def test_names_are_those_of_strings():
    frame = make_frame()
    assert get_names(frame) == get_names({"inputs": frame}) == ("price", "rooms", "is_new")
    assert get_names(pd.DataFrame(frame.to_numpy())) is None
    assert get_names(np.zeros([2, 2])) is None


def test_contexts_can_be_frames():
    frame = make_frame()
    x, context = frame[["price"]].astype("float32"), frame[["rooms", "is_new"]]
    model = FlowModel(
        [Standardize(), AffineCoupling(conditioner=MLP([4]))],
    )
    model.adapt({"inputs": x, "context": context})
    model.compile("sgd")
    model.fit({"inputs": x, "context": context}, verbose=0)
    values = context.to_numpy("float32")
    expected = to_numpy(model.log_prob(x.to_numpy(), values))
    np.testing.assert_allclose(to_numpy(model.log_prob(x, context)), expected, rtol=1e-5)
    np.testing.assert_allclose(
        to_numpy(model.sample(len(x), seed=0, context=context)),
        to_numpy(model.sample(len(x), seed=0, context=values)),
        rtol=1e-5,
    )
    z = to_numpy(model(x, context=context)[0])
    np.testing.assert_allclose(to_numpy(model.invert(z, context=values)), x, rtol=1e-4)
    np.testing.assert_allclose(to_numpy(model.invert(z, context=context)), x, rtol=1e-4)
    np.testing.assert_allclose(to_numpy(model.invert(z, context)), x, rtol=1e-4)
    log_det = to_numpy(model.invert_and_log_det(z, context=context)[1])
    np.testing.assert_array_equal(to_numpy(model.log_det(x, context)), log_det)


def test_layers_adapt_to_frames():
    frame = make_frame()
    layer = Standardize()
    layer.adapt(frame)
    np.testing.assert_allclose(to_numpy(layer._location_), frame.mean(), rtol=1e-5)


def test_columns_are_chosen_by_the_names_of_the_frame_that_is_adapted_to():
    frame = make_frame()
    layer = Columns({"price": Inverse(Softplus())})
    model = FlowModel([layer, Standardize()])
    with pytest.raises(ValueError, match="`names` should be given to 'columns"):
        FlowModel([Columns({"price": Inverse(Softplus())})])(frame.to_numpy("float32"))
    with pytest.warns(UserWarning, match=r"in dimensions 'rooms', 'is_new'\."):
        model.adapt(pd.concat([frame] * 2))
    assert layer.names == ("price", "rooms", "is_new")
    with pytest.raises(ValueError, match=r"\['price', 'rooms', 'is_new'\], in this order"):
        FlowModel([layer]).log_prob(frame[["rooms", "price", "is_new"]])
    model.log_prob(frame)


def test_columns_in_another_order_are_rejected():
    frame = make_frame()
    model = FlowModel([Standardize()])
    model.adapt(frame)
    other = frame[["rooms", "price", "is_new"]]
    for use in (model.log_prob, model.adapt, model.evaluate):
        with pytest.raises(ValueError, match=r"`frame\[\['price', 'rooms', 'is_new'\]\]`"):
            use(other)
    renamed = frame.rename(columns={"price": "cost"})
    np.testing.assert_array_equal(
        to_numpy(model.log_prob(renamed)), to_numpy(model.log_prob(frame))
    )


def test_columns_of_contexts_in_another_order_are_rejected():
    frame = make_frame()
    c = frame[["price", "rooms"]].astype("float32")
    x = np.random.default_rng(0).normal(size=[len(frame), 1]).astype("float32")
    model = FlowModel([MaskedAffine(MADE([4]))])
    model.adapt({"inputs": x, "context": c})
    other = c[["rooms", "price"]]
    for use in (
        lambda: model.log_prob(x, context=other),
        lambda: model.log_prob({"inputs": x, "context": other}),
        lambda: model(x, context=other),
        lambda: model.invert(x, context=other),
        lambda: model.sample(len(x), context=other),
        lambda: model.sample_each(2, other),
        lambda: model.quantile(0.5, other),
        lambda: model.adapt({"inputs": x, "context": other}),
    ):
        with pytest.raises(ValueError, match=r"such as in `frame\[\['price', 'rooms'\]\]`"):
            use()
    expected = to_numpy(model.log_prob(x, context=c.to_numpy()))
    np.testing.assert_array_equal(to_numpy(model.log_prob(x, context=c)), expected)
    for use in (
        lambda: model.quantile([0.5], [1.0, 2.0]),
        lambda: model.sample_each(2, [1.0, 2.0]),
    ):
        with pytest.raises(ValueError, match=r"shape \(contexts, 2\).*context of shape \(2,\)"):
            use()


def test_flow_matching_rejects_columns_in_another_order_in_every_method():
    frame = make_frame()
    c = frame[["price", "rooms"]].astype("float32")
    x = np.random.default_rng(0).normal(size=[len(frame), 2]).astype("float32")
    model = FlowMatchingModel(VelocityMLP([4]))
    model.compile("sgd")
    with pytest.raises(ValueError, match="should have one row for each instance"):
        model.fit({"inputs": x[:10], "context": c[["rooms", "price"]]}, verbose=0)
    model.fit({"inputs": x, "context": c}, verbose=0)  # what failed does not count
    other = c[["rooms", "price"]][:5]
    for use in (
        lambda: model.log_prob(x[:5], context=other),
        lambda: model.sample(5, context=other),
        lambda: model.sample(5, context=other, steps=2),
        lambda: model.fit({"inputs": x[:5], "context": other}, verbose=0),
    ):
        with pytest.raises(ValueError, match=r"such as in `frame\[\['price', 'rooms'\]\]`"):
            use()


def test_the_order_of_columns_is_known_after_arrays_too():
    frame = make_frame().astype("float32")
    model = FlowModel([Standardize()])
    model.adapt(frame)
    model.log_prob(frame.to_numpy())
    with pytest.raises(ValueError, match="The columns of a data frame should be in the order"):
        model.log_prob(frame[["rooms", "price", "is_new"]])


def test_the_order_of_numbered_columns_and_of_rows_is_known():
    random = np.random.default_rng(0)
    x = pd.DataFrame(random.normal(size=[50, 3]).astype("float32"))
    c = pd.DataFrame(random.normal(size=[50, 2]), columns=["size", "age"]).astype("float32")
    coupling = AffineCoupling(conditioner=MLP([4]))
    model = FlowModel([coupling])
    model.compile("sgd")
    model.fit({"inputs": x, "context": c}, verbose=0)
    with pytest.raises(ValueError, match=r"such as in `frame\[\[0, 1, 2\]\]`"):
        model.log_prob(x[[2, 0, 1]], context=c)
    assert model.log_prob(x[:2], context=c.iloc[0]).shape == (2,)
    with pytest.raises(ValueError, match=r"such as in `frame\[\['size', 'age'\]\]`"):
        model.sample(2, context=c[["age", "size"]].iloc[0])


def test_other_columns_do_not_make_a_model_forget_those_that_it_is_trained_on():
    frame = make_frame().astype("float32")
    other = frame[["rooms", "price", "is_new"]]
    model = FlowModel([Standardize()])
    model.compile("sgd")
    model.fit(frame, verbose=0)
    model.log_prob(pd.DataFrame(frame.to_numpy()))
    with pytest.raises(ValueError, match="incompatible"):
        model.log_prob(frame.assign(area=1.0))
    is_rejected = pytest.raises(ValueError, match="in the order in which")
    with is_rejected:
        model.log_prob(other)
    with is_rejected:
        model.fit(frame, validation_data=other, verbose=0)
    names = {"price": "a", "rooms": "b", "is_new": "c"}
    model.fit(other.rename(columns=names), verbose=0)
    with is_rejected:
        model.log_prob(frame.rename(columns=names))


def test_adapt_names_columns_that_are_constant_or_repeat_others():
    random = np.random.default_rng(0)
    x = random.normal(size=[50, 2])
    frame = pd.DataFrame({"a": x[:, 0], "b": 3.0, "c": x[:, 1], "d": 1.0 - 2.0 * x[:, 0]})
    expected = "column 'b' has one value only; column 'd' repeats column 'a',"
    with pytest.warns(UserWarning, match=expected) as caught:
        FlowModel([FlowModel([ActivationNormalization()])]).adapt(frame)
    assert len([warning for warning in caught if "one value" in str(warning.message)]) == 1
    with pytest.warns(UserWarning, match="column 1 has one value only; column 3 repeats column 0,"):
        FlowModel([ActivationNormalization()]).adapt(frame.to_numpy("float32"))
    with pytest.warns(UserWarning, match="columns 'b', 'e' have one value only;"):
        FlowModel([ActivationNormalization()]).adapt(frame.assign(e=1.0))


def test_adapt_names_columns_that_a_few_values_scale():
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"size": random.normal(size=500), "price": random.gamma(2.0, size=500)})
    expected = "in column 'price': all others .* Received: the value 1e[+]06, where half of the"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        FlowModel([ActivationNormalization()]).adapt(frame)
    x = random.normal(size=[4000, 1])
    assert not len(find_stretched(x + 100.0 * (np.arange(4000)[:, None] % 2)))  # not a few
    frame.loc[17, "price"] = 1e6
    model = FlowModel([FlowModel([ActivationNormalization(), Affine(scale=2.0)])])
    with pytest.warns(UserWarning, match="in column 1: "):
        model.adapt(frame.to_numpy("float32"))
    with pytest.warns(UserWarning, match=expected) as caught:
        FlowModel([ActivationNormalization(), ActivationNormalization()]).adapt(frame)
    found = [each for each in caught if "half of the values" in str(each.message)]
    assert [each.filename for each in found] == [__file__]
    frozen = ActivationNormalization()
    frozen.trainable = False
    with pytest.warns(UserWarning, match="frozen") as caught:
        FlowModel([frozen]).adapt(frame)
    assert not any("half of the values" in str(each.message) for each in caught)


def test_columns_that_differ_by_more_than_rounding_are_not_repetitions():
    random = np.random.default_rng(0)
    x = random.normal(size=[100, 1])
    near = x + 1e-4 * random.normal(size=x.shape)
    constant, pairs = find_degenerate(np.concatenate([x, near, x * 0], axis=1))
    assert constant.tolist() == [2]
    assert len(pairs) == 0
