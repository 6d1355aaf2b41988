"""Tests of the toy densities: density, samples and entropy against each other and closed forms."""

import math

import keras
import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.datasets import make_moons

from gyoza.data.toy import (
    Arc,
    Banana,
    CheckerBoard,
    EightGaussians,
    Funnel,
    GaussianMixtureDensity,
    Pinwheel,
    TwoMoons,
    base,
)

LOG_2PIE = math.log(2 * math.pi * math.e)

DENSITIES = {
    "eight gaussians": EightGaussians(),
    "eight overlapping gaussians": EightGaussians(radius=1.0, scale=0.6),
    "two moons": TwoMoons(),
    "two overlapping moons": TwoMoons(noise=0.4),
    "checker board": CheckerBoard(),
    "pinwheel": Pinwheel(),
    "pinwheel with one arm": Pinwheel(1, radial_scale=0.5, tangential_scale=0.2, twist=-2.0),
    "banana": Banana(),
    "upright banana": Banana(length=0.7, width=1.2, bend=-1.0),
    "arc": Arc(),
    "arc in the fog": Arc(scale=1.0, noise=0.7),
    "funnel": Funnel(),
    "narrow funnel": Funnel(dimension_count=2, scale=0.6),
    "mixture": GaussianMixtureDensity(),
    "mixture in the plane": GaussianMixtureDensity(2, component_count=3, seed=1),
}


def _each(condition=lambda density: True):
    cases = {name: density for name, density in DENSITIES.items() if condition(density)}
    return pytest.mark.parametrize("density", cases.values(), ids=cases.keys())


