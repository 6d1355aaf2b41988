"""Supervised variational autoencoders: what they learn, read and write."""

import subprocess
import sys
from unittest import mock

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy
from scipy.special import log_softmax

from gyoza.modelling.autoencoders import SupervisedVAE
from gyoza.modelling.distributions import StandardNormal

pytestmark = [
    pytest.mark.usefixtures("without_xla"),
    pytest.mark.compiled_by(),
]

TYPES = ["sampled", "softmax", "argmax", "argmax_norm", "l2"]
NAMES, SIZES = ["shape", "is_big"], [3, 2]
# All pictures there are: vectors with an entry for each class.
CLASSES = np.indices(SIZES).reshape(2, -1).T
X = np.concatenate([np.eye(3)[CLASSES[:, 0]], np.eye(2)[CLASSES[:, 1]]], axis=1).astype("float32")
random = np.random.default_rng(0)
IMAGES = random.integers(2, size=[6, 8, 8, 1]).astype("uint8")


def make(model_type, size=None, **kwargs):
    """Makes a model of vectors of five dimensions, with networks of its own."""
    size = size or (2 if model_type == "l2" else 5)
    inputs = keras.Input([5])
    encoder = keras.Model(inputs, [keras.layers.Dense(size)(inputs) for _ in range(2)])
    decoder = keras.Sequential([keras.layers.Dense(32, "relu"), keras.layers.Dense(5)])
    arguments = {"attr_list": NAMES, "attr_sizes": SIZES, "seed": 0, **kwargs}
    model = SupervisedVAE(None, model_type, encoder=encoder, decoder=decoder, **arguments)
    model.build((None, 5))
    return model


def make_images(model_type="softmax", **kwargs):
    arguments = {"attr_list": NAMES, "attr_sizes": SIZES, "seed": 0, **kwargs}
    return SupervisedVAE(8, model_type=model_type, **arguments)


@pytest.mark.parametrize(
    "model_type",
    [
        *("argmax", "softmax"),
        *(pytest.param(kind, marks=pytest.mark.long) for kind in ("sampled", "argmax_norm", "l2")),
    ],
)
def test_trained_model_reads_and_writes_attributes(model_type):
    """A third of the labels are unknown."""
    model = make(model_type, separation=3.0)
    labels = np.tile(CLASSES, [100, 1]).astype("float32")
    labels[random.uniform(size=labels.shape) < 1 / 3] = -1
    model.compile(keras.optimizers.Adam(0.05))
    history = model.fit(np.tile(X, [100, 1]), labels, batch_size=60, epochs=10, verbose=0).history
    assert history["attribute_loss"][-1] < 0.3 * history["attribute_loss"][0]

    z, units = model.X_to_z(X), [2, 1] if model_type == "argmax_norm" else 1
    if model_type in ("sampled", "softmax"):
        z = np.stack([z[:, :3].argmax(axis=1), z[:, 3:].argmax(axis=1)], axis=1)
    np.testing.assert_array_equal(np.round(z * units), CLASSES)
    np.testing.assert_array_equal(np.round(model.reconstruct(X)), X)
    np.testing.assert_array_equal(np.round(model.z_to_X(CLASSES / units)), X)
    # A third shape that is big becomes any shape, and stays big.
    np.testing.assert_array_equal(np.round(model.traverse(X[5], "shape")), X[[1, 3, 5]])


@pytest.mark.parametrize("model_type", ["softmax", "l2"])
def test_loss_adds_that_of_labels_at_the_means(model_type):
    model = make(model_type, attribute_weight=7.0, separation=2.0)
    x, y = X[:4], np.array([[2, 1], [0, -1], [-1, 0], [np.nan, -1]], "float32")
    y_pred = model(x)
    mean = to_numpy(y_pred["mean"])
    if model_type == "softmax":
        shape, big = log_softmax(2.0 * mean[:, :3], axis=1), log_softmax(2.0 * mean[:, 3:], axis=1)
        expected = np.array([-shape[0, 2] - big[0, 1], -shape[1, 0], -big[2, 0], 0.0])
    else:
        distances = (mean - y) ** 2
        expected = np.array([distances[0].sum(), distances[1, 0], distances[2, 1], 0.0])
    weights = np.array([1.0, 0.5, 2.0, 1.0], "float32")
    for w in (None, weights):
        received = [
            float(model.compute_loss(x, labels, y_pred, sample_weight=w)) for labels in (y, None)
        ]
        difference = 7.0 * np.mean(expected * (1.0 if w is None else w))
        assert received[0] - received[1] == pytest.approx(difference, rel=1e-4)
    model.compute_metrics(x, y, y_pred)
    assert float(model.get_metrics_result()["attribute_loss"]) == pytest.approx(
        expected.mean(), rel=1e-5
    )


