import keras
import numpy as np
import pytest
from keras import layers

from gyoza.interpretation import fit_interpreter
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


@pytest.fixture(scope="module")
def fitted():
    x, labels = bend(1200, seed=0)
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
        step_count=250,
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
    assert "chosen: affine flow" in str(report)


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


def test_linear_answer_stays_where_training_adds_nothing():
    random = np.random.default_rng(0)
    classes, numbers = random.integers(4, size=600), random.uniform(size=600)
    rest = random.normal(size=[2, 600])
    x = np.stack([classes + 0.1 * random.normal(size=600), 3.0 * numbers, *rest], axis=1)
    labels = np.stack([classes, numbers], axis=1)
    interpreter = fit_interpreter(
        (identity(4), identity(4)), x, labels, learning_rate=1e-9, step_count=1, hidden_sizes=[8]
    )
    report = interpreter.report
    assert interpreter.dimensions_per_factor == {"residual": 2, "factor_1": 1, "factor_2": 1}
    np.testing.assert_allclose(report.means["none"], report.means["affine"], atol=0.01)
    assert report.chosen == "none"
    assert report.means["none"].min() > 0.9


def test_bad_input_is_refused():
    x, labels = bend(50, seed=0)
    parts = identity(5), identity(5)
    with pytest.raises(ValueError, match="Received: capacity='cubic'"):
        fit_interpreter(parts, x, labels, capacity="cubic")
    with pytest.raises(ValueError, match="`names` should be 2 different names"):
        fit_interpreter(parts, x, labels, names=["one"])
    with pytest.raises(ValueError, match=r"`dimensions_per_factor` should sum to .* 5"):
        fit_interpreter(parts, x, labels, [3, 1, 2])
    with pytest.raises(ValueError, match=r"`kept_count` should .* Received: kept_count=1"):
        fit_interpreter(parts, x, labels, [3, 1, 1], kept_count=1)
