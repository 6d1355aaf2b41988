import keras
import numpy as np
import pytest
from keras import layers

from gyoza.interpretation.parts import (
    find_partnered,
    make_pairs,
    read_hidden,
    to_columns,
    to_inputs,
    to_names,
    to_parts,
)


@pytest.fixture(scope="module")
def network():
    return keras.Sequential(
        [keras.Input([3]), layers.Dense(4, name="hidden"), layers.Reshape([2, 2])]
    )


def test_parts_are_given_or_split(network):
    x = np.random.default_rng(0).normal(size=[5, 3]).astype("float32")
    head, tail = to_parts(network, "hidden")
    assert to_parts((head, tail)) == (head, tail)
    assert to_parts([head, tail]) == (head, tail)
    np.testing.assert_allclose(
        tail.predict(head.predict(x, verbose=0), verbose=0), network.predict(x, verbose=0)
    )
    hidden = read_hidden(network, x)  # as vectors
    np.testing.assert_allclose(hidden, head.predict(x, verbose=0), rtol=1e-6)
    np.testing.assert_allclose(read_hidden(layers.Rescaling(2.0), x), 2.0 * x)


def test_networks_of_several_inputs():
    x = np.random.default_rng(0).normal(size=[5, 3])
    for inputs in ({"a": x, "b": x.tolist()}, {"b": x.astype("float32"), "a": x}):
        hidden = read_hidden(lambda x: x["a"] - 2.0 * x["b"], inputs, batch_size=2)
        np.testing.assert_allclose(hidden, -x, rtol=1e-5)
    hidden = read_hidden(lambda x: x[0] - 2.0 * x[1], (x, x), batch_size=2)
    np.testing.assert_allclose(hidden, -x, rtol=1e-5)
    assert to_inputs([x, x]).shape == (2, 5, 3)  # a list is an array
    for inputs in ({"a": x, "b": x[:4]}, 1.0, {}):
        with pytest.raises(ValueError, match="the same number in each of several inputs"):
            read_hidden(lambda x: x, inputs)


def test_wrong_parts(network):
    with pytest.raises(TypeError, match="a head and a tail"):
        to_parts((network, None))
    with pytest.raises(TypeError, match="a head and a tail"):
        to_parts((network,))
    with pytest.raises(ValueError, match="`layer` should be omitted"):
        to_parts((network, network), "hidden")
    with pytest.raises(ValueError, match="`layer` should say where"):
        to_parts(network)


def test_columns_are_classes_or_numbers():
    labels = np.array([["a", 0.5, 2.0], ["b", 1.5, 3.0], ["a", 2.5, 7.0]], dtype=object)
    word, number, whole = to_columns(labels, 3)
    assert word.tolist() == [0, 1, 0]
    assert whole.tolist() == [0, 1, 2]
    assert number.dtype == "float64"
    assert number.tolist() == [0.5, 1.5, 2.5]
    assert [column.tolist() for column in to_columns([True, False, True], 3)] == [[1, 0, 1]]
    with pytest.raises(ValueError, match="should have shape"):
        to_columns(labels, 4)


def test_names():
    assert to_names(None, 2) == ["factor_1", "factor_2"]
    assert to_names("shape", 1) == ["shape"]
    with pytest.raises(ValueError, match=r"other than 'residual'.*2 columns"):
        to_names(["a", "residual"], 2)


def test_pairs_share_a_class_or_a_part_of_a_range():
    random = np.random.default_rng(0)
    columns = to_columns(
        np.stack([random.integers(3, size=2000), random.normal(size=2000)], axis=1), 2000
    )
    pairs = make_pairs(np.stack(columns, axis=1), columns, correlation=0.8, batch_size=2000)
    (a, b), y = pairs[0]
    np.testing.assert_allclose(y.max(axis=0), [0.0, 0.8, 0.8], rtol=1e-6)
    of_class, of_number = y[:, 1] > 0, y[:, 2] > 0
    assert np.all(a[of_class, 0] == b[of_class, 0])
    assert np.mean(a[of_number, 0] == b[of_number, 0]) < 0.4
    assert np.corrcoef(a[of_number, 1], b[of_number, 1])[0, 1] > 0.95
    assert abs(np.corrcoef(a[of_class, 1], b[of_class, 1])[0, 1]) < 0.1


def test_instances_alone_in_a_class_are_left_out_of_pairs():
    # Without the last instance, which is alone in the first factor, the first one is alone in
    # the second factor.
    columns = [np.array([0, 0, 1, 1, 0, 2]), np.array([2, 0, 1, 1, 0, 2])]
    stays = find_partnered(np.stack(columns, axis=1))
    assert stays.tolist() == [False, True, True, True, True, False]
    pairs = make_pairs(np.arange(6.0)[:, None], columns)
    assert sorted(pairs[0][0][0][:, 0]) == [1.0, 2.0, 3.0, 4.0]
    for lonely in ([0, 1, 2], [0, 0, 1]):
        with pytest.raises(ValueError, match="several instances each"):
            make_pairs(np.zeros([3, 1]), [np.array(lonely)])
