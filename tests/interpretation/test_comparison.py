import random
from itertools import combinations

import keras
import numpy as np
import pytest
from keras import layers, ops

from gyoza.interpretation import (
    Comparison,
    Interpreter,
    answers_by_size,
    baselines,
    compare,
    default_methods,
)
from gyoza.interpretation.controls import choose_judges, reinitialise, to_seeds
from gyoza.interpretation.scores import rate_swaps
from gyoza.modelling.flow_layers import FlowLayer, FlowModel

pytestmark = pytest.mark.compiled_by("tensorflow")

N = 800
MEANS = np.array([[3.0, 0.0], [-1.5, 2.6], [-1.5, -2.6]])


def make_data(seed):
    """Returns inputs: a class in dimensions 0 and 1, and an independent number in dimension 2."""
    generator = np.random.default_rng(seed)
    classes, numbers = generator.integers(3, size=N), generator.normal(size=N)
    x = 0.5 * generator.normal(size=[N, 6])
    x[:, :2] += MEANS[classes]
    x[:, 2] += 2 * numbers
    return x.astype("float32"), np.stack([classes, numbers], axis=1)


@pytest.fixture(scope="module")
def parts():
    """A head that mixes inputs, and a tail that reads the class and the number from the mixture."""
    mixing = np.random.default_rng(0).normal(size=[6, 6])
    head = keras.Sequential([keras.Input([6]), layers.Dense(6, name="hidden")])
    head.set_weights([mixing, np.zeros(6)])
    tail = keras.Sequential([keras.Input([6]), layers.Dense(3)])
    tail.set_weights([np.linalg.inv(mixing)[:, :2] @ MEANS.T, np.zeros(3)])
    return head, tail


@pytest.fixture(scope="module")
def comparison(parts):
    return compare(
        parts,
        *make_data(0),
        *make_data(1),
        names=["class", "number"],
        methods={"random": baselines.random_subspace, "leace": baselines.leace},
        networks=["trained", "labels shuffled"],
        seeds=2,
        pair_count=400,
        probe_count=200,
    )


def test_what_is_found_is_distinguished_from_what_is_not(comparison):
    follows, keeps = (
        comparison.estimate("leace", f"class: {what}") for what in ("follows", "keeps")
    )
    assert follows.mean > 0.95
    assert keeps.mean > 0.95
    assert comparison.gap("leace", "labels shuffled").mean > 0.5
    assert comparison.best() == "leace"
    findings = comparison.findings
    assert [line for line in findings if line.startswith("random: its score")]
    assert findings[-1].startswith("Use leace, with a score of")


def test_leakage_is_measured_by_two_probes(comparison):
    for probe in ("linear", "nearest"):
        for name in ("class", "number"):
            assert comparison.estimate("leace", f"{name}: own, {probe}").mean > 0.85
            for place in ("elsewhere", "residual"):
                assert comparison.estimate("leace", f"{name}: {place}, {probe}").mean < 0.15
    assert comparison.estimate("random", "class: residual, linear").mean > 0.5


def test_tables_show_all_rows_and_gaps(comparison):
    text = str(comparison)
    swaps, of_class, of_number, findings = text.split("\n\n")
    assert len(swaps.splitlines()) == len(of_class.splitlines()) == 1 + 2 * 2
    assert "class: follows" in swaps
    assert "number: own, nearest" in of_number
    assert findings.splitlines() == comparison.findings
    gaps = {(row["method"], row["network"]): row["gap"] for row in comparison.rows}
    assert gaps["leace", "labels shuffled"] == ""
    assert gaps["leace", "trained"] == comparison.gap("leace", "labels shuffled")


def test_likelihood_is_a_density_of_the_hidden_representation():
    """The density of units that are ten times as large is a tenth."""
    x, labels = make_data(2)
    likelihoods = []
    for scale in (1.0, 10.0):
        head = keras.Sequential([keras.Input([6]), layers.Rescaling(scale)])
        tail = keras.Sequential([keras.Input([6]), layers.Activation("linear")])
        scores = compare(
            (head, tail),
            x,
            labels,
            x,
            labels,
            methods={name: getattr(baselines, name) for name in ("leace", "random_subspace")},
            networks=["trained"],
            seeds=1,
            judges={},
            probe_count=100,
        )
        likelihoods.append([scores.estimate(name, "likelihood").mean for name in scores.methods])
    np.testing.assert_allclose(np.diff(likelihoods, axis=0), -np.log(10.0), atol=1e-3)
    # What pairs share is more likely if it is in one block.
    assert likelihoods[0][0] > likelihoods[0][1] + 0.05


