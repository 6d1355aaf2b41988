"""Arguments are accepted as they are meant, or rejected with what was expected and what came."""

import fractions

import numpy as np
import pytest

from gyoza.modelling.flow_layers import FlowLayer
from gyoza.modelling.functions import checks


@pytest.mark.parametrize(
    ("check", "accepted", "expected"),
    [
        (checks.check_integer, 0, 0),
        (checks.check_integer, np.int16(3), 3),
        (lambda name, value: checks.check_integer(name, value, minimum=2), 2, 2),
        (checks.check_integers, (1, -2), [1, -2]),
        (checks.check_integers, np.array([2.0, 0.0]), [2, 0]),
        (checks.check_integers, [], []),
        (lambda name, value: checks.check_choice(name, value, ["a", "b"]), "b", "b"),
        (lambda name, value: checks.check_choice(name, value, ("a", None)), None, None),
    ],
)
def test_what_is_right_is_returned(check, accepted, expected):
    found = check("it", accepted)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "check", [checks.check_finite, checks.check_not_negative, checks.check_positive]
)
def test_numbers_become_arrays_without_loss(check):
    for values in (0.1, [1, 2.5], np.array([[1e-300], [1e300]])):
        array = check("it", values)
        assert array.dtype == "float64"
        np.testing.assert_array_equal(array, values)
    bad_numbers = {"be finite": [[0.5, np.inf], np.nan], "be a number, or an array": ["1.0x", {}]}
    if check != checks.check_finite:
        bad_numbers["be positive|not be negative"] = [[1.0, -1e-300], -np.float32(2.0)]
    for message, bad in bad_numbers.items():
        for values in bad:
            with pytest.raises(ValueError, match=f"`it` should ({message}).*Received: it="):
                check("it", values)


def test_zero_is_neither_positive_nor_negative():
    np.testing.assert_array_equal(checks.check_not_negative("it", [0.0, 1.0]), [0.0, 1.0])
    with pytest.raises(ValueError, match=r"`it` should be positive\. Received: it=\[0\.0, 1\.0\]"):
        checks.check_positive("it", [0.0, 1.0])


@pytest.mark.parametrize(
    ("check", "value", "error", "message"),
    [
        (checks.check_integer, -1, ValueError, r"an integer of at least 0\. Received: it=-1"),
        (checks.check_integer, 1.0, ValueError, r"an integer.* Received: it=1\.0"),
        (checks.check_integer, True, ValueError, "an integer.* Received: it=True"),
        (checks.check_integer, "1", ValueError, "an integer.* Received: it='1'"),
        (
            lambda name, value: checks.check_integer(name, value, minimum=2),
            1,
            ValueError,
            r"an integer of at least 2\. Received: it=1",
        ),
        (checks.check_integers, 3, TypeError, r"a list of integers\. Received: it=3"),
        (checks.check_integers, [1, None], TypeError, r"a list of integers\. Received: it=\[1, N"),
        (checks.check_integers, "ab", TypeError, r"a list of integers\. Received: it=ab"),
        (checks.check_integers, [1, 2.5], TypeError, r"a list of integers\. Received: it=\[1, 2\."),
        (
            lambda name, value: checks.check_choice(name, value, ("a", "b")),
            "c",
            ValueError,
            r"one of \['a', 'b'\]\. Received: it='c'",
        ),
        (
            lambda name, value: checks.check_instance(name, value, str, "a name"),
            3,
            TypeError,
            r"a name\. Received: it=3 \(of type <class 'int'>\)",
        ),
    ],
)
def test_what_is_wrong_is_named(check, value, error, message):
    with pytest.raises(error, match=f"^`it` should be {message}"):
        check("it", value)


@pytest.mark.parametrize("dtype", ["O", "S1", "U1", "M8[s]", "m8[s]"])
def test_arrays_of_anything_but_numbers_are_rejected_with_advice(dtype):
    with pytest.raises(TypeError) as caught:
        checks.check_numbers("it", np.zeros(2, dtype))
    assert str(caught.value) == (
        '`it` should be an array of numbers: `frame.to_numpy("float32")` makes one of a data frame '
        "without text. Leave out columns of text, or let `gyoza.data.Table` encode them. "
        f"Received: an array of dtype {np.dtype(dtype)}"
    )


@pytest.mark.parametrize("values", [np.zeros(2), np.zeros(2, int), np.zeros(2, bool), ["a"], None])
def test_arrays_of_numbers_and_what_is_not_an_array_pass(values):
    checks.check_numbers("it", values)


def test_instances_of_derived_classes_pass():
    checks.check_instance("it", True, int, "an integer")


def test_classes_of_users_are_not_our_own():
    class Mine(FlowLayer):
        """A layer of a user."""

    assert checks.is_own(FlowLayer)
    assert not checks.is_own(Mine)
    assert not checks.is_own(str)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, True), (fractions.Fraction(1, 3), True), (0, False), (1.0, False), (np.nan, False)],
)
def test_intervals_are_open(value, expected):
    assert checks.is_between(0.0, value, 1.0) is expected


@pytest.mark.parametrize("value", ["0.5", None, [0.5], 0.5j])
def test_only_real_numbers_lie_between_others(value):
    assert not checks.is_between(0.0, value, 1.0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, True), (np.uint8(1), True), (False, False), (np.True_, False), (1.0, False), ("1", False)],
)
def test_integers_are_those_of_python_and_numpy(value, expected):
    assert checks.is_integer(value) is expected
