import keras
import numpy as np
import pytest
from keras import layers, ops

from gyoza.interpretation import split_network

X = np.random.default_rng(0).normal(size=[5, 6]).astype("float32")


def run(model, x):
    return ops.convert_to_numpy(model(x))


def make_functional(skip=False):
    inputs = keras.Input([6])
    hidden = layers.Dense(5, activation="tanh", name="hidden")(inputs)
    middle = layers.Dense(5, name="middle")(hidden)
    if skip:
        middle = layers.Add(name="join")([hidden, middle])
    return keras.Model(inputs, layers.Dense(2, name="last")(ops.relu(middle)), name="network")


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(5, name="hidden")
        self.dropout = layers.Dropout(0.5)
        self.last = layers.Dense(2)

    def call(self, x, training=None):
        x = self.dropout(ops.tanh(self.hidden(x)), training=training)
        return self.last(x)


def make_subclassed():
    model = Subclassed()
    model(X)
    return model


def make_sequential():
    return keras.Sequential([keras.Input([6]), layers.Dense(5, name="hidden"), layers.Dense(2)])


@pytest.mark.parametrize(
    "make", [make_sequential, make_functional, lambda: make_functional(True), make_subclassed]
)
def test_parts_share_weights_and_compose_to_the_network(make):
    network = make()
    name = "join" if "join" in {layer.name for layer in network.layers} else "hidden"
    head, tail = split_network(network, name)
    assert head(X).shape == (5, 5)
    np.testing.assert_allclose(run(tail, head(X)), run(network, X), rtol=1e-5, atol=1e-6)
    parts = {id(variable) for part in (head, tail) for variable in part.trainable_variables}
    assert parts == {id(variable) for variable in network.trainable_variables}


def test_tail_is_what_follows():
    network = make_functional()
    _, tail = split_network(network, "middle")
    hidden = np.random.default_rng(1).normal(size=[3, 5]).astype("float32")
    kernel, bias = (ops.convert_to_numpy(w) for w in network.get_layer("last").weights)
    np.testing.assert_allclose(
        run(tail, hidden), np.maximum(hidden, 0) @ kernel + bias, rtol=1e-5, atol=1e-6
    )


def test_layers_of_inner_models():
    inner = make_functional()
    network = keras.Sequential([keras.Input([6]), layers.Dense(6), inner, layers.Dense(3)])
    head, tail = split_network(network, "network/hidden")
    assert head.output_shape == (None, 5)
    np.testing.assert_allclose(run(tail, head(X)), run(network, X), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="path through models"):
        split_network(inner, "hidden/inner")


@pytest.mark.parametrize("outer", [[], [layers.Dense(3)]], ids=["at the end", "before a layer"])
def test_ends_of_inner_models(outer):
    inner = make_functional()
    network = keras.Sequential([keras.Input([6]), layers.Dense(6), inner, *outer])
    head, tail = split_network(network, "network/middle")
    np.testing.assert_allclose(run(tail, head(X)), run(network, X), rtol=1e-5, atol=1e-6)
    last = inner.get_layer("last")
    if outer:
        head, tail = split_network(network, last)
        np.testing.assert_allclose(run(head, X), run(inner, run(network.layers[0], X)), rtol=1e-5)
        np.testing.assert_allclose(run(tail, head(X)), run(network, X), rtol=1e-5, atol=1e-6)
    else:
        with pytest.raises(ValueError, match="'last' should have other layers after it"):
            split_network(network, last)


def test_layer_by_name_index_and_object():
    innermost = keras.Sequential([keras.Input([6]), layers.Dense(4), layers.Dense(6)], name="deep")
    inner = keras.Sequential([keras.Input([6]), innermost, layers.Dense(6)], name="inner")
    network = keras.Sequential([keras.Input([6]), layers.Dense(6), inner, layers.Dense(2)])
    for layer, path in [
        (0, network.layers[0].name),
        (np.int64(-2), "inner"),
        (inner, "inner"),
        (inner.layers[0], "inner/deep"),
        (innermost.layers[0], f"inner/deep/{innermost.layers[0].name}"),
    ]:
        parts, expected = split_network(network, layer), split_network(network, path)
        for part, other in zip(parts, expected, strict=True):
            assert part.output_shape == other.output_shape
        np.testing.assert_array_equal(run(parts[0], X), run(expected[0], X))
    with pytest.raises(ValueError, match=r"index of the 3 layers of .* Received: layer=3"):
        split_network(network, 3)
    with pytest.raises(ValueError, match=r"or be part of one that is a model.* layer='elsewhere'"):
        split_network(network, layers.Dense(2, name="elsewhere"))
    with pytest.raises(TypeError, match=r"name, an index, or a Keras layer.* layer=1\.5"):
        split_network(network, 1.5)


