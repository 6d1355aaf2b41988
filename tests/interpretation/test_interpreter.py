import re

import keras
import numpy as np
import pytest
from keras import layers, ops

from gyoza.interpretation import Interpreter, split_network
from gyoza.modelling import conditioners, distributions, flow_layers

SIZES = {"residual": 3, "shape": 2, "colour": 1}
A, B = np.random.default_rng(0).normal(size=[2, 5, 4]).astype("float32")


def make_flow(x, layer_list=()):
    network = conditioners.MLP([8])
    flow = flow_layers.FlowModel(
        [
            *layer_list,
            flow_layers.ActivationNormalization(),
            flow_layers.AffineCoupling(conditioner=network),
            flow_layers.Reflection(reflection_count=4),
        ]
    )
    flow.adapt(x)
    random = np.random.default_rng(0)
    for variable in network.trainable_variables:  # the last layer starts at zero
        variable.assign(0.3 * random.normal(size=variable.shape))
    return flow


@pytest.fixture(scope="module")
def network():
    return keras.Sequential(
        [keras.Input([4]), layers.Dense(6, "tanh", name="hidden"), layers.Dense(3, "softmax")]
    )


@pytest.fixture(scope="module")
def interpreter(network):
    head, _ = split_network(network, "hidden")
    x = np.random.default_rng(1).normal(size=[64, 4]).astype("float32")
    return Interpreter.from_network(network, "hidden", make_flow(head(x)), SIZES)


def run(model, x):
    return ops.convert_to_numpy(model(x))


def read(interpreter, hidden):
    """Returns the factors of hidden representations."""
    z = ops.convert_to_numpy(interpreter.flow(hidden)[0])
    return dict(zip(SIZES, np.split(z, np.cumsum(list(SIZES.values()))[:-1], axis=1), strict=True))


def assert_outputs(interpreter, outputs, factors):
    """Checks that the tail returns `outputs` for `factors`."""
    hidden = interpreter.to_hidden(factors)
    np.testing.assert_allclose(outputs, run(interpreter.tail, hidden), atol=1e-4)
    for name, block in read(interpreter, hidden).items():
        np.testing.assert_allclose(block, factors[name], atol=1e-4)


def test_factors_are_blocks_of_the_latent(interpreter, network):
    factors = interpreter.encode(A)
    assert {name: block.shape for name, block in factors.items()} == {
        "residual": (5, 3),
        "shape": (5, 2),
        "colour": (5, 1),
    }
    for name, block in read(interpreter, interpreter.head(A)).items():
        np.testing.assert_allclose(factors[name], block, atol=1e-5)
    for outputs in (interpreter.decode(factors), run(interpreter, A)):
        np.testing.assert_allclose(outputs, run(network, A), atol=1e-5)


def test_batches_do_not_matter(interpreter):
    small = Interpreter(interpreter.head, interpreter.flow, interpreter.tail, SIZES, batch_size=2)
    np.testing.assert_allclose(
        small.swap(A, B, "shape"), interpreter.swap(A, B, "shape"), atol=1e-5
    )


def test_swap(interpreter, network):
    a, b = interpreter.encode(A), interpreter.encode(B)
    outputs = interpreter.swap(A, B, ["shape", "residual"])
    assert_outputs(interpreter, outputs, {**b, "colour": a["colour"]})
    hidden = interpreter.swap(A, B, ["shape", "residual"], hidden=True)
    np.testing.assert_allclose(run(interpreter.tail, hidden), outputs, atol=1e-5)
    np.testing.assert_allclose(interpreter.swap(A, B, list(SIZES)), run(network, B), atol=1e-5)


def test_edit(interpreter):
    outputs = interpreter.edit(A, "shape", [0.5, -1.0])
    expected = {**interpreter.encode(A), "shape": np.tile([0.5, -1.0], [5, 1])}
    assert_outputs(interpreter, outputs, expected)
    hidden = interpreter.edit(A, "shape", [0.5, -1.0], hidden=True)
    np.testing.assert_allclose(run(interpreter.tail, hidden), outputs, atol=1e-5)


def test_traverse_moves_along_one_direction(interpreter):
    outputs = interpreter.traverse(A, "shape", steps=[-1.0, 2.0], direction=[3.0, 4.0])
    factors = interpreter.encode(A)
    direction = np.array([0.6, 0.8])
    across = np.array([-0.8, 0.6])
    for place, of_place in zip([-1.0, 2.0], outputs, strict=True):
        block = place * direction + (factors["shape"] @ across)[:, None] * across
        assert_outputs(interpreter, of_place, {**factors, "shape": block})
    assert interpreter.traverse(A, "colour", steps=4).shape == (4, 5, 3)


