"""Scores are those that other libraries compute of the same codes.

`make test-peers` runs these. disentanglement_lib computes the scores that it has, or what follows
its probes where these are fitted in another way. Other scores are put together from ennemi, pandas,
permetrics, scikit-learn and SciPy.
"""

import functools
import importlib
import itertools
import sys

import ennemi
import gin
import numpy as np
import pandas as pd
import permetrics
import pytest
import scipy
from scipy.stats import contingency
from sklearn import decomposition, linear_model, metrics, neighbors
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gyoza.modelling import metrics as ours

# What gin has for TensorFlow 1, which scores do not need, cannot be imported with TensorFlow 2.
sys.modules["gin.tf"] = gin
dci, factor_vae, mig, modularity, sap, utils = (
    importlib.import_module(f"disentanglement_lib.evaluation.metrics.{name}")
    for name in ("dci", "factor_vae", "mig", "modularity_explicitness", "sap_score", "utils")
)
# The package of the same name as its module's function hides the module.
interventions = importlib.import_module("gyoza.modelling.metrics.interventions")

COUNT = 2000
RANDOM = np.random.default_rng(0)
CLASSES = RANDOM.integers([3, 4, 5], size=[COUNT, 3])
REAL = RANDOM.normal(size=[COUNT, 3])
MIXING = np.array([[1.0, 0.7, 0.0, 0.5], [-0.6, 1.0, 0.3, 0.0], [0.5, -0.5, 1.0, 0.5]])
NOISE = RANDOM.normal(size=[COUNT, 4])
LABELS = {"classes": CLASSES, "real numbers": REAL}
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)


def make_codes(labels, noise=0.3):
    return labels @ MIXING + noise * NOISE


class Data:
    """What disentanglement_lib draws instances from, which returns all of them."""

    def __init__(self, codes, labels):
        self.codes, self.labels = codes, labels

    def sample(self, count, random_state):
        assert count == len(self.codes)
        return self.labels, self.codes


def identity(observations):
    return observations


def divide_by_mass(columns, bins):
    return np.stack([pd.qcut(column, bins, labels=False) for column in columns])


@pytest.fixture(params=[False, True], ids=["width", "mass"])
def ranks(request):
    """Whether bins have equal mass; disentanglement_lib has those of equal width."""
    gin.bind_parameter("discretizer.num_bins", 20)
    find_bins = divide_by_mass if request.param else utils._histogram_discretize
    gin.bind_parameter("discretizer.discretizer_fn", find_bins)
    return request.param


def divide(columns):
    """Returns the bins of columns of real numbers, and classes as they are, `[K, N]`."""
    return columns.T if columns.dtype.kind == "i" else utils.make_discretizer(columns.T)


def inform(codes, labels):
    """Returns what ennemi finds that bins of codes tell about labels, `[n, K]`."""
    pairs = itertools.product(divide(codes), divide(labels))
    found = [ennemi.estimate_mi(v, z, discrete_x=True, discrete_y=True) for z, v in pairs]
    return np.reshape(found, [codes.shape[1], labels.shape[1]])


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_information(labels, ranks):
    codes = make_codes(labels)
    options = {"robust": False, "ranks": ranks}
    information = inform(codes, labels)
    close(ours.mutual_information(codes, labels, **options), information)
    blocks = [information[:1].max(axis=0), information[1:].max(axis=0)]
    close(ours.mutual_information(codes, labels, [1, 3], **options), blocks)

    gap = mig.compute_mig(Data(codes, divide(labels).T), identity, None, None, COUNT, COUNT)
    close(ours.mutual_information_gap(codes, labels, **options), gap["discrete_mig"])
    close(ours.modularity(codes, labels, **options), modularity.modularity(information))
    close(
        ours.modularity(codes, labels, [1, 3], **options), modularity.modularity(np.array(blocks))
    )


def test_information_that_is_significant(ranks):
    codes = np.concatenate([make_codes(CLASSES), NOISE], axis=1)
    information = inform(codes, CLASSES)
    level = 0.01 / information.size
    for i, column in enumerate(divide(codes)):
        for k, label in enumerate(CLASSES.T):
            table = pd.crosstab(column, label).to_numpy()
            freedoms = (table.shape[0] - 1) * (table.shape[1] - 1)
            expected = contingency.expected_freq(table)
            test = scipy.stats.chisquare(table, expected, table.size - 1 - freedoms, axis=None)
            information[i, k] *= test.pvalue < level
    informative = information[information.any(axis=1)]  # without others, which count as 0 there
    assert len(informative) == 4
    found = ours.modularity(codes, CLASSES, robust=False, ranks=ranks, significance=0.01)
    close(found, modularity.modularity(informative))


