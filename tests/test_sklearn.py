"""Flows as estimators of scikit-learn."""

import pickle
import random

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.base import clone
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import gyoza
from gyoza.data import Table
from gyoza.modelling import distributions
from gyoza.modelling.conditioners import MADE
from gyoza.modelling.flow_layers import FlowModel, MaskedAffine, Standardize, TriangularAffine
from gyoza.sklearn import FlowDensity, FlowRegressor
from gyoza.sklearn.fitting import draw_seed

compiles_each_time = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="each fit compiles a flow of its own"
)


def make_diagonal():
    return FlowModel([Standardize()])


def make_triangular():
    return FlowModel([Standardize(), TriangularAffine()])


def make_conditional():
    return FlowModel([Standardize(), MaskedAffine(conditioner=MADE([8]))])


def make_mixed():
    """Makes a flow whose quantiles are known in one dimension alone."""
    return FlowModel([MaskedAffine(conditioner=MADE([8]))], distributions.GaussianMixture(2))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal([1.0, -20.0], [2.0, 5.0], size=[80, 2])


def test_a_density_without_weights_is_that_of_a_gaussian_mixture(x):
    density = FlowDensity(flow=make_diagonal, epochs=1, validation_fraction=0.0).fit(x)
    expected = GaussianMixture(covariance_type="diag", reg_covar=0.0).fit(x)
    np.testing.assert_allclose(density.score_samples(x), expected.score_samples(x), rtol=1e-4)
    assert density.score(x) == pytest.approx(expected.score(x), rel=1e-5)
    samples = density.sample(4000, random_state=0)
    np.testing.assert_allclose(samples.mean(axis=0), x.mean(axis=0), rtol=0.1)
    np.testing.assert_array_equal(samples, density.sample(4000, random_state=0))


def test_xla_can_be_left_out_and_is_where_training_is_short(x, monkeypatch):
    options = {"flow": make_diagonal, "epochs": 1, "batch_size": 80}
    assert FlowDensity(**options, jit_compile=False).fit(x).flow_.jit_compile is False
    assert clone(FlowRegressor(jit_compile=False)).jit_compile is False
    if keras.backend.backend() == "tensorflow":
        assert FlowDensity(**options, jit_compile=True).fit(x).flow_.jit_compile is True
        assert FlowDensity(**options).fit(x).flow_.jit_compile is False
        monkeypatch.setattr("gyoza.sklearn.fitting.LEAST_STEPS_FOR_XLA", 1)
        assert FlowDensity(**options).fit(x).flow_.jit_compile


@compiles_each_time
def test_fits_of_the_same_random_state_are_equal_and_leave_no_trace(x):
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = random.random(), np.random.random()  # noqa: NPY002
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    options = {"layer_count": 1, "hidden_sizes": [4], "epochs": 2, "random_state": 3}
    scores = [FlowDensity(**options).fit(x).score_samples(x) for _ in range(2)]
    assert (random.random(), np.random.random()) == expected  # noqa: NPY002
    np.testing.assert_array_equal(*scores)
    other = FlowDensity(**{**options, "random_state": 4}).fit(x).score_samples(x)
    assert np.abs(other - scores[0]).max() > 1e-4