@pytest.mark.parametrize(("model_type", "moves"), [("argmax", False), ("softmax", True)])
def test_encoder_learns_from_pictures_unless_the_decoder_sees_the_most_probable_class(
    model_type, moves
):
    model = make(model_type, kl_weight=0.0)
    before = [to_numpy(weight).copy() for weight in model.encoder.trainable_weights]
    model.compile("sgd")
    model.fit(X, epochs=1, verbose=0)
    changes = [
        np.any(to_numpy(weight) != value)
        for weight, value in zip(model.encoder.trainable_weights, before, strict=True)
    ]
    assert all(changes) if moves else not any(changes)


@pytest.mark.parametrize(
    ("model_type", "residual_size"), [("softmax", 0), *((kind, 2) for kind in TYPES)]
)
def test_codes(model_type, residual_size):
    model = make_images(model_type, residual_size=residual_size)
    z, reconstructions = model.X_to_z(IMAGES), model.reconstruct(IMAGES)
    means = to_numpy(model.encode(IMAGES))
    readings = to_numpy(model.code.read(means, model_type))
    np.testing.assert_allclose(z, np.concatenate([means[:, :residual_size], readings], axis=1))
    np.testing.assert_allclose(model.z_to_X(z), reconstructions, rtol=1e-5)
    np.testing.assert_allclose(model.X_to_z(IMAGES[0]), z[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.reconstruct(IMAGES[0]), reconstructions[0], rtol=1e-5)

    written = to_numpy(model.decode(model.code.encode(CLASSES)))
    units = [2, 1] if model_type == "argmax_norm" else [1, 1]
    np.testing.assert_allclose(model.z_to_X(CLASSES / units), written, rtol=1e-5)
    one = (CLASSES[5] / units).tolist()
    np.testing.assert_allclose(model.z_to_X(one), written[5], rtol=1e-5)


def test_interpolation_is_straight_in_what_the_decoder_sees():
    model = make_images()
    z = model.X_to_z(IMAGES[:2])
    received = model.interpolate(IMAGES[0], IMAGES[1], steps=[0.0, 0.25, 1.0])
    expected = model.z_to_X(np.stack([z[0], 0.75 * z[0] + 0.25 * z[1], z[1]]))
    np.testing.assert_allclose(received, expected, rtol=1e-5)
    assert model.interpolate(IMAGES[:2], IMAGES[2:4]).shape == (7, 2, 8, 8, 1)


def test_traversal_writes_one_attribute():
    model = make_images(attr_sizes=[3, None])
    z = model.X_to_z(IMAGES)
    z[:, :3] = [0.0, 1.0, 0.0]
    received = model.traverse(IMAGES, "shape")
    np.testing.assert_allclose(received[1], model.z_to_X(z), rtol=1e-4)
    assert received.shape == (3, 6, 8, 8, 1)
    assert model.traverse(IMAGES[0], "is_big", labels=[0.5, 1.0]).shape == (2, 8, 8, 1)


def test_classes_as_numbers_have_the_prior_of_uniform_labels():
    model = make_images("l2", attr_sizes=[5, None])
    samples = to_numpy(model.prior.sample(4000, seed=0))
    np.testing.assert_allclose(samples.mean(axis=0), [2.0, 0.0], atol=0.1)
    np.testing.assert_allclose(samples.var(axis=0), [2.09, 1.09], atol=0.15)


def test_documented_use(tmp_path):
    """Integers, four arrays, no `compile`, a figure, and a file that another process reads."""
    labels = CLASSES.astype("int64")
    model = make_images()
    history = model.fit(IMAGES, labels, IMAGES[:2], labels[:2], epochs=1, verbose=0).history
    assert set(history) == {
        *("loss", "kl", "attribute_loss"),
        *("val_loss", "val_kl", "val_attribute_loss"),
    }
    assert model.attr_list == NAMES
    assert model.attr_sizes == SIZES
    weighted = model.evaluate(
        IMAGES, labels, sample_weight=np.zeros(6), verbose=0, return_dict=True
    )
    assert weighted["loss"] == 0.0

    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", IMAGES)
    code = (
        "import sys, keras, numpy as np, gyoza; folder = sys.argv[1]; "
        "model = keras.models.load_model(folder + '/model.keras'); "
        "np.save(folder + '/z.npy', model.X_to_z(np.load(folder + '/images.npy'))); "
        "np.save(folder + '/x.npy', model.z_to_X([2, 0]))"
    )
    if keras.backend.backend() == "torch":  # which is imported soonest
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    else:
        with mock.patch.object(sys, "argv", ["-c", str(tmp_path)]):
            exec(code, {})
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), model.X_to_z(IMAGES), atol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), model.z_to_X([2, 0]), atol=1e-5)