@pytest.mark.parametrize("pack", [list, tuple, lambda x: dict(zip("ab", x, strict=True))])
def test_several_inputs(pack):
    a, b = keras.Input([6], name="a"), keras.Input([3], name="b")
    joined = layers.Concatenate()([layers.Dense(2)(a), b])
    outputs = layers.Dense(2)(layers.Dense(5, name="hidden")(joined))
    network, x = keras.Model(pack([a, b]), outputs), pack([X, X[:, :3]])
    head, tail = split_network(network, "hidden")
    np.testing.assert_allclose(run(tail, head(x)), run(network, x), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="outputs of 'b' bypass it"):
        split_network(network, 1 + network.layers.index(network.get_layer("a")))


@pytest.mark.filterwarnings("error:.*structure of `inputs`")
def test_lists_of_one_as_keras_2_saved_them(tmp_path):
    inputs = keras.Input([6])
    outputs = layers.Dense(2)(layers.BatchNormalization(name="hidden")(inputs))
    keras.Model([inputs], [outputs]).save(tmp_path / "network.h5")
    network = keras.models.load_model(tmp_path / "network.h5", compile=False)
    head, tail = split_network(network, "hidden")
    assert head.output.shape == (None, 6)
    assert tail.output.shape == (None, 2)
    np.testing.assert_allclose(run(tail, head(X)), run(network, [X]), rtol=1e-5, atol=1e-6)


def test_subclass_that_does_not_know_the_shape_of_its_inputs():
    class Building(Subclassed):
        def build(self):
            self.hidden.build([None, 6])
            self.last.build([None, 5])

    network = Building()
    network.build()
    head, tail = split_network(network, "hidden")
    np.testing.assert_allclose(run(tail, head(X)), run(network, X), rtol=1e-5, atol=1e-6)

    class Weightless(Building):
        def build(self):
            pass

    network = Weightless()
    network.build()
    with pytest.raises(ValueError, match=r"split `keras\.Model\(x, .*do not know the shape"):
        split_network(network, "hidden")