@compiles_each_time
def test_estimators_work_in_pipelines_and_searches_and_can_be_copied(x):
    pipeline = make_pipeline(
        StandardScaler(), FlowDensity(flow=make_triangular, epochs=1, random_state=0)
    )
    grid = {"flowdensity__learning_rate": [1e-3, 1.0]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(x)
    assert search.best_params_ == {"flowdensity__learning_rate": 1e-3}
    density = search.best_estimator_[-1]
    loaded = pickle.loads(pickle.dumps(density))
    np.testing.assert_allclose(loaded.score_samples(x), density.score_samples(x), rtol=1e-6)
    copy = clone(density)
    assert copy.get_params() == density.get_params()
    assert not hasattr(copy, "flow_")


@compiles_each_time
def test_training_stops_when_it_gets_no_better(x):
    x = np.concatenate([x, x])
    density = FlowDensity(
        flow=make_triangular, learning_rate=1.0, epochs=50, patience=2, random_state=0
    ).fit(x)
    losses = density.history_["val_loss"]
    assert density.n_epochs_ == len(losses) < 50
    # The weights are those of the best epoch, whose loss they have on the rows that were held out.
    order = np.random.default_rng(draw_seed(0)).permutation(len(x))
    assert density.score(x[order[:16]]) == pytest.approx(-min(losses), rel=1e-4)


@compiles_each_time
def test_weights_of_rows_count(x):
    weight = np.arange(len(x)) / len(x)
    options = {"flow": make_diagonal, "epochs": 1, "validation_fraction": 0.0, "batch_size": 80}
    density = FlowDensity(**options).fit(x, sample_weight=weight)
    expected = -np.mean(weight * density.score_samples(x))
    assert density.history_["loss"][0] == pytest.approx(expected, rel=1e-4)


@compiles_each_time
def test_data_frames_of_several_kinds_are_scored_and_sampled(x):
    frame = pd.DataFrame(x, columns=["height", "balance"])
    frame["city"] = np.where(x[:, 0] > 1.0, "Bonn", "Aachen")
    density = FlowDensity(flow=make_diagonal, table=True, epochs=1, random_state=0).fit(frame)
    assert density.table_.columns["city"].kind == "categorical"
    assert np.all(np.isfinite(density.score_samples(frame[["city", "balance", "height"]][::-1])))
    samples = density.sample(5)
    assert list(samples.columns) == ["height", "balance", "city"]
    assert set(samples["city"]) <= {"Bonn", "Aachen"}
    table = Table(frame, kinds={"height": "real"})
    other = clone(density).set_params(table=table).fit(frame)
    assert other.table_.columns == table.columns


def test_what_does_not_fit_is_rejected(x):
    with pytest.raises(ValueError, match="`validation_fraction` should be at least 0 and below 1"):
        FlowDensity(validation_fraction=1.0).fit(x)
    with pytest.raises(TypeError, match="should be a `FlowModel`"):
        FlowDensity(flow=Standardize).fit(x)
    with pytest.raises(TypeError, match="`frame` should be a data frame"):
        FlowDensity(table=True).fit(x)
    assert "sklearn" in dir(gyoza)


@pytest.mark.parametrize("estimator", [FlowDensity, FlowRegressor])
def test_columns_of_strings_are_rejected_with_what_encodes_them(x, estimator):
    frame = pd.DataFrame({"height": x[:, 0], "city": "Bonn"})
    for data, received in [
        (frame, "'Bonn' in column 'city'"),
        (frame.astype({"city": "category"}), "'Bonn' in column 'city'"),
        (frame.to_numpy(), r"'Bonn' at index \[0, 1\]"),
        (frame.assign(city=pd.Timestamp(0)), r"Timestamp\(.*\) in column 'city'"),
    ]:
        advice = rf"`{estimator.__name__}\(table=True\)` encodes .*Received: {received}"
        with pytest.raises(ValueError, match=advice):
            estimator().fit(data, x[:, 1])


def test_targets_that_are_strings_are_rejected(x):
    y = np.where(x[:, 0] > 0, "tall", "small")
    for X, table in [(x, False), (pd.DataFrame(x, columns=["a", "b"]), True)]:
        with pytest.raises(ValueError, match=r"`y` should hold numbers. .*take a classifier"):
            FlowRegressor(table=table).fit(X, y)


@compiles_each_time
def test_a_regressor_learns_the_distribution_of_targets():
    # Given inputs, targets are normal around a line, and wider to the right.
    random = np.random.default_rng(0)
    x = random.uniform(-1.0, 1.0, size=[2000, 1])
    mean, deviation = 3.0 - 2.0 * x[:, 0], np.exp(x[:, 0])
    y = mean + deviation * random.normal(size=len(x))
    options = {"epochs": 12, "batch_size": 300, "learning_rate": 0.05, "random_state": 0}
    regressor = FlowRegressor(flow=make_conditional, **options).fit(x, y)
    assert regressor.score(x, y) == pytest.approx(np.corrcoef(mean, y)[0, 1] ** 2, abs=0.02)
    exact = scipy.stats.norm(mean[:100], deviation[:100])
    assert np.abs(regressor.predict(x[:100]) - mean[:100]).mean() < 0.15
    low, high = regressor.predict_quantiles(x[:100], [0.1, 0.9]).T
    assert np.abs(low - exact.ppf(0.1)).mean() < 0.3
    assert np.abs(high - exact.ppf(0.9)).mean() < 0.3
    gap = exact.logpdf(y[:100]) - regressor.log_prob(x[:100], y[:100])
    assert np.abs(gap.mean()) < 0.05
    u = regressor.probability_integral_transform(x, y)
    np.testing.assert_allclose(np.quantile(u, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.03)
    samples = regressor.sample(x[:100], 200, random_state=0)
    assert samples.shape == (200, 100)
    assert np.abs(samples.mean(axis=0) - regressor.predict(x[:100])).mean() < 0.15


@compiles_each_time
@pytest.mark.parametrize(("flow", "is_exact"), [(make_conditional, True), (make_mixed, False)])
def test_means_and_quantiles_of_several_targets(x, flow, is_exact):
    y = np.stack([x[:, 0], x[:, 1], x[:, 0] - x[:, 1]], axis=1)
    regressor = FlowRegressor(flow=flow, epochs=1, sample_count=50, random_state=0).fit(x, y)
    assert regressor._is_exact == is_exact
    means = regressor.predict(x)
    assert means.shape == (80, 3)
    np.testing.assert_allclose(regressor.predict(x), means)
    quantiles = regressor.predict_quantiles(x[:7], [0.2, 0.8])
    assert quantiles.shape == (7, 2, 3)
    assert np.all(quantiles[:, 0] < quantiles[:, 1])
    single = FlowRegressor(flow=flow, epochs=1, sample_count=50, random_state=0).fit(x, y[:, :1])
    assert single.predict_quantiles(x[:7], [0.2]).shape == (7, 1, 1)
    assert single.predict(x[:7]).shape == (7, 1)
    assert single.sample(x[:7], 3).shape == (3, 7, 1)


@compiles_each_time
def test_inputs_can_be_data_frames_of_several_kinds(x):
    frame = pd.DataFrame({"price": np.exp(x[:, 0]), "city": np.where(x[:, 1] > -20, "A", "B")})
    regressor = FlowRegressor(flow=make_conditional, table=True, epochs=1).fit(frame, x[:, 1])
    assert regressor.flow_.context_shape == (3,)
    assert regressor.predict(frame[:5]).shape == (5,)
    with pytest.raises(ValueError, match=r"`quantiles` should be between 0 and 1"):
        regressor.predict_quantiles(frame, [1.0])


# Those that fit often, or for long enough to predict something.
LONG = {
    "check_estimators_dtypes",
    "check_fit_idempotent",
    "check_fit_score_takes_y",
    "check_regressor_data_not_an_array",
    "check_regressor_multioutput",
    "check_regressors_int",
    "check_regressors_train",
    "check_supervised_y_2d",
}


TRAINING = {
    "epochs": 10,
    "batch_size": 32,
    "learning_rate": 0.05,
    "sample_count": 4,
    "random_state": 0,
}


def list_checks(estimator):
    """Lists the checks of scikit-learn, but for one.

    Weights of rows do not have the same effect as repetitions, as batches are others then.
    """
    for checked, check in estimator_checks_generator(estimator):
        name = getattr(check, "func", check).__name__
        if name != "check_sample_weight_equivalence_on_dense_data":
            marks = [pytest.mark.long] if name in LONG else []
            yield pytest.param(checked, check, marks=marks, id=name)


@compiles_each_time
@pytest.mark.parametrize(
    ("estimator", "check"), list_checks(FlowDensity(flow=make_triangular, epochs=1))
)
@pytest.mark.filterwarnings("ignore")
def test_densities_keep_to_the_conventions_of_scikit_learn(estimator, check):
    check(estimator)


@compiles_each_time
@pytest.mark.parametrize(
    ("estimator", "check"), list_checks(FlowRegressor(flow=make_conditional, **TRAINING))
)
@pytest.mark.filterwarnings("ignore")
def test_regressors_keep_to_the_conventions_of_scikit_learn(estimator, check):
    if check.func.__name__ not in LONG:
        estimator.set_params(epochs=1)
    check(estimator)