class Replay:
    """Draws again what has been drawn, as data and as source of random numbers."""

    def __init__(self, codes, drawn):
        self.codes = codes
        self.num_factors = len(drawn)
        halves = np.split(np.array(drawn), 2, axis=1)  # to learn from, and to predict
        self.batches = iter(np.concatenate(halves).reshape(-1, drawn[0].shape[1]))
        votes = np.repeat(np.arange(self.num_factors), halves[0].shape[1])
        self.factors = iter(np.tile(votes, 2))

    def randint(self, count):
        return next(self.factors)

    def sample_factors(self, count, random_state):
        return np.zeros([count, self.num_factors])

    def sample_observations(self, count, random_state):
        return self.codes[:count]

    def sample_observations_from_factors(self, factors, random_state):
        return self.codes[next(self.batches)]


class Fresh(Replay):
    """Draws other instances, whose labels have every combination."""

    def __init__(self, codes, labels):
        super().__init__(codes, [np.zeros([2, 1])])
        self.num_factors = labels.shape[1]
        self.labels = labels

    def sample_factors(self, count, random_state):
        return self.labels[random_state.randint(len(self.labels), size=count)]

    def sample_observations_from_factors(self, factors, random_state):
        noise = random_state.normal(size=[len(factors), NOISE.shape[1]])
        return factors @ MIXING + 0.3 * noise


def vote(data, random_state, votes):
    """Returns disentanglement_lib's FactorVAE score by batches of 16."""
    return factor_vae.compute_factor_vae(
        data,
        identity,
        random_state,
        batch_size=16,
        num_train=votes,
        num_eval=votes,
        num_variance_estimate=COUNT,
    )["eval_accuracy"]


@pytest.mark.parametrize("ranks", [False, True])
def test_factor_vae_score_of_the_same_draws(ranks, monkeypatch):
    drawn, draw = [], interventions._draw_alike
    monkeypatch.setattr(
        interventions, "_draw_alike", lambda *given: drawn.append(draw(*given)) or drawn[-1]
    )
    codes = make_codes(CLASSES)
    options = {"votes": 300, "batch_size": 16, "ranks": ranks}
    found = ours.factor_vae_score(codes, CLASSES, **options)
    replay = Replay(scipy.stats.rankdata(codes, axis=0) if ranks else codes, drawn)
    close(found, vote(replay, replay, 300))
    assert 0.5 < found < 0.95


def test_factor_vae_score_of_other_draws():
    codes = make_codes(CLASSES)
    found = ours.factor_vae_score(codes, CLASSES, votes=3000, batch_size=16, ranks=False)
    fresh = vote(Fresh(codes, CLASSES), np.random.RandomState(0), 3000)
    np.testing.assert_allclose(found, fresh, atol=0.03)


PROBES = {  # of classes, and of real numbers
    "linear": (
        linear_model.LogisticRegression(class_weight="balanced", max_iter=1000),
        linear_model.Ridge(),
    ),
    "nearest": (neighbors.KNeighborsClassifier(5), neighbors.KNeighborsRegressor(5)),
}


def split(codes, label):
    """Returns the instances to learn from and to predict, as gyoza divides them."""
    classes = label if label.dtype.kind == "i" else None
    return train_test_split(codes, label, test_size=0.3, random_state=0, stratify=classes)


def predict(codes, labels, probe):
    """Returns the balanced accuracy or the explained variance of each label, `[n, K]`."""
    scores = np.zeros([codes.shape[1], labels.shape[1]])
    for (i, code), (k, label) in itertools.product(enumerate(codes.T), enumerate(labels.T)):
        train, test, known, wanted = split(code[:, None], label)
        is_real = label.dtype.kind == "f"
        pipeline = make_pipeline(StandardScaler(), PROBES[probe][is_real]).fit(train, known)
        if is_real:
            scores[i, k] = pipeline.score(test, wanted)
        else:
            scores[i, k] = metrics.recall_score(wanted, pipeline.predict(test), average="macro")
    return scores


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("probe", PROBES)
def test_leakage(probe, labels):
    codes = make_codes(labels)
    chance = 1 / (labels.max(axis=0) + 1) if labels.dtype.kind == "i" else 0
    expected = (predict(codes, labels, probe) - chance) / (1 - chance)
    close(ours.leakage(codes, labels, probe=probe), np.maximum(expected, 0))


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_separated_attribute_predictability(labels):
    codes = make_codes(labels)
    found = ours.separated_attribute_predictability(codes, labels)
    close(found, sap.compute_avg_diff_top_two(predict(codes, labels, "linear")))


def test_separated_attribute_predictability_as_published():
    """Of real numbers, from correlations of all instances rather than of those held out.

    Of classes, other probes are published, by which scores are not comparable.
    """
    codes = make_codes(REAL)
    found = ours.separated_attribute_predictability(codes, REAL)
    data = Data(codes, REAL)
    published = sap.compute_sap(data, identity, None, None, COUNT, COUNT, COUNT, True)
    np.testing.assert_allclose(found, published["SAP_score"], atol=0.01)


