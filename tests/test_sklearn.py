"""Flows as estimators of scikit-learn."""

import pickle
import random

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import gyoza
from gyoza.data import Table
from gyoza.modelling.flow_layers import FlowModel, Standardize, TriangularAffine
from gyoza.sklearn import FlowDensity
from gyoza.sklearn.fitting import draw_seed

compiles_each_time = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="each fit compiles a flow of its own"
)


def make_diagonal():
    return FlowModel([Standardize()])


def make_triangular():
    return FlowModel([Standardize(), TriangularAffine()])


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


def test_what_does_not_fit_is_refused(x):
    with pytest.raises(ValueError, match="`validation_fraction` should be at least 0 and below 1"):
        FlowDensity(validation_fraction=1.0).fit(x)
    with pytest.raises(TypeError, match="should be a `FlowModel`"):
        FlowDensity(flow=Standardize).fit(x)
    with pytest.raises(TypeError, match="`frame` should be a data frame"):
        FlowDensity(table=True).fit(x)
    assert "sklearn" in dir(gyoza)


def list_checks(*estimators):
    """Lists the checks of scikit-learn."""
    for estimator in estimators:
        for checked, check in estimator_checks_generator(estimator):
            name = getattr(check, "func", check).__name__
            yield pytest.param(checked, check, id=f"{type(estimator).__name__}-{name}")


@compiles_each_time
@pytest.mark.parametrize(
    ("estimator", "check"), list_checks(FlowDensity(flow=make_triangular, epochs=1))
)
@pytest.mark.filterwarnings("ignore")
def test_conventions_of_scikit_learn(estimator, check):
    check(estimator)