def _grid(density, step=0.04):
    """Midpoints of a grid that covers nearly all mass of a density in the plane, and the cell area.

    The cells of the checker board consist of whole cells of this grid.
    """
    x = density.sample(20000, seed=5)
    lower = 2 * np.floor((x.min(axis=0) - 0.5) / 2)
    upper = 2 * np.ceil((x.max(axis=0) + 0.5) / 2)
    axes = [np.arange(a + step / 2, b, step) for a, b in zip(lower, upper, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2), step**2


planar = _each(lambda density: density.dimension_count == 2)


@_each()
def test_entropy_is_the_mean_of_minus_log_prob_over_samples(density):
    values = -density.log_prob(density.sample(40000, seed=11))
    standard_error = values.std() / 200
    # The values of the checker board are all the same.
    assert abs(values.mean() - density.entropy) < 4 * standard_error + 1e-12
    assert isinstance(density.entropy, float)


@planar
def test_total_mass_is_one(density):
    x, area = _grid(density)
    assert np.sum(np.exp(density.log_prob(x))) * area == pytest.approx(1, abs=2e-4)


@planar
def test_samples_have_the_moments_and_the_characteristic_function_of_the_density(density):
    frequencies = np.random.default_rng(3).normal(scale=2.0, size=(2, 20))

    def statistics(x):
        first, second = x.astype("float64").T
        waves = x @ frequencies
        moments = np.stack([first, second, first**2, second**2, first * second], axis=1)
        return np.concatenate([moments, np.cos(waves), np.sin(waves)], axis=1)

    x, area = _grid(density)
    expected = np.exp(density.log_prob(x)) @ statistics(x) * area
    drawn = statistics(density.sample(40000, seed=7))
    scores = (drawn.mean(axis=0) - expected) / (drawn.std(axis=0) / 200 + 1e-9)
    assert np.max(np.abs(scores)) < 4.5


@_each()
def test_samples_follow_from_the_seed(density):
    x = density.sample(50, seed=3)
    assert x.shape == (50, density.dimension_count)
    assert x.dtype == "float32"
    np.testing.assert_array_equal(density.sample(50, seed=3), x)
    assert not np.array_equal(density.sample(50, seed=4), x)


def test_without_a_seed_the_seed_of_keras_decides():
    density = EightGaussians()
    keras.utils.set_random_seed(3)
    first, second = density.sample(5), density.sample(5)
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(density.sample(5), first)
    assert not np.array_equal(first, second)


@_each()
def test_chunks_make_no_difference(density, monkeypatch):
    x = density.sample(100, seed=0)
    whole = density.log_prob(x)
    monkeypatch.setattr(base, "CHUNK_SIZE", 7)
    np.testing.assert_allclose(density.log_prob(x), whole, rtol=1e-12, atol=1e-12)
    assert whole.shape == (100,)
    assert whole.dtype == "float64"


@_each()
def test_empty_input_gives_empty_output(density):
    x = density.sample(0, seed=0)
    assert x.shape == (0, density.dimension_count)
    assert density.log_prob(x).shape == (0,)


@_each()
def test_density_far_away_vanishes_without_nan(density):
    direction = np.full((1, density.dimension_count), 0.6)
    direction[:, 0] = -0.8
    values = np.array([density.log_prob(scale * direction)[0] for scale in (1e1, 1e2, 1e3, 1e4)])
    assert not np.any(np.isnan(values))
    assert np.all(values[1:] <= values[:-1])
    if not isinstance(density, CheckerBoard | Funnel):
        assert np.all(np.isfinite(values))


@_each()
def test_values_that_are_not_finite(density):
    x = density.sample(4, seed=0)
    expected = density.log_prob(x)
    x[1, 0], x[2, -1] = np.nan, -np.inf
    expected[1], expected[2] = np.nan, -np.inf
    np.testing.assert_allclose(density.log_prob(x), expected)


def test_log_prob_takes_lists_integers_and_tensors():
    density = Banana()
    expected = density.log_prob(np.array([[1.0, 2.0]]))
    np.testing.assert_array_equal(density.log_prob([[1, 2]]), expected)
    tensor = keras.ops.convert_to_tensor([[1.0, 2.0]])
    np.testing.assert_array_equal(density.log_prob(tensor), expected)


# Closed forms


@pytest.mark.parametrize(
    ("density", "entropy"),
    [
        (EightGaussians(radius=0.0, scale=0.3), LOG_2PIE + 2 * math.log(0.3)),
        (EightGaussians(radius=1e3, scale=0.3), LOG_2PIE + 2 * math.log(0.3) + math.log(8)),
        (Pinwheel(1, 0.3, 0.1, twist=3.0), LOG_2PIE + math.log(0.03)),
        (CheckerBoard(), math.log(32)),
        (Banana(3.0, 0.2, bend=5.0), LOG_2PIE + math.log(0.6)),
        (Funnel(2, scale=2.0), LOG_2PIE + math.log(2.0)),
    ],
)
def test_entropy_in_closed_form(density, entropy):
    assert density.entropy == pytest.approx(entropy, abs=1e-9)


@pytest.mark.parametrize(
    ("density", "entropy"),
    [
        (EightGaussians(), 3.5247),
        (TwoMoons(), 0.2892),
        # Much more noise than structure: Gaussians with the variances of the sum.
        (TwoMoons(50.0), LOG_2PIE + 2 * math.log(50)),
        (Arc(scale=1e-3, noise=0.3), LOG_2PIE + 2 * math.log(0.3)),
    ],
)
def test_entropy_to_four_digits(density, entropy):
    assert density.entropy == pytest.approx(entropy, abs=5e-4 if entropy > 5 else 5e-5)


def test_entropy_of_a_mixture_has_its_stated_standard_error():
    density = GaussianMixtureDensity(2, component_count=4, spread=1.0, seed=2)
    x, area = _grid(density, step=0.02)
    log_prob = density.log_prob(x)
    entropy = -np.sum(np.exp(log_prob) * log_prob) * area
    assert 0 < density.entropy_standard_error < 2e-3
    assert abs(density.entropy - entropy) < 4 * density.entropy_standard_error
    single = GaussianMixtureDensity(5, component_count=1)
    assert single.entropy == pytest.approx(2.5 * LOG_2PIE + np.log(single.scales).sum())


# Densities against other ways of computing them


@pytest.mark.parametrize("noise", [0.05, 0.4])
def test_moons_match_adaptive_quadrature(noise):
    density = TwoMoons(noise)
    x = np.concatenate([density.sample(5, seed=0), [[0, 0], [1, 0], [0.5, 0.25], [0, -1], [-3, 2]]])

    def log_prob(point):
        def moons(t):
            return np.array([[np.cos(t), np.sin(t)], [1 - np.cos(t), 0.5 - np.sin(t)]])

        def energy(t):
            return np.sum((point - moons(t)) ** 2, axis=1) / (2 * noise**2)

        angles = np.linspace(0, np.pi, 1001)
        energies = np.array([energy(t) for t in angles])
        lowest = energies.min()
        integral, _ = integrate.quad(
            lambda t: np.exp(lowest - energy(t)).sum(),
            0,
            np.pi,
            points=angles[energies.argmin(axis=0)],
            epsabs=0,
            epsrel=1e-10,
            limit=200,
        )
        return math.log(integral / (4 * math.pi**2 * noise**2)) - lowest

    expected = [log_prob(point) for point in x]
    np.testing.assert_allclose(density.log_prob(x), expected, rtol=1e-9, atol=1e-9)


def test_moons_have_the_layout_of_scikit_learn():
    x, moon = make_moons(400, noise=None, shuffle=False)
    noise = 1e-3
    log_prob = TwoMoons(noise).log_prob(x)
    # On a moon of length π, in the middle of its noise, and at either end half of that.
    middle = -math.log(2 * math.pi) - math.log(noise * math.sqrt(2 * math.pi))
    for k in (0, 1):
        np.testing.assert_allclose(log_prob[moon == k][1:-1], middle, atol=1e-3)
        np.testing.assert_allclose(log_prob[moon == k][[0, -1]], middle - math.log(2), atol=1e-3)


@pytest.mark.parametrize(("scale", "noise"), [(0.5, 0.1), (2.0, 0.2), (0.3, 1.5)])
def test_arc_matches_a_sum_over_a_fine_grid(scale, noise):
    density = Arc(scale, noise)
    # One and two minima of the energy, close to where their number changes, and far away.
    cusp = 1 + (noise / scale) ** 2
    others = [[0, cusp], [0, cusp + 0.05], [0.01, cusp + 0.1], [0.2, 1.5], [0, 9], [-4, 9], [5, -5]]
    x = np.concatenate([density.sample(10, seed=0), others])
    position = np.linspace(-20, 20, 400_001)
    step = 40 / 400_000
    expected = [
        np.logaddexp.reduce(
            stats.norm.logpdf(position, scale=scale)
            + stats.norm.logpdf(first, position, noise)
            + stats.norm.logpdf(second, position**2 / 2, noise)
        )
        + math.log(step)
        for first, second in x
    ]
    np.testing.assert_allclose(density.log_prob(x), expected, rtol=1e-10, atol=1e-9)


def test_funnel_is_a_chain_of_normal_distributions():
    density = Funnel(dimension_count=4, scale=1.5)
    x = density.sample(20, seed=0).astype("float64")
    expected = stats.norm.logpdf(x[:, 0], scale=1.5)
    expected += stats.norm.logpdf(x[:, 1:], scale=np.exp(x[:, :1] / 2)).sum(axis=1)
    np.testing.assert_allclose(density.log_prob(x), expected)
    # In the neck, on the axis, the density is finite however narrow it is.
    assert density.log_prob([[-2000.0, 0.0, 0.0, 0.0]])[0] == pytest.approx(
        stats.norm.logpdf(2000, scale=1.5) - 1.5 * math.log(2 * math.pi) + 3000
    )


def test_mixture_is_the_one_its_attributes_describe():
    density = GaussianMixtureDensity(3, component_count=4, seed=5)
    np.testing.assert_allclose(density.weights.sum(), 1)
    x = density.sample(20, seed=0)
    prob = 0
    for k in range(4):
        root = density.rotations[k] * density.scales[k]
        prob += density.weights[k] * stats.multivariate_normal.pdf(
            x, density.means[k], root @ root.T
        )
    np.testing.assert_allclose(density.log_prob(x), np.log(prob))


def test_mixture_draws_around_its_means():
    density = GaussianMixtureDensity(16, component_count=3)
    x = density.sample(20000, seed=0).astype("float64")
    mean = density.weights @ density.means
    roots = density.rotations * density.scales[:, None]
    covariance = np.einsum("k,kij,klj->il", density.weights, roots, roots)
    covariance += (density.weights[:, None] * (density.means - mean)).T @ (density.means - mean)
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=0.04)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.05)


