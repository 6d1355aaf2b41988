import numpy as np
import pytest

from gyoza.modelling.metrics import agreement

SIZES = [3, 2, 1]
N = 4000


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(0).normal(size=[N, 6])


def mix_blocks(codes, seed=0):
    """Applies an invertible map to each block."""
    random = np.random.default_rng(seed)
    blocks = np.split(codes, np.cumsum(SIZES)[:-1], axis=1)
    maps = [random.normal(size=[size, size]) for size in SIZES]
    shifts = [random.normal(size=size) for size in SIZES]
    parts = zip(blocks, maps, shifts, strict=True)
    return np.concatenate([block @ matrix + shift for block, matrix, shift in parts], axis=1)


def test_linear_maps_within_blocks_do_not_matter(codes):
    np.testing.assert_allclose(agreement(codes, mix_blocks(codes), SIZES), np.eye(3), atol=0.01)
    noisy = codes + np.random.default_rng(1).normal(size=codes.shape)
    np.testing.assert_allclose(
        agreement(mix_blocks(codes, 1), mix_blocks(noisy, 2), SIZES),
        agreement(codes, noisy, SIZES),
        atol=1e-6,
    )


def test_it_is_the_mean_squared_canonical_correlation(codes):
    correlations = np.array([0.9, 0.5, 0.1, 0.8, 0.2, 0.6])
    noise = np.random.default_rng(2).normal(size=codes.shape)
    other = correlations * codes + np.sqrt(1 - correlations**2) * noise
    scores = agreement(codes, mix_blocks(other), SIZES)
    expected = [np.mean(block**2) for block in np.split(correlations, np.cumsum(SIZES)[:-1])]
    np.testing.assert_allclose(np.diag(scores), expected, atol=0.03)


def test_independent_codes_do_not_agree(codes):
    other = np.random.default_rng(3).normal(size=codes.shape)
    assert np.all(agreement(codes, other, SIZES) < 0.01)


def test_permuted_factors_show_off_the_diagonal(codes):
    scores = agreement(codes[:, [0, 1, 2, 3]], codes[:, [2, 3, 0, 1]], [2, 2])
    np.testing.assert_allclose(scores, [[0, 1], [1, 0]], atol=0.01)


def test_a_code_within_another_agrees_in_part(codes):
    # One of two directions is shared: half of either block is told by the other.
    scores = agreement(codes[:, [0, 1, 2]], codes[:, [0, 3, 4]], [2, 1])
    np.testing.assert_allclose(scores[0, 0], 0.5, atol=0.02)


def test_blocks_may_be_empty_or_thin(codes):
    doubled = codes[:, [0, 1, 0, 2]]  # the first dimension twice
    scores = agreement(doubled, codes[:, [1, 0, 3, 2]], [0, 3, 1])
    assert np.all(scores[0] == 0)
    assert np.all(scores[:, 0] == 0)
    # All of two directions from three, and two of three back.
    np.testing.assert_allclose(scores[1, 1], (1 + 2 / 3) / 2, atol=0.02)
    constant = np.concatenate([np.ones([N, 1]), codes[:, :1]], axis=1)
    np.testing.assert_allclose(agreement(constant, constant, [1, 1]), [[0, 0], [0, 1]], atol=0.01)


def test_sizes_by_name(codes):
    named = agreement(codes, codes, {"residual": SIZES[0], **dict(enumerate(SIZES[1:]))})
    np.testing.assert_array_equal(named, agreement(codes, codes, SIZES))


def test_wrong_arguments(codes):
    with pytest.raises(ValueError, match="`seed` should be an integer of at least 0"):
        agreement(codes, codes, SIZES, seed=-1)
    with pytest.raises(ValueError, match="the same shape"):
        agreement(codes, codes[:, :5], SIZES)
    with pytest.raises(ValueError, match="should sum to 6"):
        agreement(codes, codes, [3, 2])
    with pytest.raises(ValueError, match="twice as many instances"):
        agreement(codes[:6], codes[:6], SIZES)
