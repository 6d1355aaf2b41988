"""Warnings show the line of a user's code, however deep they are."""

import functools
import inspect
import warnings

import keras
import pytest

from gyoza.modelling.functions.warning import warn


@pytest.mark.parametrize(
    "run",
    [
        warn,
        functools.partial(keras.tree.map_structure, warn),
        functools.partial(keras.tree.map_structure, functools.singledispatch(warn)),
    ],
)
def test_warnings_show_the_line_that_leads_to_them(run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run("Mind the step.")
        line = inspect.currentframe().f_lineno - 1
    assert [(str(w.message), w.filename, w.lineno) for w in caught] == [
        ("Mind the step.", __file__, line)
    ]


def test_code_without_a_module_is_a_users():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec("warn('Mind the gap.')", {"warn": warn})
    assert [(str(w.message), w.filename) for w in caught] == [("Mind the gap.", "<string>")]
