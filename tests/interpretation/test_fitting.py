import keras
import numpy as np
import pytest
from keras import layers

from gyoza.interpretation import FitReport, fit_interpreter, probes
from gyoza.modelling.metrics import leakage


def identity(width):
    return keras.Sequential([keras.Input([width]), layers.Identity()])


def bend(count, seed):
    """Draws a class that stands on either side of a parabola, and one on either side of a line."""
    random = np.random.default_rng(seed)
    labels = random.integers(2, size=[count, 2])
    along, *noise = random.normal(size=[3, count])
    inside, side = labels.T - 0.5 + 0.1 * np.stack(noise)
    thin = 0.001 * random.normal(size=[2, count])
    mixing = np.linalg.qr(np.random.default_rng(9).normal(size=[5, 5]))[0]
    x = np.stack([along, inside + along**2, 2.0 * side, *thin], axis=1) @ mixing
    return x.astype("float32"), labels


@pytest.fixture(scope="module", autouse=True)
def small_probes():
    """Makes probes as small as the data sets allow, since their training takes longest."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(probes, "_WIDTH", 128)
        yield


@pytest.fixture(scope="module")
def fitted():
    x, labels = bend(800, seed=0)
    return fit_interpreter(
        (identity(5), identity(5)),
        x,
        labels,
        [3, 1, 1],
        names=["inside", "side"],
        validation_data=bend(400, seed=1),
        hidden_sizes=[32],
        block_count=2,
        learning_rate=1e-2,
        step_count=120,
        batch_size=128,
    )


def test_flow_finds_a_factor_that_no_linear_map_does(fitted):
    report = fitted.report
    assert report.kept_count == 3
    linear, flow = report.means["none"], report.means["affine"]
    assert linear[1, 0] < 0.7
    assert flow[1, 0] > 0.9
    assert flow.min() > 0.9
    assert report.chosen == "affine"
    assert report.gain[0] > 0.05 > 5 * report.gain[1]
    *_, last_row, _, _, chosen = str(report).splitlines()
    name, *cells = last_row.split()
    expected = [means[2, k] for means in report.means.values() for k in (1, 0)]
    assert name == "side"
    np.testing.assert_allclose(np.array(cells, float), expected, atol=6e-4)
    assert chosen == "chosen: affine flow"


def test_factors_are_read_from_their_own_blocks_of_new_data(fitted):
    x, labels = bend(600, seed=2)
    codes = np.concatenate(list(fitted.encode(x).values()), axis=1)
    sizes = fitted.dimensions_per_factor
    scores = leakage(codes, labels, sizes.values(), probe="nearest")
    assert np.diag(scores[1:]).min() > 0.9
    assert scores[1, 1] < 0.2
    assert scores[2, 0] < 0.2


def test_what_skips_the_flow_is_carried_along(fitted):
    x, _ = bend(50, seed=3)
    factors = fitted.encode(x)
    np.testing.assert_allclose(fitted.decode(factors), x, atol=1e-4)
    swapped = fitted.swap(x[:25], x[25:], "inside")
    kept = fitted.encode(swapped)
    for name in ("residual", "side"):
        np.testing.assert_allclose(kept[name], factors[name][:25], atol=1e-2)


def test_linear_factors_others_and_what_is_not_there():
    random = np.random.default_rng(0)
    classes, numbers = random.integers(6, size=1000), random.uniform(size=1000)
    fake = random.integers(3, size=1000)
    fake[0] = 3  # alone in its class
    angle = random.uniform(0.0, 2.0 * np.pi, size=1000)
    radius = 1.0 + 2.0 * classes + 0.1 * random.normal(size=1000)  # rings around the same point
    rest = random.normal(size=[9, 1000])
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle), 9.0 * numbers, *rest], axis=1)
    interpreter = fit_interpreter(
        (identity(12), identity(12)),
        x,
        np.stack([classes, numbers, fake], axis=1),
        names=["ring", "number", "fake"],
        capacity="none",
    )
    # No linear axis captures the ring, so it is given more dimensions.
    sizes = {"residual": 8, "ring": 2, "number": 1, "fake": 1}
    assert interpreter.dimensions_per_factor == sizes
    report = interpreter.report
    assert report.means["none"][2, 1] > 0.9
    assert report.chosen == "none"
    hardly_read = [line for line in str(report).splitlines() if "hardly read" in line]
    assert [line.split()[0] for line in hardly_read] == ["fake"]


@pytest.mark.parametrize(
    ("trained", "chosen"), [(0.80, "none"), (0.803, "none"), (0.83, "affine"), (0.70, "none")]
)
def test_linear_answer_stays_unless_the_flow_clearly_gains(trained, chosen):
    random = np.random.default_rng(0)
    shape = [2000, 2, 1]
    scores = {"none": np.full(shape, 0.8), "affine": random.normal(trained, 0.2, size=shape)}
    report = FitReport({"residual": 1, "a": 1}, 2, 1.0, ["a"], [0.5], scores, {})
    assert report.chosen == chosen
    assert report.gain[0] == pytest.approx(trained - 0.8, abs=0.02)
    assert report.gain[1] == pytest.approx(0.2 / np.sqrt(4000), rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": "cubic"}, "Received: capacity='cubic'"),
        ({"names": ["one"]}, "`names` should be 2 different names"),
        ({"dimensions_per_factor": [3, 1, 2]}, "`dimensions_per_factor` should .* sum to .*, 5\\."),
        (
            {"dimensions_per_factor": {"residual": 3, "b": 1, "a": 1}, "names": ["a", "b"]},
            "`dimensions_per_factor` should have the sizes of",
        ),
        (
            {"dimensions_per_factor": [1, 3, 1], "kept_count": 3},
            "give the residual factor at least those 2 dim",
        ),
        ({"kept_count": 1}, "`kept_count` should be more than the number of factors"),
        ({"kept_count": 4.0}, "Received: kept_count=4.0"),
        ({"seed": None}, "Received: seed=None"),
        ({"step_count": 0}, "Received: step_count=0"),
        ({"noise": -1.0}, "Received: noise=-1.0"),
        ({"validation_data": np.zeros([9, 5])}, "`validation_data` should be inputs and labels"),
        ({"validation_data": (np.zeros([2, 5]), [["a", "b"]] * 2)}, "of the same kind"),
        ({"validation_data": (np.zeros([2, 5]), [[1, 1], [7, 0]])}, "1 instances of other classes"),
        ({"x": np.full([50, 5], np.nan)}, "50 of 50 that are not"),
        ({"labels": np.arange(100).reshape(50, 2)}, "no more than one class of factor 'factor_1'"),
    ],
)
def test_bad_input_raises(options, message):
    x, labels = bend(50, seed=0)
    arguments = {"x": x, "labels": labels, **options}
    with pytest.raises(ValueError, match=message):
        fit_interpreter((identity(5), identity(5)), **arguments)
