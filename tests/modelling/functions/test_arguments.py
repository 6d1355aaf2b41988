"""Arguments that come first, are left out, or are read from a configuration."""

import pytest

from gyoza.modelling.functions.arguments import given, make_parts, take_first


def test_what_is_missing_is_not_given():
    assert given(first=0, second=None, third="") == {"first": 0, "third": ""}


@pytest.mark.parametrize(
    ("first", "value", "default", "expected"),
    [
        ([3], abs, None, ([3], abs)),
        (abs, None, None, (None, abs)),
        ([3], None, None, ([3], None)),
        (abs, 1, 1, (None, abs)),
        (abs, 2, 1, (abs, 2)),  # both were given: the first one is rejected elsewhere
    ],
)
def test_the_main_argument_may_come_first(first, value, default, expected):
    assert take_first(first, value, callable, default) == expected


class Part:
    """Is not registered with Keras."""

    def __init__(self, size):
        self.size = size

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def test_parts_are_made_of_their_configurations():
    names = {"class_name": "Part", "registered_name": "Part", "module": None}
    two, three, part = {**names, "config": {"size": 2}}, {**names, "config": {"size": 3}}, Part(4)
    config = {"one": two, "several": [three, part], "kept": part, "size": {"a": 5}}
    made = make_parts(config, "one", "several", "kept", "lacking", objects={"Part": Part})
    assert set(made) == set(config)
    assert [each.size for each in (made["one"], *made["several"])] == [2, 3, 4]
    assert made["several"][1] is part
    assert made["kept"] is part
    assert made["size"] == {"a": 5}
