"""What changes and what stays when one factor is fixed or replaced."""

import warnings

import numpy as np
import pytest

from gyoza.modelling.metrics import factor_vae_score, swap_consistency

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers([3, 4, 5], size=[3000, 3])
NOISE = RANDOM.normal(size=[3000, 3])


def test_score_of_constructed_codes():
    assert factor_vae_score(LABELS, LABELS) == 1.0
    assert factor_vae_score(LABELS[:, [2, 0, 1, 0]] * [1.0, -2.0, 3.0, 1.0], LABELS) == 1.0
    padded = np.pad(LABELS, [(0, 0), (1, 0)])  # a constant dimension is nobody's
    assert factor_vae_score(padded, LABELS) == 1.0
    assert factor_vae_score(NOISE, LABELS) == pytest.approx(1 / 3, abs=0.06)
    assert factor_vae_score(np.zeros([3000, 2]), LABELS) == pytest.approx(1 / 3)


def test_rotated_codes_have_factors_in_blocks_only():
    angle = np.pi / 4
    rotation = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    pairs = np.stack([LABELS[:, 0], 0.01 * NOISE[:, 0], LABELS[:, 1], 0.01 * NOISE[:, 1]], axis=1)
    rotated = (pairs.reshape(-1, 2, 2) @ rotation).reshape(-1, 4)
    assert factor_vae_score(rotated, LABELS[:, :2], [2, 0, 2]) == 1.0
    mixed = LABELS[:, :2] @ rotation
    assert factor_vae_score(mixed, LABELS[:, :2], ranks=False) < 0.75


def test_real_numbers_are_alike_within_a_bin():
    assert factor_vae_score(NOISE, NOISE) == 1.0


def test_value_is_that_of_another_library():
    """That of disentanglement_lib 1.5 (factor_vae.py), from 20 000 fresh votes of 16 instances."""
    random = np.random.default_rng(0)
    labels = random.integers([3, 4, 5], size=[3000, 3])
    mixing = np.array([[1.0, 0.7, 0.5], [-0.6, 1.0, 0.5], [0.5, -0.5, 1.0]])
    codes = labels @ mixing + 0.5 * random.normal(size=[3000, 3])
    assert factor_vae_score(codes, labels, votes=3000, batch_size=16) == pytest.approx(
        0.8207, abs=0.03
    )


def test_ranks_are_spoilt_neither_by_outliers_nor_by_transforms():
    codes = LABELS + 0.1 * NOISE
    spoilt = codes.copy()
    spoilt[7, 0] = 1e6
    assert factor_vae_score(codes, LABELS, ranks=True) == 1.0
    assert factor_vae_score(spoilt, LABELS, ranks=True) == 1.0
    assert factor_vae_score(NOISE, np.exp(5 * NOISE), ranks=True) == 1.0
    mixed = codes @ [[1.0, 0.7, 0.5], [-0.6, 1.0, 0.5], [0.5, -0.5, 1.0]]
    expected = factor_vae_score(mixed, LABELS, ranks=True)
    assert 0.5 < expected < 0.99
    assert factor_vae_score(np.exp(mixed), LABELS, ranks=True) == expected
    with pytest.warns(UserWarning, match=r"`factor_vae_score` is 0\.\d\d as published") as caught:
        published = factor_vae_score(spoilt, LABELS)
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert factor_vae_score(spoilt, LABELS, ranks=False) == published < 0.5
        factor_vae_score(codes, LABELS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": LABELS[:, 0]}, "K of at least 2"),
        ({"labels": LABELS[:10]}, r"\[3000, K\]"),
        ({"codes": NOISE * np.nan}, "`codes` should be finite"),
        ({"dimensions_per_factor": [1, 1]}, "should sum to 3"),
        ({"votes": 1}, "`votes` should be"),
        ({"batch_size": 1.5}, "`batch_size` should be"),
        ({"labels": np.arange(6000).reshape(3000, 2), "categorical": True}, "share a value"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        factor_vae_score(**{"codes": NOISE, "labels": LABELS} | arguments)


def test_swaps_count_pairs_whose_labels_differ():
    a = np.array([[0, 5], [1, 5], [2, 6], [3, 6], [4, 6]])
    b = np.array([[1, 6], [1, 5], [0, 5], [0, 6], [0, 5]])
    predicted = np.array([[1, 5], [7, 7], [0, 5], [0, 6], [9, 6]])
    follows, keeps = swap_consistency(predicted, a, b)
    np.testing.assert_allclose(follows, [3 / 4, 1 / 3])
    np.testing.assert_allclose(keeps, [0.0, 2 / 3])
    first = swap_consistency(predicted[:, 0], a[:, 0], b[:, 0])
    assert first == (3 / 4, 0.0)
    names = [labels.astype(str) for labels in (predicted, a, b)]
    np.testing.assert_allclose(swap_consistency(*names).keeps, keeps)


def test_bad_swaps():
    a, b = np.array([0, 1]), np.array([1, 0])
    with pytest.raises(ValueError, match="the same shape"):
        swap_consistency(a[:1], a, b)
    with pytest.raises(ValueError, match="should differ"):
        swap_consistency(a, a, a)
    with pytest.raises(ValueError, match="`predicted` should be classes"):
        swap_consistency(np.array([0.2, 0.8]), a, b)