def test_values_that_are_held_out_are_tested_and_not_learnt_from(parts):
    seen = []

    def method(of_parts, x, labels, sizes, names, seed):
        seen.append((labels[:, 1].max(), seed))
        return baselines.leace(of_parts, x, labels, sizes, names=names, seed=seed)

    tested = []

    def judge(outputs):
        tested.append(len(outputs))
        return np.argmax(outputs, axis=1)

    train, test = make_data(0), make_data(1)
    comparison = compare(
        parts,
        *train,
        *test,
        methods={"method": method},
        networks=["trained", "re-initialised"],
        held_out=lambda labels, seed: labels[:, 1] > 1.0 - seed,
        judges={"factor_1": judge},
        seeds=[1],
        pair_count=50,
        probe_count=100,
    )
    assert [seed for _, seed in seen] == [1, 1]
    assert -0.1 < max(seen)[0] <= 0.0
    # The answers to pairs, and those of fresh networks to instances that are not edited.
    assert set(tested) == {50, np.sum(test[1][:, 1] > 0.0)}
    assert comparison.estimate("method", "factor_1: follows").mean > 0.95


@keras.saving.register_keras_serializable(package="test_comparison")
class Shear(FlowLayer):
    """Subtracts the square of the first dimension from the second."""

    preserves_volume = True

    def transform(self, inputs):
        return ops.concatenate([inputs[:, :1], inputs[:, 1:] - inputs[:, :1] ** 2], axis=1), None

    def inverse_transform(self, outputs):
        return ops.concatenate([outputs[:, :1], outputs[:, 1:] + outputs[:, :1] ** 2], axis=1)


def test_a_factor_that_is_not_linear_is_found_by_a_flow_alone():
    generator = np.random.default_rng(3)
    first = 2.0 * generator.normal(size=2 * N)
    labels = generator.integers(2, size=[2 * N, 1])
    second = first**2 + 2.0 * labels[:, 0] - 1.0 + 0.2 * generator.normal(size=2 * N)
    x = np.stack([first, second], axis=1).astype("float32")
    head = keras.Sequential([keras.Input([2]), layers.Activation("linear")])
    inputs = keras.Input([2])
    height = inputs[:, 1:] - inputs[:, :1] ** 2
    tail = keras.Model(inputs, layers.Concatenate()([-height, height]))

    def shear(of_parts, x, labels, sizes, names, seed):
        flow = FlowModel([Shear(shape=[2])])
        flow.build((None, 2))
        return Interpreter(of_parts[0], flow, of_parts[1], sizes)

    comparison = compare(
        (head, tail),
        x[:N],
        labels[:N],
        x[N:],
        labels[N:],
        {"residual": 1, "side": 1},
        methods={"pair axes": baselines.pair_axes, "shear": shear},
        networks=["trained"],
        names=["side"],
        seeds=1,
        probe_count=400,
    )
    assert comparison.best() == "shear"
    assert comparison.estimate("shear").mean > 0.99
    assert comparison.estimate("pair axes").mean < 0.6
    assert comparison.estimate("shear", "side: residual, nearest").mean < 0.1


def make_rows(**scores):
    """Returns measurements of methods, each with its scores by network and seed."""
    return [
        {"method": method, "network": network, "seed": seed, "sizes": {"a": 1}, "score": value}
        for method, of_networks in scores.items()
        for network, values in of_networks.items()
        for seed, value in enumerate(values)
    ]


def test_the_simplest_of_good_methods_is_recommended():
    control = [0.1, 0.1]
    rows = make_rows(
        units={"trained": [0.5, 0.5], "labels shuffled": control},
        linear={"trained": [0.93, 0.93], "labels shuffled": control},
        spline={"trained": [0.94, 0.94], "labels shuffled": control},
    )
    comparison = Comparison(rows)
    assert comparison.best() == "linear"  # two points do not count
    assert comparison.findings == [
        "Use linear, with a score of 0.93 ± 0.00, the simplest of those that are as good as "
        "spline, with 0.94 ± 0.00."
    ]
    rows[-4]["score"] = rows[-3]["score"] = 0.99
    assert Comparison(rows).best() == "spline"
    rows[-4]["score"] = 0.85  # so that the difference may as well be due to seeds
    assert Comparison(rows).best() == "linear"
    for row in rows[-2:]:
        row["score"] = 0.99  # in the control, too
    assert Comparison(rows).best() == "linear"


