"""Tables: which kind a column is of, and that layers and codes keep to it."""

import json
import warnings

import keras
import numpy as np
import pandas as pd
import pytest
from keras.ops import convert_to_numpy as to_numpy

from gyoza.data import Table
from gyoza.modelling.distributions import Logistic
from gyoza.modelling.flow_layers import FlowModel


def make_frame(count=400):
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "height": random.normal(size=count),
            "price": 1000.0 * np.exp(random.normal(size=count)),
            "share": random.uniform(size=count),
            "score": random.uniform(20.0, 40.0, size=count),
            "stars": random.integers(1, 6, size=count),
            "balance": random.integers(-20, 21, size=count),
            "visits": random.poisson(2.0, size=count),
            "income": random.integers(10, 10**5, size=count),
            "city": random.choice(["Bonn", "Aachen", "Köln"], size=count),
            "is_new": random.integers(2, size=count) > 0,
        }
    )


BOUNDS = {"score": (0, 100), "stars": (1, 5)}


@pytest.fixture(scope="module")
def table():
    return Table(make_frame(), bounds=BOUNDS)


def test_kinds_are_found(table):
    assert {name: column.kind for name, column in table.columns.items()} == {
        "height": "real",
        "price": "positive",
        "share": "bounded",
        "score": "bounded",
        "stars": "integer",
        "balance": "integer",
        "visits": "count",
        "income": "positive",
        "city": "categorical",
        "is_new": "categorical",
    }
    assert table.columns["share"].bounds == (0.0, 1.0)
    assert table.columns["stars"].bounds == (1.0, 5.0)
    assert table.columns["city"].categories == ("Aachen", "Bonn", "Köln")
    assert "  stars: integer from 1 to 5\n" in repr(table)
    frame = make_frame()
    assert f"  price: positive, median {frame['price'].median():g}\n" in repr(table)
    assert f"  height: real, mean {frame['height'].mean():g}\n" in repr(table)


def test_kinds_can_be_given():
    frame = make_frame()[["stars", "visits", "price"]]
    kinds = {"stars": "categorical", "visits": "real", "price": "bounded"}
    with pytest.warns(UserWarning, match=r"Column 'visits' has the value \d in \d+% of its rows"):
        table = Table(frame, kinds=kinds)
    assert {name: column.kind for name, column in table.columns.items()} == kinds
    assert table.columns["stars"].categories == (1, 2, 3, 4, 5)
    assert table.columns["price"].bounds == (frame["price"].min(), frame["price"].max())