def test_interpolate_keeps_to_the_shell(interpreter, network):
    outputs = interpreter.interpolate(A, B, steps=3)
    np.testing.assert_allclose(outputs[0], run(network, A), atol=1e-5)
    np.testing.assert_allclose(outputs[2], run(network, B), atol=1e-5)
    a, b = interpreter.encode(A), interpreter.encode(B)
    middle = {}
    for name in SIZES:
        sum_, lengths = a[name] + b[name], [np.linalg.norm(x[name], axis=1) for x in (a, b)]
        if SIZES[name] == 1:
            middle[name] = sum_ / 2
        else:  # between unit vectors, the arc passes through their normalised mean
            mean = sum(x[name] / length[:, None] for x, length in zip((a, b), lengths, strict=True))
            mean /= np.linalg.norm(mean, axis=1, keepdims=True)
            middle[name] = mean * np.mean(lengths, axis=0)[:, None]
    assert_outputs(interpreter, outputs[1], middle)
    only = interpreter.interpolate(A, B, steps=[1.0], factors="colour")
    np.testing.assert_allclose(only[0], interpreter.swap(A, B, "colour"), atol=1e-5)


def test_resample_draws_from_the_base_distribution(interpreter):
    outputs = interpreter.resample(A, "shape", sample_count=3, seed=7)
    z = ops.convert_to_numpy(interpreter.flow.base_distribution.sample(15, seed=7))
    factors = interpreter.encode(A)
    for of_draw, block in zip(outputs, z.reshape(3, 5, 6)[..., 3:5], strict=True):
        assert_outputs(interpreter, of_draw, {**factors, "shape": block})


@pytest.mark.parametrize(
    "edit",
    [
        lambda interpreter, **options: interpreter.traverse(A, "shape", 3, **options),
        lambda interpreter, **options: interpreter.interpolate(A, B, 3, "shape", **options),
        lambda interpreter, **options: interpreter.resample(A, "shape", 3, seed=7, **options),
    ],
    ids=["traverse", "interpolate", "resample"],
)
def test_edits_in_several_steps_return_hidden_representations(interpreter, edit):
    hidden = edit(interpreter, hidden=True)
    assert hidden.shape == (3, *interpreter.head(A).shape)
    for of_step, outputs in zip(hidden, edit(interpreter), strict=True):
        np.testing.assert_allclose(run(interpreter.tail, of_step), outputs, atol=1e-5)


@pytest.mark.parametrize("how", ["mean", "resample"])
def test_erase_changes_nothing_else(interpreter, how):
    factors = interpreter.encode(A)
    z = ops.convert_to_numpy(interpreter.flow.base_distribution.sample(5, seed=3))
    z = z if how == "resample" else np.zeros_like(z)
    erased = {**factors, "shape": z[:, 3:5], "colour": z[:, 5:]}
    hidden = interpreter.erase(A, ["shape", "colour"], how, seed=3, hidden=True)
    np.testing.assert_array_equal(hidden, interpreter.to_hidden(erased))
    assert_outputs(interpreter, interpreter.erase(A, ["shape", "colour"], how, seed=3), erased)


def explain(hidden, numbers):
    """Returns the share of the variance of numbers that the best linear probe explains."""
    design = np.concatenate([hidden, np.ones([len(hidden), 1])], axis=1)
    residuals = numbers - design @ np.linalg.lstsq(design, numbers, rcond=None)[0]
    return 1.0 - residuals.var(axis=0) / numbers.var(axis=0)


def test_what_is_erased_cannot_be_read():
    base_mean = 2.0
    linear = flow_layers.TriangularAffine([4])
    linear.factors.assign(np.random.default_rng(0).normal(size=[4, 4]))
    base = distributions.DiagonalNormal([4], location=base_mean)
    flow = flow_layers.FlowModel([linear, flow_layers.Reflection([4], reflection_count=3)], base)
    flow.build((None, 4))
    identity = keras.Sequential([keras.Input([4]), layers.Identity()])
    interpreter = Interpreter(identity, flow, identity, {"residual": 2, "size": 1, "hue": 1})
    z = base_mean + np.random.default_rng(1).normal(size=[2000, 4]).astype("float32")
    x = run(flow.invert, z)
    np.testing.assert_allclose(explain(x, z), 1.0, atol=1e-4)
    for how in ("mean", "resample"):
        hidden = interpreter.erase(x, "size", how, seed=0, hidden=True)
        np.testing.assert_allclose(explain(hidden, z), [1.0, 1.0, 0.0, 1.0], atol=5e-3)
        np.testing.assert_allclose(interpreter.encode(hidden)["size"].mean(), 2.0, atol=0.06)