def test_findings_say_where_there_is_nothing_to_find():
    rows = make_rows(
        units={
            "trained": [0.63, 0.61],
            "re-initialised": [0.1, 0.1],
            "labels shuffled": [0.6, 0.62],
        }
    )
    first, last = Comparison(rows).findings
    assert first == (
        "units: its score of 0.62 ± 0.01 is not clearly higher than where there is nothing to "
        "find: 0.10 ± 0.00 (re-initialised), 0.61 ± 0.01 (labels shuffled)."
    )
    assert last.startswith("There is nothing to find here")


def test_controls_that_cannot_be_measured_are_not_evidence():
    nan = np.nan
    rows = make_rows(
        units={"trained": [0.9, 0.9], "re-initialised": [nan, nan], "labels shuffled": [nan, 0.2]},
        leace={"trained": [nan, nan], "re-initialised": [nan, nan], "labels shuffled": [0.1, 0.1]},
    )
    comparison = Comparison(rows)
    assert np.isnan(comparison.gap("units", "re-initialised").mean)
    assert comparison.rows[0]["gap"].mean == pytest.approx(0.7)
    findings = comparison.findings
    assert findings[1].startswith("re-initialised: 4 of 4 scores are missing")
    assert findings[2].startswith("labels shuffled: 1 of 4 scores are missing")
    assert findings[-1] == "Use units, with a score of 0.90 ± 0.00."
    first, second, _ = Comparison(make_rows(units={"trained": [0.9]})).findings
    assert first.startswith("No control was run")
    assert second.startswith("There is only one seed")


def test_scores_of_constant_answers_are_missing(parts):
    x, labels = (values[:100] for values in make_data(0))
    labels[0, 0] = 7  # alone in its class
    comparison = compare(
        parts,
        x,
        labels,
        x,
        labels,
        methods={"units": baselines.units},
        judges={"factor_1": lambda outputs: np.zeros(len(outputs), int)},
        networks=["trained", "re-initialised"],
        seeds=1,
        pair_count=50,
        probe_count=50,
    )
    assert comparison.estimate("units").mean < 0.3
    assert np.isnan(comparison.estimate("units", network="re-initialised").mean)
    assert np.isnan(comparison.rows[0]["gap"].mean)