def test_identifiers_of_rows_are_warned_of():
    order = np.random.default_rng(0).permutation(1200)
    frame = pd.DataFrame({"number": order, "few": order % 500, "twice": order // 2})
    frame["one_left_out"] = np.where(order == 7, -2, order)
    with pytest.warns(UserWarning, match="Column 'number' .* from 0 to 1199 once") as caught:
        table = Table(frame)
    assert [warning.filename for warning in caught if warning.category is UserWarning] == [__file__]
    assert table.columns["number"].kind == "real"
    with pytest.warns(UserWarning, match=r"pass `kinds=\{'year': 'count'\}`"):
        Table(pd.DataFrame({"year": np.arange(1980, 2010)}))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        Table(frame, kinds={"number": "real"})
        Table(pd.DataFrame({"rank": [3, 1, 4, 2]}))


def test_columns_that_a_few_values_scale_are_warned_of():
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"price": random.gamma(2.0, 15.0, size=500), "size": np.arange(500) / 3.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        Table(frame)
    frame.loc[17, "price"] = 9e4
    with pytest.warns(UserWarning, match="Column 'price' is scaled .* the value 90000, where"):
        Table(frame)


def test_rows_come_back(table):
    frame = make_frame()
    x = table.encode(frame)
    np.testing.assert_array_equal(x[:, 8], frame["city"].map({"Aachen": 0, "Bonn": 1, "Köln": 2}))
    pd.testing.assert_frame_equal(table.decode(x), frame, check_dtype=False)
    other = frame[frame.columns[::-1]].assign(further="column")
    np.testing.assert_array_equal(table.encode(other), x)


def test_rows_come_back_from_layers_and_samples_are_possible_rows(table):
    frame = make_frame()
    model = FlowModel([table.make_layer()])
    x = table.encode(frame).astype("float32")
    z, log_det = map(to_numpy, model(x))
    assert np.all(np.isfinite(log_det))
    assert np.all(np.abs(np.median(z, axis=0)) < 1.5)
    decoded = table.decode(model.invert(z))
    pd.testing.assert_frame_equal(decoded, frame, check_dtype=False, rtol=1e-3, atol=1e-3)
    samples = table.decode(model.sample(1000, seed=0))
    table.encode(samples)  # raises an error for values that cannot be
    assert samples["visits"].dtype.kind == "i"
    assert samples["stars"].between(1, 5).all()
    assert set(samples["is_new"]) == {False, True}


def test_categories_that_are_equally_likely_have_that_probability():
    # The logit of uniform noise has a logistic distribution.
    frame = make_frame()[["city", "stars"]]
    table = Table(frame, bounds={"stars": (1, 5)})
    model = FlowModel([table.make_layer()], Logistic())
    log_prob = to_numpy(model.log_prob(table.encode(frame)))
    np.testing.assert_allclose(log_prob, -np.log(3 * 5), rtol=1e-4)


def test_categories_can_be_one_hot():
    frame = make_frame()[["city", "height", "is_new"]]
    table = Table(frame, kinds={"city": "one-hot", "is_new": "one-hot"})
    x = table.encode(frame)
    assert x.shape == (400, 6)
    np.testing.assert_array_equal(x[:, :3], Table(frame).encode_context(frame)[:, :3])
    np.testing.assert_array_equal(table.encode_context(frame), Table(frame).encode_context(frame))
    pd.testing.assert_frame_equal(table.decode(x), frame)
    copy = Table.from_config(json.loads(json.dumps(table.get_config())))
    assert copy.columns == table.columns
    model = FlowModel([copy.make_layer()])
    names = ["city=Aachen", "city=Bonn", "city=Köln", "height", "is_new=False", "is_new=True"]
    assert list(model._flow_layers_[0].names) == names
    # Categories are equally likely in the density of a flow that does not change the noise.
    only = table.make_layer()
    z = (frame["height"] - frame["height"].mean()) / frame["height"].std(ddof=0)
    expected = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) - np.log(frame["height"].std(ddof=0))
    log_prob = to_numpy(FlowModel([only]).log_prob(x))
    np.testing.assert_allclose(log_prob, expected - np.log(3 * 2), rtol=1e-4)
    samples = table.decode(model(x)[0])  # not inverted, but the largest entry tells
    pd.testing.assert_series_equal(samples["city"], frame["city"])
    assert set(table.decode(model.sample(100, seed=0))["city"]) == {"Aachen", "Bonn", "Köln"}


def test_contexts_are_standardised_numbers_and_one_hot_codes():
    frame = make_frame()[["height", "city", "price"]]
    context = Table(frame).encode_context(frame)
    np.testing.assert_allclose(context[:, 0].mean(), 0.0, atol=1e-6)
    np.testing.assert_allclose(context[:, 0].std(), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(context[:, 1:4].argmax(axis=1), Table(frame).encode(frame)[:, 1])
    np.testing.assert_array_equal(context[:, 1:4].sum(axis=1), 1.0)
    np.testing.assert_allclose(np.median(context[:, 4]), 0.0, atol=1e-2)


def test_configurations_are_json_and_make_an_equal_table(table):
    copy = Table.from_config(json.loads(json.dumps(table.get_config())))
    assert copy.columns == table.columns
    pd.testing.assert_frame_equal(
        copy.decode(table.encode(make_frame())), make_frame(), check_dtype=False
    )


def test_columns_whose_names_are_integers_survive_json_and_keep_their_layers():
    named = make_frame()[["price", "visits", "city"]]
    frame = named.set_axis([1, 0, 2], axis=1)
    kinds = {2: "one-hot"}
    table = Table(frame, kinds=kinds)
    copy = Table.from_config(json.loads(json.dumps(table.get_config())))
    assert copy.columns == table.columns
    x = copy.encode(frame)
    pd.testing.assert_frame_equal(copy.decode(x), frame, check_dtype=False)
    expected = Table(named, kinds={"city": "one-hot"})
    np.testing.assert_array_equal(x, expected.encode(named))
    layer, other = copy.make_layer(), expected.make_layer()
    assert layer.names == ("1", "0", "2=Aachen", "2=Bonn", "2=Köln")
    # Noise is added to other columns than that of the price.
    z, expected_z = (to_numpy(each(x)[0])[:, 0] for each in (layer, other))
    np.testing.assert_allclose(z, expected_z, rtol=1e-6)


def test_configurations_with_columns_in_a_dictionary_are_read(table):
    config = json.loads(json.dumps({"columns": dict(table.get_config()["columns"])}))
    assert Table.from_config(config).columns == table.columns


@pytest.mark.parametrize(
    ("columns", "options", "error", "message"),
    [
        ({"a": [1.0, 1.0]}, {}, ValueError, "Column 'a' should have several values.*1.0 only"),
        ({"a": ["x", "x"]}, {}, ValueError, "Column 'a' should have several values.*'x' only"),
        ({"a": [1.0, None]}, {}, ValueError, r"no missing values.*1 missing.* in row 1 \(c"),
        ({"a": list(map(str, range(30)))}, {}, ValueError, "'a' should have few categories"),
        (
            {"a": [f"${i}.5" for i in range(1000, 1030)]},
            {},
            ValueError,
            r"few categories: `pd.to_numeric\(frame\['a'\]\)` makes .*30 categories.* '\$1000.5'",
        ),
        ({"a": [f"2020-01-{i:02}" for i in range(1, 31)]}, {}, ValueError, "leave it out, or pass"),
        ({"a": ["1.5", "2"]}, {"kinds": {"a": "real"}}, TypeError, "`pd.to_numeric` .*: '1.5'"),
        ({"a": [True, False]}, {"kinds": {"a": "count"}}, TypeError, "hold numbers, strings or B"),
        ({"a": pd.to_datetime(["2020", "2021"])}, {}, TypeError, "Column 'a' should hold numb"),
        (
            {"a": [1.0, -2.0]},
            {"kinds": {"a": "positive"}},
            ValueError,
            r"positive, finite num.*-2 in row 1 \(",
        ),
        ({"a": [1.5, 2.0]}, {"kinds": {"a": "count"}}, ValueError, "hold whole numbers.*1.5"),
        ({"a": [1.5, 2.0]}, {"bounds": {"a": (0, 1)}}, ValueError, "from 0 to 1. Received: 1.5"),
        ({"a": [1.5, 2.0]}, {"kinds": {"a": "int"}}, ValueError, "`kinds` should be one of"),
        ({"a": [1.5, 2.0]}, {"kinds": {"b": "real"}}, ValueError, r"Received: \['b'\]"),
        ({"a": []}, {}, ValueError, "`frame` should have rows"),
    ],
)
def test_columns_that_no_density_fits_are_named(columns, options, error, message):
    with pytest.raises(error, match=message):
        Table(pd.DataFrame(columns), **options)


def test_all_columns_with_problems_are_named_at_once():
    frame = pd.DataFrame({"a": [1.0, 1.0], "b": [1.0, 2.0], "c": [1.0, None], "d": ["x", "x"]})
    with pytest.raises(ValueError, match=r"(?s)'a' should have several.*'c' .*missing.*'d' should"):
        Table(frame)
    table = Table(pd.DataFrame({"a": [1.5, 2.0], "b": [-1.0, 2.0], "c": [2.5, 3.0]}))
    with pytest.raises(ValueError, match=r"(?s)Column 'a' .*positive, finite.*with the column 'c'"):
        table.encode(pd.DataFrame({"a": [np.inf, 2.0], "b": [1.0, 1.0]}))


def test_rows_that_the_table_does_not_know_are_rejected(table):
    frame = make_frame(5)
    with pytest.raises(ValueError, match=r"Column 'city' should hold .*Received: \['Wien'\]"):
        table.encode(frame.assign(city="Wien"))
    with pytest.raises(ValueError, match="Column 'share' should hold numbers from 0 to 1"):
        table.encode(frame.assign(share=2.0))
    with pytest.raises(ValueError, match="with the column 'stars'"):
        table.encode(frame.drop(columns="stars"))
    with pytest.raises(ValueError, match=r"`x` should have shape \[rows, 10\]"):
        table.decode(np.zeros([2, 3]))
    with pytest.raises(TypeError, match="`frame` should be a data frame"):
        Table(np.zeros([2, 2]))


def test_layers_are_saved_with_a_model(table, tmp_path):
    x = table.encode(make_frame())[:, :3]
    frame = make_frame()[["height", "price", "share"]]
    model = FlowModel([Table(frame).make_layer()])
    expected = to_numpy(model.log_prob(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(to_numpy(loaded.log_prob(frame)), expected, rtol=1e-5)
