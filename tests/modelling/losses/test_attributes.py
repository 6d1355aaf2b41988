"""The loss of codes whose attributes are known."""

import keras
import numpy as np
import pytest
import scipy.special
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import jit, vjp
from gyoza.modelling.attributes import AttributeCode
from gyoza.modelling.losses import AttributeLoss

pytestmark = pytest.mark.compiled_by("tensorflow")

ATTRIBUTES = {"shape": 3, "x": None, "scale": 2, "y": None}
LABELS = np.array([[2, 0.25, 1, 0.0], [0, np.nan, -1, 1.0], [-1, 3.0, 0, np.nan]])
UNKNOWN = [[-1, np.nan, np.nan, np.nan]]


def make(**kwargs):
    code = AttributeCode(ATTRIBUTES, dimension_count=9, separation=2.0)
    return AttributeLoss(code, reduction=None, **kwargs)


def codes(count=3):
    return np.random.default_rng(0).normal(scale=3.0, size=(count, 9))


def expected_losses(z, labels):
    """Attribute by attribute, instance by instance."""
    losses = []
    for row, (shape, x, scale, y) in zip(z, labels, strict=True):
        loss = 0.0
        if shape >= 0:
            loss -= scipy.special.log_softmax(2.0 * row[2:5])[int(shape)]
        if scale >= 0:
            loss -= scipy.special.log_softmax(2.0 * row[6:8])[int(scale)]
        loss += sum((z - y) ** 2 for z, y in ((row[5], x), (row[8], y)) if not np.isnan(y))
        losses.append(loss)
    return losses


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_loss_is_that_of_numpy(dtype, tolerance):
    z, loss = codes(), make(dtype=dtype)
    tensors = [ops.convert_to_tensor(array, dtype=dtype) for array in (LABELS, z)]
    for function in (loss, jit(loss), jit(loss, xla=True)):
        received = to_numpy(function(*tensors))
        assert received.dtype == dtype
        np.testing.assert_allclose(received, expected_losses(z, LABELS), rtol=tolerance)


@pytest.mark.parametrize("attributes", [{"a": 2, "b": 3}, {"a": None, "b": None}])
def test_attributes_of_one_kind(attributes):
    code = AttributeCode(attributes, separation=1.0)
    z, labels = codes(4)[:, : code.dimension_count], np.array([[0, 1], [1, 2], [1, 0], [0, 0]])
    if attributes["a"]:
        rows = zip(z, labels, strict=True)
        expected = [
            -scipy.special.log_softmax(row[:2])[a] - scipy.special.log_softmax(row[2:])[b]
            for row, (a, b) in rows
        ]
    else:
        expected = np.sum((z - labels) ** 2, axis=1)
    received = float(to_numpy(AttributeLoss(code)(labels, z)))
    assert received == pytest.approx(np.mean(expected), rel=1e-5)


def test_gradients_are_finite_and_those_of_unknown_attributes_zero():
    z = ops.convert_to_tensor(np.concatenate([codes(), 1e3 * codes(1)]).astype("float32"))
    labels = np.concatenate([LABELS, UNKNOWN]).astype("float32")
    loss = make()
    losses, pullback = vjp(lambda z: loss.call(labels, z), [z])
    gradient = to_numpy(pullback(ops.ones_like(losses))[0])
    assert np.all(np.isfinite(gradient))
    is_known = np.zeros([4, 9], bool)
    is_known[0, 2:] = True
    is_known[1, [2, 3, 4, 8]] = True
    is_known[2, 5:8] = True
    np.testing.assert_array_equal(gradient != 0, is_known)


def test_weights_of_instances_and_dtypes_of_labels():
    """Labels take the dtype of the codes, whatever theirs is."""
    z = ops.convert_to_tensor(codes(), dtype="float32")
    received = to_numpy(make().call(LABELS, z))
    assert received.dtype == "float32"
    weights = np.array([0.5, 0.0, 2.0], "float32")
    np.testing.assert_allclose(to_numpy(make()(LABELS, z, weights)), weights * received, rtol=1e-6)


def test_network_learns_attributes(tmp_path):
    random = np.random.default_rng(0)
    x = random.normal(size=(600, 4)).astype("float32")
    shape, scale = x[:, :3].argmax(axis=1), x[:, 3] > 0
    labels = np.column_stack([shape, x[:, 0], np.where(random.uniform(size=600) < 0.5, scale, -1)])
    code = AttributeCode({"shape": 3, "x": None, "scale": 2})
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(6)])
    model.compile(keras.optimizers.Adam(0.05), loss=AttributeLoss(code))
    model.fit(x, labels, epochs=15, batch_size=60, verbose=0)
    read = to_numpy(code.read(model(x), "argmax"))
    assert np.mean(read[:, 0] == shape) > 0.95
    assert np.mean(read[:, 2] == scale) > 0.95
    np.testing.assert_allclose(read[:, 1], x[:, 0], atol=0.3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.loss.get_config() == model.loss.get_config()
    losses = [to_numpy(m.loss(labels, m(x))) for m in (loaded, model)]
    assert losses[0] == losses[1]


def test_classes_out_of_range():
    z = codes(2)
    for labels in ([[3, 0.0, 0, 0.0]] * 2, [[0, 0.0, 2, 0.0]] * 2, [[0, 0.0, -2, 0.0]] * 2):
        with pytest.raises(ValueError, match="should be integers from 0 to"):
            make()(np.array(labels), z)
    z = ops.convert_to_tensor(z, dtype="float32")
    for wrong in (2, 99):
        labels = ops.convert_to_tensor([[0, 0.0, wrong, 0.0], [0, 0.0, 1, 0.0]])
        np.testing.assert_array_equal(np.isnan(to_numpy(jit(make())(labels, z))), [True, False])


def test_bad_input():
    with pytest.raises(TypeError, match="`code` should be an `AttributeCode`"):
        AttributeLoss({"shape": 3})
    with pytest.raises(ValueError, match=r"Labels should have shape \[batch, 4\]"):
        make()(np.zeros([3, 2]), codes())
    with pytest.raises(ValueError, match=r"`y_pred` should have shape \[batch, 9\]"):
        make()(LABELS, codes()[:, :8])
    with pytest.raises(ValueError, match=r"`y_true` should have shape \[batch, 4\]"):
        make()(ops.zeros([3, 2]), ops.convert_to_tensor(codes(), dtype="float32"))