def test_mixture_has_uniformly_distributed_rotations():
    rotations = GaussianMixtureDensity(2, component_count=1000).rotations
    np.testing.assert_allclose(rotations @ rotations.swapaxes(1, 2), [np.eye(2)] * 1000, atol=1e-12)
    # Elements of a uniformly distributed orthogonal matrix have mean 0 and variance 1/2.
    np.testing.assert_allclose(rotations.mean(axis=0), 0, atol=4 * math.sqrt(0.5 / 1000))


def test_mixture_depends_on_its_seed():
    first, again, other = (GaussianMixtureDensity(4, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.means, again.means)
    np.testing.assert_array_equal(first.sample(9, seed=0), again.sample(9, seed=0))
    assert not np.allclose(first.means, other.means)


def test_swirl_turns_an_arm_by_its_radius():
    x = Pinwheel(1, radial_scale=0.5, tangential_scale=1e-4, twist=1.5).sample(200, seed=0)
    radius = np.hypot(*x.T)
    kept = radius > 0.1
    turned = np.exp(1j * 1.5 * radius)
    # A blob this narrow lies on the axis, with a small part on its negative half.
    points = (x[:, 0] + 1j * x[:, 1]) / turned / radius
    assert kept.sum() > 150
    np.testing.assert_allclose(np.abs(points.real[kept]), 1, atol=1e-4)


def test_cells_of_the_checker_board():
    centres = np.arange(-3.0, 4, 2)
    x = np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1).reshape(-1, 2)
    is_dark = np.isfinite(CheckerBoard().log_prob(x)).reshape(4, 4)
    np.testing.assert_array_equal(is_dark, np.indices((4, 4)).sum(axis=0) % 2 == 0)
    outside = [[-5.0, -3.0], [-5.0, -1.0], [4.0, 1.0], [4.0, 3.0]]
    np.testing.assert_array_equal(CheckerBoard().log_prob(outside), -np.inf)