def test_swaps_of_numbers_are_rated_by_the_share_of_the_difference():
    a, b = np.random.default_rng(0).normal(size=[2, 1000])
    np.testing.assert_allclose(rate_swaps(b, a, b, False), [1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(rate_swaps(a, a, b, False), [0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(rate_swaps((a + b) / 2, a, b, False), [0.75, 0.75])
    assert rate_swaps(3 * b, a, b, False)[0] == 0.0
    assert np.all(np.isnan(rate_swaps(a, a, a, True)))
    assert rate_swaps([0, 1], np.array([0, 0]), np.array([1, 1]), True) == (0.5, 0.5)


def test_the_seed_determines_fresh_weights(parts):
    state = random.getstate()
    first, again, other = (
        [part.get_weights() for part in reinitialise(parts, seed)] for seed in (0, 0, 1)
    )
    assert random.getstate() == state
    for k in (0, 1):
        np.testing.assert_array_equal(first[k][0], again[k][0])
        assert not np.allclose(first[k][0], other[k][0])
        assert not np.allclose(first[k][0], parts[k].get_weights()[0])


def test_controls_keep_the_scale_of_inputs_but_not_the_seeds_of_initialisers():
    x = np.random.default_rng(0).normal(100.0, 50.0, size=[200, 3]).astype("float32")
    scaling = layers.Normalization()
    scaling.adapt(x)
    dense = layers.Dense(4, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    head = keras.Sequential([keras.Input([3]), scaling])
    tail = keras.Sequential([keras.Input([3]), dense])
    first, other = (reinitialise((head, tail), seed) for seed in (0, 1))
    np.testing.assert_array_equal(first[0](x), head(x))
    kernels = [part.get_weights()[0] for part in (tail, first[1], other[1])]
    assert min(np.abs(np.subtract(*pair)).max() for pair in combinations(kernels, 2)) > 0.1


class Unsaved(layers.Layer):
    """A layer that Keras cannot recreate."""

    def __init__(self, thing):
        super().__init__()

    def call(self, inputs):
        return inputs


def test_networks_that_cannot_be_created_anew(parts):
    state = random.getstate()
    layer = Unsaved(object())
    layer(np.zeros([1, 6]))
    with pytest.raises(ValueError, match="re-initialised control needs a network"):
        reinitialise((parts[0], layer), 0)
    assert random.getstate() == state


def test_judges_of_a_classifier_tell_its_classes(parts):
    x, labels = make_data(0)
    words = np.array([["left"], ["right"], ["up"]])[labels[:, 0].astype(int)]
    judges = choose_judges(parts, x, labels, ["place", "number"])
    assert judges["place"](np.eye(3)).tolist() == [0, 1, 2]
    assert choose_judges(parts, x, labels[:, 1:], ["number"]) == {}
    assert choose_judges((parts[0], parts[0]), x, words, ["place"]) == {}
    for unordered in (words, 2 * labels):
        with pytest.raises(ValueError, match="A judge of 'place' should be given"):
            choose_judges(parts, x, unordered, ["place"])


def test_answers_follow_a_small_block_only_where_something_is_found(parts):
    (x, labels), (test_x, test_labels) = make_data(0), make_data(1)
    answers = answers_by_size(
        parts, x, labels[:, 0], test_x, test_labels[:, 0], [2, 6], seeds=[0], pair_count=300
    )
    assert set(answers.follows) == {
        "pair axes",
        "random subspace",
        "fake pairs",
        "re-initialised",
        "re-initialised, own answers",
    }
    for rates in answers.follows.values():
        assert rates.shape == (2, 1)
        assert rates[1] > 0.95  # the whole representation
    small = {name: rates[0] for name, rates in answers.follows.items()}
    assert small["pair axes"] > 0.95
    assert max(small["random subspace"], small["fake pairs"], small["re-initialised"]) < 0.8
    assert str(answers).splitlines()[1].split()[:2] == ["pair", "axes"]


def test_default_methods_grow_from_random_directions_to_splines():
    methods = default_methods(step_count=7)
    assert list(methods) == [
        "random subspace",
        "units",
        "principal axes",
        "difference of means",
        "leace",
        "pair axes",
        "rotation flow",
        "linear flow",
        "affine flow",
        "spline flow",
    ]
    assert methods["spline flow"].keywords == {"capacity": "spline", "step_count": 7}


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (ValueError, "at least one method", {"methods": {}}),
        (TypeError, "`methods` should be a dict", {"methods": [baselines.leace]}),
        (TypeError, "`judges` should be a dict", {"judges": {"factor_1": "argmax"}}),
        (ValueError, "`seeds` should be", {"seeds": 0}),
        (ValueError, "`seeds` should be", {"seeds": [1, 1]}),
        (TypeError, "`seeds` should be", {"seeds": None}),
        (ValueError, "each once", {"networks": ["trained", "trained"]}),
        (ValueError, "`pair_count` should be", {"pair_count": 0}),
        (ValueError, "`probe_count` should be", {"probe_count": 0}),
        (ValueError, "`held_out` should return", {"held_out": lambda labels, _: np.arange(3)}),
        (ValueError, "some that are not held", {"held_out": lambda y, _: np.ones(len(y), bool)}),
        (ValueError, "some that are not held", {"held_out": lambda y, _: np.zeros(len(y), bool)}),
        (ValueError, "should vary", {"held_out": lambda labels, _: labels[:, 0] == 1}),
        (ValueError, "should have shape", {"labels": np.arange(5) % 2}),
        (ValueError, "should have shape", {"test_labels": np.ones([N, 3])}),
        (
            ValueError,
            "A judge should return what labels are",
            {"judges": {"factor_1": lambda outputs: np.full(len(outputs), "left")}, "seeds": 1},
        ),
    ],
)
def test_wrong_arguments_of_compare(error, match, arguments, parts):
    x, labels = make_data(0)
    data = {"x": x, "labels": labels, "test_x": x, "test_labels": labels}
    with pytest.raises(error, match=match):
        compare(parts, **{**data, "methods": {"leace": baselines.leace}, **arguments})


def test_numbers_of_numpy_count_seeds():
    assert to_seeds(np.int64(2)) == to_seeds(range(2)) == [0, 1]


def test_wrong_arguments(parts):
    data = make_data(0)
    with pytest.raises(ValueError, match="'trained' and any others"):
        compare(parts, *data, *data, networks=["shuffled"])
    with pytest.raises(ValueError, match="some of the factors"):
        compare(parts, *data, *data, judges={"factor_3": None})
    with pytest.raises(ValueError, match="`method` should be one of"):
        Comparison(make_rows(a={"trained": [1.0]})).estimate("b")
    with pytest.raises(ValueError, match="`column` should be one of"):
        Comparison(make_rows(a={"trained": [1.0]})).estimate("a", "other")
    with pytest.raises(ValueError, match="`sizes` should be between 0"):
        answers_by_size(parts, data[0], data[1][:, 0], data[0], data[1][:, 0], [7])
    with pytest.raises(ValueError, match="`judge` should map outputs"):
        answers_by_size(parts, data[0], data[1][:, 1], data[0], data[1][:, 1], [1])
