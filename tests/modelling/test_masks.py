"""Masks: which dimensions pass, and how tensors are arranged by them."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.modelling.masks import CheckerBoardMask, HeavisideMask, Mask

pytestmark = pytest.mark.compiled_by("tensorflow")


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(4, 2, 3, 2)).astype("float32")


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (HeavisideMask(axes=[1], shape=[4]), [0, 0, 1, 1]),
        (HeavisideMask(axes=[1], shape=[5]), [0, 0, 1, 1, 1]),
        (HeavisideMask([1, 2], [2, 3]), [0, 0, 0, 1, 1, 1]),
        (CheckerBoardMask(axes=[1], shape=[5]), [0, 1, 0, 1, 0]),
        (CheckerBoardMask(axes=[2, 3], shape=[3, 3]), [0, 1, 0, 1, 0, 1, 0, 1, 0]),
        (CheckerBoardMask(axes=[1, 2, 3], shape=[2, 2, 2]), [0, 1, 1, 0, 1, 0, 0, 1]),
        (Mask([1], [3], mask=[True, False, True]), [1, 0, 1]),
    ],
)
def test_patterns(mask, expected):
    np.testing.assert_array_equal(to_numpy(mask._mask_), expected)


def test_positive_and_negative_parts_add_up_and_follow_the_pattern(x):
    mask = CheckerBoardMask(axes=[1, 2], shape=[2, 3])
    positive, negative = to_numpy(mask(x)), to_numpy(mask(x, is_positive=False))
    np.testing.assert_array_equal(positive + negative, x)
    parity = np.indices([2, 3]).sum(axis=0) % 2
    np.testing.assert_array_equal(positive, x * parity[None, :, :, None])


@pytest.mark.parametrize(
    "mask",
    [
        HeavisideMask(axes=[0], shape=[4]),
        CheckerBoardMask(axes=[0, 2], shape=[4, 3]),
        Mask(axes=[0, 1, 2, 3], shape=[4, 2, 3, 2], mask=np.arange(48) % 3 == 0),
        HeavisideMask(axes=[1, 3], shape=[2, 2]),
        CheckerBoardMask(axes=[2], shape=[3]),
        Mask(axes=[1], shape=[2], mask=[1, 0]),
        Mask(axes=[1], shape=[2], mask=[1, 1]),
        Mask(axes=[1], shape=[2], mask=[0, 0]),
    ],
    ids=str,
)
def test_arrangement_puts_cancelled_dimensions_first_and_is_undone(mask, x):
    arranged = to_numpy(mask.arrange(x))
    first, axes = mask._axes_[0], mask._axes_
    assert arranged.ndim == x.ndim - len(axes) + 1
    vectors = np.moveaxis(arranged, first, -1)
    passing = np.moveaxis(to_numpy(mask.arrange(to_numpy(mask(x)))), first, -1)
    cancelled_count = int(np.sum(to_numpy(mask._mask_) == 0))
    np.testing.assert_array_equal(passing[..., :cancelled_count], 0)
    np.testing.assert_array_equal(passing[..., cancelled_count:], vectors[..., cancelled_count:])
    np.testing.assert_array_equal(to_numpy(mask.re_arrange(arranged)), x)


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_whatever_is_like_a_tensor_can_be_masked_and_arranged(x, dtype):
    x = x.astype(dtype)
    mask = CheckerBoardMask(axes=[1, 2], shape=[2, 3])
    masked, arranged = to_numpy(mask(x)), to_numpy(mask.arrange(x))
    likes = [x, x.tolist(), keras.Variable(x, dtype=dtype, trainable=False)]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        likes.append(tf.Variable(x))
    else:
        likes.append(pytest.importorskip("torch").from_numpy(x))
    for like in likes:
        np.testing.assert_array_equal(to_numpy(mask.call(like)), masked)
        kept, changed = mask.split(like)
        np.testing.assert_array_equal(to_numpy(mask.join(to_numpy(kept), changed)), x)
        received = mask.arrange(like)
        if not isinstance(like, list):
            assert keras.backend.standardize_dtype(received.dtype) == dtype
        np.testing.assert_array_equal(to_numpy(received), arranged)
        received = keras.Variable(received, dtype=dtype, trainable=False)
        np.testing.assert_array_equal(to_numpy(mask.re_arrange(received)), x)
    np.testing.assert_array_equal(to_numpy(mask.re_arrange(arranged.tolist())), x)


def test_symbolic_tensors_are_masked_and_arranged(x):
    mask = CheckerBoardMask(axes=[1, 2], shape=[2, 3])
    mask.build(None)
    inputs = keras.Input(x.shape[1:])
    arranged = mask.arrange(inputs)
    model = keras.Model(inputs, [mask.call(inputs), arranged, mask.re_arrange(arranged)])
    expected = (mask(x), mask.arrange(x), x)
    for result, received in zip(expected, model(x), strict=True):
        np.testing.assert_array_equal(to_numpy(received), to_numpy(result))


def test_a_mask_is_built_when_a_method_needs_it(x):
    for method in ("call", "split", "arrange"):
        mask = HeavisideMask()
        getattr(mask, method)(x)
        assert mask._shape_ == [2, 3, 2]
    with pytest.raises(ValueError, match=r"`input_shape` should be given.*shape=None"):
        HeavisideMask().build(None)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="shapes are always known")
def test_lengths_are_those_of_the_mask_where_tensorflow_knows_none(x):
    import tensorflow as tf

    mask = CheckerBoardMask(axes=[1, 2], shape=[2, 3])

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, None])])
    def run(x):
        return mask(x), mask.re_arrange(mask.arrange(x))

    for expected, received in zip((mask(x), x), run(x), strict=True):
        np.testing.assert_array_equal(to_numpy(received), to_numpy(expected))


def test_arrangement_of_a_small_example():
    mask = Mask(axes=[1], shape=[4], mask=[1, 0, 1, 0])
    arranged = to_numpy(mask.arrange(np.array([[1.0, 2.0, 3.0, 4.0]])))
    np.testing.assert_array_equal(arranged, [[2, 4, 1, 3]])


def test_split_and_join_are_inverse(x):
    mask = CheckerBoardMask(axes=[1, 3], shape=[2, 2])
    kept, changed = mask.split(ops.convert_to_tensor(x))
    assert tuple(kept.shape) == (4, 3, 2)
    np.testing.assert_array_equal(to_numpy(mask.join(kept, changed)), x)


def test_dimensions_that_do_not_pass_are_zero_even_if_infinite():
    mask = Mask(axes=[1], shape=[3], mask=[1, 0, 0])
    masked = to_numpy(mask(np.array([[1.0, np.inf, np.nan]], "float32")))
    np.testing.assert_array_equal(masked, [[1, 0, 0]])


def test_shape_and_axes_are_read_from_the_first_input(x):
    mask = HeavisideMask()
    mask(x)
    assert mask._axes_ == [1, 2, 3]
    assert mask._shape_ == [2, 3, 2]


@pytest.mark.parametrize(
    "mask",
    [
        HeavisideMask(axes=[1], shape=[4]),
        CheckerBoardMask(axes=[1, 2], shape=[2, 2]),
        Mask(axes=[1], shape=[4], mask=np.array([1, 0, 0, 1])),
        HeavisideMask(),
    ],
    ids=lambda mask: type(mask).__name__,
)
def test_configuration_makes_an_equal_mask(mask):
    copy = type(mask).from_config(mask.get_config())
    assert copy.get_config() == mask.get_config()
    if mask._shape_ is not None:
        np.testing.assert_array_equal(to_numpy(copy._mask_), to_numpy(mask._mask_))


def test_mask_in_a_functional_model_is_saved(tmp_path, x):
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, Mask([1], [2], [0, 1])(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded(x)), to_numpy(model(x)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Mask([1], [3]), ValueError, "`mask` should be a vector"),
        (lambda: Mask([1], [3], [0, 1]), ValueError, "should hold 3 zeros and ones"),
        (lambda: Mask([1], [3], [0, 1, 2]), ValueError, "should hold 3 zeros and ones"),
        (lambda: HeavisideMask([1, 2], [3]), ValueError, "same length"),
        (lambda: HeavisideMask([2, 1], [3, 3]), ValueError, "strictly ascending"),
        (lambda: HeavisideMask([-1, 0], [3, 3]), ValueError, "at least 0, or negative ones"),
        (lambda: HeavisideMask([1.5], [3]), TypeError, "list of integers"),
        (lambda: HeavisideMask([1], [3])(np.ones([2, 4])), ValueError, r"shape \[3\]"),
        (lambda: HeavisideMask([2], [3])(np.ones([2, 3])), ValueError, r"axes \[2\]"),
        (lambda: HeavisideMask([1], [4]).re_arrange(np.ones([2, 9])), ValueError, r"shape \[4\]"),
        (lambda: HeavisideMask([1], [4]).arrange(np.ones([2, 9])), ValueError, r"shape \[4\]"),
        (
            lambda: HeavisideMask().re_arrange(np.ones([2, 4])),
            ValueError,
            "should be given `shape`",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