def test_rounding_moves_no_point_off_its_dark_cell():
    class AlwaysAtTheUpperEdge:
        def integers(self, high, size):
            return np.random.default_rng(0).integers(high, size=size)

        def uniform(self, low, high, size):
            return np.full(size, np.nextafter(high, low))

    x = CheckerBoard()._draw(AlwaysAtTheUpperEdge(), 100)
    assert np.all(np.isfinite(CheckerBoard().log_prob(x)))


# Bad input


@_each()
def test_bad_arguments_of_the_methods(density):
    for count in (-1, 2.5, True, "3", None):
        with pytest.raises(ValueError, match="`count` should be an integer of at least 0"):
            density.sample(count)
    for seed in (-1, 0.5):
        with pytest.raises(ValueError, match=r"`seed` should be .* Received: seed="):
            density.sample(3, seed=seed)
    wrong_shapes = [(), (density.dimension_count,), (4, density.dimension_count + 1), (4, 1)]
    for shape in [*wrong_shapes, (1, 4, density.dimension_count)]:
        with pytest.raises(ValueError, match=r"`x` should have shape \[count, .* Received: x.sha"):
            density.log_prob(np.zeros(shape))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: EightGaussians(radius=-1.0), "radius"),
        (lambda: EightGaussians(scale=0.0), "scale"),
        (lambda: TwoMoons(noise=0.0), "noise"),
        (lambda: TwoMoons(noise=math.nan), "noise"),
        (lambda: Pinwheel(arm_count=0), "arm_count"),
        (lambda: Pinwheel(radial_scale=-1.0), "radial_scale"),
        (lambda: Pinwheel(tangential_scale=math.inf), "tangential_scale"),
        (lambda: Pinwheel(twist=math.nan), "twist"),
        (lambda: Banana(length=0.0), "length"),
        (lambda: Banana(width=0.0), "width"),
        (lambda: Banana(bend=math.inf), "bend"),
        (lambda: Arc(scale=0.0), "scale"),
        (lambda: Arc(noise=-0.1), "noise"),
        (lambda: Funnel(dimension_count=1), "dimension_count"),
        (lambda: Funnel(scale=0.0), "scale"),
        (lambda: GaussianMixtureDensity(dimension_count=0), "dimension_count"),
        (lambda: GaussianMixtureDensity(component_count=2.5), "component_count"),
        (lambda: GaussianMixtureDensity(spread=-1.0), "spread"),
        (lambda: GaussianMixtureDensity(seed=-1), "seed"),
    ],
)
def test_bad_arguments_of_the_constructors(make, name):
    with pytest.raises(ValueError, match=f"`{name}` should be .* Received: {name}="):
        make()