@pytest.mark.parametrize("flatten", [False, True])
def test_hidden_representations_with_spatial_axes(flatten):
    network = keras.Sequential(
        [
            keras.Input([4, 4, 1]),
            layers.Conv2D(3, 3, name="hidden"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    x = np.random.default_rng(0).normal(size=[32, 4, 4, 1]).astype("float32")
    head, tail = split_network(network, "hidden")
    hidden = ops.convert_to_numpy(head(x))
    layer_list = [flow_layers.Flatten()] if flatten else []
    flow = make_flow(hidden if flatten else hidden.reshape(32, -1), layer_list)
    interpreter = Interpreter(head, flow, tail, [8, 4])
    factors = interpreter.encode(x)
    assert list(factors) == ["residual", "factor_1"]
    np.testing.assert_allclose(interpreter.to_hidden(factors), hidden, atol=1e-5)
    np.testing.assert_allclose(interpreter.decode(factors), run(network, x), atol=1e-5)


def test_thin_directions_of_a_grid_that_skip_the_flow():
    network = keras.Sequential(
        [
            keras.Input([3, 3, 1]),
            layers.Conv2D(3, 2, activation="relu", name="hidden"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    head, tail = split_network(network, "hidden")
    x = np.random.default_rng(0).normal(size=[64, 3, 3, 1]).astype("float32")
    hidden = run(head, x)
    rotation = flow_layers.PrincipalRotation()
    flow = flow_layers.FlowModel(
        [
            rotation,
            flow_layers.FactorOut(flow_layers.FlowModel([flow_layers.LULinear()]), kept_count=4),
        ]
    )
    flow.adapt(hidden.reshape(64, -1))
    interpreter = Interpreter(head, flow, tail, {"residual": 9, "shape": 3})
    factors = interpreter.encode(x)
    np.testing.assert_allclose(interpreter.to_hidden(factors), hidden, atol=1e-5)
    np.testing.assert_allclose(interpreter.decode(factors), run(network, x), atol=1e-5)
    thin = run(lambda h: rotation(h)[0], hidden.reshape(64, -1))[:, 4:]
    np.testing.assert_allclose(factors["residual"][:, :8], thin, atol=1e-5)
    erased = interpreter.erase(x, "shape", hidden=True).reshape(64, -1)
    np.testing.assert_allclose(run(lambda h: rotation(h)[0], erased)[:, 4:], thin, atol=1e-5)
    assert np.max(np.abs(erased - hidden.reshape(64, -1))) > 0.1


def test_integers_as_inputs():
    head = keras.Sequential([keras.Input([3], dtype="int32"), layers.Embedding(5, 2)])
    tail = keras.Sequential([keras.Input([3, 2]), layers.Flatten(), layers.Dense(2)])
    x = np.random.default_rng(0).integers(5, size=[16, 3])
    hidden = ops.convert_to_numpy(head(x)).reshape(16, -1)
    interpreter = Interpreter(head, make_flow(hidden), tail, SIZES)
    outputs = interpreter.decode(interpreter.encode(x))
    np.testing.assert_allclose(outputs, run(tail, head(x)), atol=1e-5)


def test_several_inputs_and_lists(network, interpreter):
    inputs = {"b": keras.Input([2], name="b"), "a": keras.Input([2], name="a")}
    joined = interpreter.head(layers.Concatenate()([inputs["a"], inputs["b"]]))
    head = keras.Model(inputs, joined)
    several = Interpreter(head, interpreter.flow, interpreter.tail, SIZES, batch_size=2)
    expected = interpreter.swap(A, B, "shape")
    a, b = ({"a": x[:, :2], "b": x[:, 2:].tolist()} for x in (A, B))
    np.testing.assert_allclose(several.swap(a, b, "shape"), expected, atol=1e-5)
    np.testing.assert_allclose(several.decode(several.encode(a)), run(network, A), atol=1e-5)
    as_lists = interpreter.swap(A.tolist(), B.tolist(), "shape")
    np.testing.assert_allclose(as_lists, expected, atol=1e-5)
    with pytest.raises(ValueError, match="the same number in each of several inputs"):
        several.encode({**a, "b": A[:3, 2:]})


def test_saved_and_loaded(interpreter, tmp_path):
    interpreter.save(tmp_path / "interpreter.keras")
    loaded = keras.models.load_model(tmp_path / "interpreter.keras")
    assert loaded.dimensions_per_factor == SIZES
    np.testing.assert_allclose(
        loaded.swap(A, B, "shape"), interpreter.swap(A, B, "shape"), atol=1e-6
    )


def test_bad_parts(interpreter):
    head, flow, tail = interpreter.head, interpreter.flow, interpreter.tail
    with pytest.raises(ValueError, match=r"number of latent dimensions, 6.*'factor_1': 2"):
        Interpreter(head, flow, tail, [3, 2])
    with pytest.raises(ValueError, match="`flow` should be built"):
        Interpreter(head, flow_layers.FlowModel([flow_layers.Flatten()]), tail, SIZES)
    with pytest.raises(TypeError, match="FlowModel"):
        Interpreter(head, tail, tail, SIZES)
    with pytest.raises(TypeError, match="head"):
        Interpreter(len, flow, tail, SIZES)
    images = flow_layers.FlowModel([flow_layers.Squeeze()], distributions.StandardNormal())
    images.build((None, 2, 2, 3))
    with pytest.raises(ValueError, match="latent vectors"):
        Interpreter(head, images, tail, [12])
    narrow = keras.Sequential([keras.Input([4]), layers.Dense(5)])
    with pytest.raises(ValueError, match="`head` should return what `flow` takes"):
        Interpreter(narrow, flow, tail, SIZES)


@pytest.mark.parametrize(
    "make_head",
    [lambda: keras.Sequential([keras.Input([6]), layers.Identity()]), lambda: layers.Dense(6)],
)
def test_inputs_of_another_shape(interpreter, make_head):
    x, head = np.random.default_rng(0).normal(size=[5, 6]).astype("float32"), make_head()
    head(x)
    of_six = Interpreter(head, interpreter.flow, interpreter.tail, SIZES)
    for model, good in ((interpreter, A), (of_six, x)):
        assert model.encode(good)["shape"].shape == (5, 2)
        for bad in (good[0], good[:, 1:]):
            shapes = [re.escape(str(shape)) for shape in ((None, good.shape[1]), bad.shape)]
            message = "inputs of the head, of shape {}: .* Received: x of shape {}$"
            for run in (model.encode, lambda x, model=model: model.swap(x, x, "shape")):
                with pytest.raises(ValueError, match=message.format(*shapes)):
                    run(bad)


def test_bad_edits(interpreter):
    with pytest.raises(ValueError, match=r"\['residual', 'shape', 'colour'\].*'mood'"):
        interpreter.swap(A, B, "mood")
    with pytest.raises(ValueError, match=r"same number of instances\. Received: 5 and 4"):
        interpreter.swap(A, B[:4], "shape")
    with pytest.raises(ValueError, match=r"\['residual', 'shape', 'colour'\]. Received: 1$"):
        interpreter.swap(A, B, 1)
    with pytest.raises(ValueError, match="broadcasts"):
        interpreter.edit(A, "shape", np.zeros([5, 3]))
    with pytest.raises(ValueError, match="direction"):
        interpreter.traverse(A, "shape", direction=[1.0])
    with pytest.raises(ValueError, match=r"'mean' or 'resample'.*'zero'"):
        interpreter.erase(A, "shape", how="zero")
    factors = interpreter.encode(A)
    with pytest.raises(ValueError, match="should hold the factors"):
        interpreter.decode({"shape": factors["shape"]})
    with pytest.raises(ValueError, match="same number of instances"):
        interpreter.decode({**factors, "shape": factors["shape"][:2]})
    for steps in (0, -1, 2.5):
        for move in (
            lambda steps: interpreter.traverse(A, "shape", steps),
            lambda steps: interpreter.interpolate(A, B, steps),
            lambda steps: interpreter.counterfactual(A, 0, steps=steps),
        ):
            with pytest.raises(ValueError, match=f"`steps` should be an integer.*={steps}"):
                move(steps)
    with pytest.raises(ValueError, match="`sample_count` should be an integer"):
        interpreter.resample(A, "shape", 0)