def test_loaded_model_goes_on_as_it_was(tmp_path):
    model = make("l2", prior=StandardNormal([2]), attribute_weight=2.0, likelihood="normal")
    model.compile("adam")
    model.fit(X, CLASSES, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert copy.attribute_weight == 2.0
    assert copy.code.get_config() == model.code.get_config()
    # Keras does not save it, and JAX deletes what is trained on.
    copy.seed_generator.state.assign(ops.convert_to_numpy(model.seed_generator.state))
    histories = [m.fit(X, CLASSES, epochs=2, shuffle=False, verbose=0) for m in (model, copy)]
    np.testing.assert_allclose(*[h.history["loss"] for h in histories], rtol=1e-4)


def test_figure():
    plt = pytest.importorskip("matplotlib.pyplot")
    model = make_images(channel_count=3)
    images = np.repeat(IMAGES, 3, axis=-1)
    received = model.reconstruct(images[:4], plot=True)
    (ax,) = plt.gcf().axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["data", "reconstructions"]
    assert (ax.get_xlim(), ax.get_ylim()) == ((0.0, 4.0), (2.0, 0.0))
    np.testing.assert_allclose(received, model.reconstruct(images[:4]))
    plt.close("all")


@pytest.mark.parametrize("model_type", ["argmax", pytest.param("softmax", marks=pytest.mark.long)])
def test_mixed_precision(model_type):
    model = make_images(model_type, dtype="mixed_float16", attr_sizes=[3, 2])
    outputs = model(IMAGES)
    assert keras.backend.standardize_dtype(outputs["decoded"].dtype) == "float16"
    assert keras.backend.standardize_dtype(outputs["mean"].dtype) == "float32"
    model.compile("adam")
    assert np.isfinite(model.fit(IMAGES, CLASSES, epochs=1, verbose=0).history["loss"][0])


@pytest.mark.parametrize("feature_size", [3, 6, 28])
def test_pictures_of_any_size(feature_size):
    model = SupervisedVAE(feature_size, "l2", ["a"], [None])
    assert model.z_to_X([0.5]).shape == (feature_size, feature_size, 1)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: make("soft"), "`model_type` should be one of sampled, softmax"),
        (lambda: make("softmax", attr_sizes=[3]), "`attr_list` should hold distinct names"),
        (lambda: make("softmax", attr_list=["a", "a"]), "`attr_list` should hold distinct names"),
        (lambda: make("softmax", attribute_weight=-1.0), "`attribute_weight` should not be neg"),
        (lambda: make("softmax", residual_size=-1), "`residual_size` should be an integer of at"),
        (lambda: make("softmax", posterior_flow=1), "`posterior_flow` should be omitted"),
        (lambda: SupervisedVAE(None, "l2", ["a"], [2]), "`feature_size` should be given unless"),
        (lambda: make("softmax", size=4), "shape"),
        (lambda: make_images().fit(IMAGES, CLASSES + 1), "`shape` should be integers from 0 to 2"),
        (lambda: make_images("l2").fit(IMAGES, CLASSES * 2), "`shape` should be integers from"),
        (lambda: make_images().fit(IMAGES, CLASSES[:, :1]), r"Labels should have shape \[batch, 2"),
        (lambda: make_images().evaluate(IMAGES, CLASSES[:, 0]), r"Labels should have shape"),
        (lambda: make_images().z_to_X([0, 1, 2]), r"`z` should have shape \[batch, 5\]"),
        (lambda: make_images().z_to_X([0, 2]), "`is_big` should be integers from 0 to 1"),
        (lambda: make_images().traverse(IMAGES, "y"), "The attribute should be one of"),
        (
            lambda: make_images(attr_sizes=[3, None]).traverse(IMAGES, "is_big"),
            "`labels` should be given for the real-valued attribute",
        ),
    ],
)
def test_bad_input(use, message):
    with pytest.raises(ValueError, match=message):
        use()


def test_fits_with_weights_and_with_labels_may_alternate():
    model = make("softmax")
    model.compile(keras.optimizers.SGD(0.01))
    weights = np.ones(6, "float32")
    for y, sample_weight in ((None, weights), (CLASSES, weights[:, None]), (None, None)):
        history = model.fit(X, y, sample_weight=sample_weight, batch_size=6, verbose=0).history
        assert np.isfinite(history["loss"][0])