def test_inner_model_that_is_called_by_keyword():
    inner, inputs = make_functional(), keras.Input([6])
    network = keras.Model(inputs, layers.Dense(3)(inner(training=False, inputs=inputs)))
    head, tail = split_network(network, "network/hidden")
    np.testing.assert_allclose(run(tail, head(X)), run(network, X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("take", "x"),
    [(lambda x: x[0] + 2.0 * x[1], [X, X[::-1]]), (lambda x: x["a"] * x["b"], {"a": X, "b": -X})],
    ids=["list", "dictionary"],
)
def test_subclass_whose_argument_has_several_tensors(take, x):
    class Joined(Subclassed):
        def call(self, inputs):
            return super().call(take(inputs))

    network = Joined()
    network(x)
    head, tail = split_network(network, "hidden")
    np.testing.assert_allclose(run(tail, head(x)), run(network, x), rtol=1e-5, atol=1e-6)


def call_by_condition(self, x):
    hidden = self.hidden(x)
    return self.last(ops.cond(ops.sum(x) > 0, lambda: hidden, lambda: -hidden))


@pytest.mark.parametrize(
    ("call", "count", "reason"),
    [
        (
            lambda self, x: self.last(x if ops.sum(self.hidden(x)) > 0 else -x),
            1,
            r"TypeError(| on inputs of shape \(5, 6\), like those of layer 'hidden'): .* boolean",
        ),
        (
            lambda self, x: self.last(float(ops.sum(x)) * self.hidden(x)),
            1,
            "a `call` that raises",
        ),
        (call_by_condition, 1, "'?cond|Cond"),
        (lambda self, a, b: self.last(self.hidden(a + b)), 2, "TypeError: .*argument: 'b'"),
        (lambda self, x: (self.last(self.hidden(x)), "name"), 1, "something other than tensors"),
        (
            lambda self, x: self.last(self.hidden(np.abs(ops.convert_to_numpy(x)))),
            1,
            "a `call` that raises",
        ),
    ],
    ids=["branches on data", "number", "condition", "two arguments", "no tensor", "NumPy"],
)
def test_subclass_that_cannot_be_traced(call, count, reason):
    network = type("Traced", (Subclassed,), {"call": call})()
    network(*count * [X])
    with pytest.raises(
        ValueError,
        match=f"'traced.*' should have a single argument .*does not branch .*Received: .*{reason}",
    ):
        split_network(network, "hidden")


def test_images_and_several_outputs():
    inputs = keras.Input([8, 8, 1])
    hidden = layers.Conv2D(3, 3, name="hidden")(inputs)
    flat = layers.Flatten()(hidden)
    network = keras.Model(inputs, {"a": layers.Dense(2)(flat), "b": layers.Dense(1)(flat)})
    head, tail = split_network(network, "hidden")
    x = np.random.default_rng(0).normal(size=[2, 8, 8, 1]).astype("float32")
    assert head(x).shape == (2, 6, 6, 3)
    expected, results = network(x), tail(head(x))
    for name in ("a", "b"):
        np.testing.assert_allclose(
            ops.convert_to_numpy(results[name]), ops.convert_to_numpy(expected[name]), rtol=1e-5
        )


def test_parts_are_saved(tmp_path):
    head, tail = split_network(make_functional(True), "join")
    expected = run(tail, head(X))
    for name, part in (("head", head), ("tail", tail)):
        part.save(tmp_path / f"{name}.keras")
    head, tail = (keras.models.load_model(tmp_path / f"{n}.keras") for n in ("head", "tail"))
    np.testing.assert_array_equal(run(tail, head(X)), expected)


def test_unknown_layer_lists_those_there_are():
    with pytest.raises(ValueError, match=r"'hidden', 'middle', 'relu.*Received.*'absent'"):
        split_network(make_functional(), "absent")


def test_skip_connection_names_what_crosses_the_cut():
    with pytest.raises(ValueError, match="outputs of 'hidden' bypass it"):
        split_network(make_functional(True), "middle")


def test_output_that_does_not_depend_on_the_layer():
    inputs = keras.Input([6])
    hidden = layers.Dense(5, name="hidden")(inputs)
    network = keras.Model(inputs, [layers.Dense(2)(hidden), layers.Dense(2, name="other")(inputs)])
    with pytest.raises(ValueError, match="outputs of 'other' bypass it"):
        split_network(network, "hidden")


def test_other_bad_input():
    shared = layers.Dense(6, name="shared")
    network = keras.Sequential([keras.Input([6]), shared, layers.ReLU()])
    inputs = keras.Input([6])
    twice = keras.Model(inputs, ops.relu(shared(shared(inputs))))
    with pytest.raises(ValueError, match="used 2 times"):
        split_network(twice, "shared")
    with pytest.raises(ValueError, match="other layers after it"):
        split_network(network, network.layers[-1].name)
    with pytest.raises(ValueError, match="should be built"):
        split_network(Subclassed(), "hidden")
    with pytest.raises(ValueError, match="used 2 times"):
        split_network(twice, shared)
    first, second = (layers.Dense(6, name=name)(inputs) for name in ("a", "b"))
    inner = keras.Model(inputs, [first, second], name="inner")
    with pytest.raises(ValueError, match=r"'inner' .* should have a single output"):
        split_network(keras.Model(inputs, layers.Add()(inner(inputs))), "inner/a")
    with pytest.raises(TypeError, match=r"keras\.Model"):
        split_network(shared, "shared")


def test_name_of_two_layers():
    class Doubled(Subclassed):
        def __init__(self):
            super().__init__()
            self.last = layers.Dense(2, name="hidden")

    network = Doubled()
    network(X)
    with pytest.raises(ValueError, match=r"should be unique .* the name of 2 layers"):
        split_network(network, "hidden")
    head, tail = split_network(network, network.hidden)
    np.testing.assert_allclose(run(tail, head(X)), run(network, X), rtol=1e-5, atol=1e-6)


def test_parts_that_differ_from_the_network():
    class Noisy(layers.Layer):
        def __init__(self):
            super().__init__()
            self.seed_generator = keras.random.SeedGenerator(0)

        def call(self, x):
            return x + keras.random.normal(ops.shape(x), seed=self.seed_generator)

    network = keras.Sequential(
        [keras.Input([6]), layers.Dense(3, name="hidden"), Noisy(), layers.Dense(2)]
    )
    with pytest.raises(ValueError, match="what the network returns"):
        split_network(network, "hidden")