def test_disentanglement_completeness_informativeness():
    labels = np.stack(np.unravel_index(np.arange(640) % 64, [4, 4, 4]), axis=1)
    codes = labels @ MIXING + 0.3 * NOISE[:640]
    importances, accuracies = [], []
    for label in labels.T:
        train, test, known, wanted = split(codes, label)
        np.random.seed(0)  # noqa: NPY002 - from which its trees choose among equal splits
        found = dci.compute_importance_gbt(train.T, known[None], test.T, wanted[None])
        importances.append(found[0][:, 0])
        accuracies.append(found[2])
    importances = np.transpose(importances)
    found = ours.disentanglement_completeness_informativeness(codes, labels)
    close(found.disentanglement, dci.disentanglement(importances), atol=1e-8)
    close(found.completeness, dci.completeness(importances), atol=1e-8)
    # Of classes that are equally many, accuracy is balanced; that by chance is 1/4.
    close(found.informativeness, (np.mean(accuracies) - 1 / 4) / (1 - 1 / 4))


@pytest.mark.parametrize("correlation", ["pearson", "spearman"])
@pytest.mark.parametrize("count", [2, 4])
def test_mean_correlation_coefficient(correlation, count):
    """The best of all ways to assign dimensions to sources."""
    codes = make_codes(REAL)[:, :count] ** 3
    correlate = getattr(scipy.stats, f"{correlation}r")
    table = np.array([[abs(correlate(z, s).statistic) for s in REAL.T] for z in codes.T])
    if count == 2:
        ways = [table[[0, 1], order] for order in itertools.permutations(range(3), 2)]
    else:
        ways = [table[order, [0, 1, 2]] for order in itertools.permutations(range(4), 3)]
    close(
        ours.mean_correlation_coefficient(codes, REAL, correlation), np.sum(ways, axis=1).max() / 3
    )


def test_agreement():
    codes, others = make_codes(REAL), make_codes(REAL @ MIXING[:, :3])
    found = ours.agreement(codes, others, [1, 3])
    order = np.random.default_rng(0).permutation(COUNT)
    first, second = np.split(order, 2)
    expected = np.zeros([2, 2])
    blocks = [slice(0, 1), slice(1, 4)]
    for (i, u), (j, v) in itertools.product(enumerate(blocks), repeat=2):
        both = codes[:, u], others[:, v]
        whitened = [decomposition.PCA(whiten=True).fit(x[first]).transform(x) for x in both]
        for x, y in (whitened, whitened[::-1]):
            predicted = linear_model.LinearRegression().fit(x[first], y[first]).predict(x[second])
            errors, squares = (
                metrics.mean_squared_error(y[second], z) for z in (predicted, 0 * predicted)
            )
            expected[i, j] += (1 - errors / squares) / 2
    close(found, expected)


def test_clustering_accuracy():
    clusters = (CLASSES[:, 0] + RANDOM.integers(3, size=COUNT) // 2) % 3
    metric = ours.ClusteringAccuracy(3, dtype="float64")
    for part in np.split(np.arange(COUNT), 4):
        metric.update_state(CLASSES[part, 0], clusters[part])
    purity = permetrics.ClusteringMetric(CLASSES[:, 0], clusters).purity_score()
    assert 0.4 < purity < 0.9
    close(metric.result(), purity)


def test_explained_variance():
    metric = ours.ExplainedVariance(dtype="float64")
    predicted = REAL + 0.3 * NOISE[:, :3] + 0.1
    for part in np.split(np.arange(COUNT), 4):
        metric.update_state(REAL[part], predicted[part])
    close(metric.result(), metrics.explained_variance_score(REAL.ravel(), predicted.ravel()))


def test_pair_correlation():
    a, b = make_codes(REAL), make_codes(REAL, noise=1.0)
    y_true = np.eye(3)[CLASSES[:, 0]] * [0, 0.5, -0.9]
    metric = ours.PairCorrelation([2, 1, 1], dtype="float64")
    for part in np.split(np.arange(COUNT), 4):
        pairs = [a[part], b[part], np.zeros([len(part), 2])]
        metric.update_state(y_true[part], np.concatenate(pairs, axis=1))
    for factor in (1, 2):
        chosen = CLASSES[:, 0] == factor
        correlations = pd.DataFrame(a[chosen]).corrwith(pd.DataFrame(b[chosen])).to_numpy()
        blocks = np.mean(correlations[:2]), correlations[2], correlations[3]
        close(metric.matrix()[factor], blocks)


def test_swap_consistency():
    a, b, predicted = RANDOM.integers(3, size=[3, COUNT, 2])
    found = ours.swap_consistency(predicted, a, b)
    for k in range(2):
        differ = a[:, k] != b[:, k]
        for rate, labels in ((found.follows[k], b), (found.keeps[k], a)):
            close(rate, metrics.accuracy_score(labels[differ, k], predicted[differ, k]))


def test_optimal_probe_accuracy():
    labels = CLASSES[:, 0]
    densities = scipy.stats.norm(np.arange(3), [0.5, 0.7, 1.0])
    log_probs = densities.logpdf((labels + 0.5 * NOISE[:, 0])[:, None])
    found = ours.optimal_probe_accuracy(log_probs, labels)
    close(found.accuracy, metrics.balanced_accuracy_score(labels, log_probs.argmax(axis=1)))
    sure = scipy.special.softmax(log_probs, axis=1).max(axis=1)
    close(found.expected, pd.Series(sure).groupby(labels).mean().mean())
