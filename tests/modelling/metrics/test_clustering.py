"""The clustering accuracy against a count by hand."""

import keras
import numpy as np
import pytest

from gyoza.modelling.metrics import ClusteringAccuracy

random = np.random.default_rng(0)
LABELS = random.integers(3, size=60)
CLUSTERS = random.integers(5, size=60)


def by_hand(labels, clusters):
    """Each cluster gets its most frequent class; then the share of right labels."""
    right = 0
    for cluster in np.unique(clusters):
        members = labels[clusters == cluster]
        right += max(np.sum(members == label) for label in np.unique(members))
    return right / len(labels)


def evaluate(metric, *batches, **kwargs):
    for labels, clusters in batches:
        metric.update_state(labels, clusters, **kwargs)
    return float(metric.result())


def test_batches_add_up_to_the_accuracy_of_all():
    """A cluster's class is that of all batches, not one for each of them."""
    halves = (LABELS[:20], CLUSTERS[:20]), (LABELS[20:], CLUSTERS[20:])
    expected = by_hand(LABELS, CLUSTERS)
    assert evaluate(ClusteringAccuracy(3, 5), *halves) == pytest.approx(expected)
    assert expected < (20 * by_hand(*halves[0]) + 40 * by_hand(*halves[1])) / 60


def test_scores_and_columns_count_as_clusters():
    expected = by_hand(LABELS, CLUSTERS)
    scores = random.uniform(size=(60, 5)) + 2 * np.eye(5)[CLUSTERS]
    assert evaluate(ClusteringAccuracy(3, 5), (LABELS, scores)) == pytest.approx(expected)
    columns = LABELS[:, None].astype("float32"), CLUSTERS[:, None]
    assert evaluate(ClusteringAccuracy(3, 5), columns) == pytest.approx(expected)


def test_names_of_clusters_do_not_matter():
    assert evaluate(ClusteringAccuracy(3), (LABELS, (LABELS + 1) % 3)) == 1.0


def test_one_cluster_has_the_share_of_the_largest_class():
    expected = np.bincount(LABELS).max() / 60
    received = evaluate(ClusteringAccuracy(3, 1), (LABELS, np.zeros(60, int)))
    assert received == pytest.approx(expected)


def test_weights_count_like_repetitions():
    weights = random.integers(3, size=60)
    received = evaluate(ClusteringAccuracy(3, 5), (LABELS, CLUSTERS), sample_weight=weights)
    expected = by_hand(np.repeat(LABELS, weights), np.repeat(CLUSTERS, weights))
    assert received == pytest.approx(expected)


def test_counts_have_the_dtype_of_the_metric():
    """In float32, the second instance would not count."""
    metric = ClusteringAccuracy(2, dtype="float64")
    metric.update_state([0], [0], sample_weight=[2.0**24])
    metric.update_state([0], [0])
    assert float(metric.counts[0, 0]) == 2.0**24 + 1


def test_without_data_it_is_zero_and_with_impossible_ones_not_a_number():
    metric = ClusteringAccuracy(2)
    assert float(metric.result()) == 0.0
    assert np.isnan(evaluate(metric, ([0, 2], [0, 1])))
    metric.reset_state()
    assert np.isnan(evaluate(metric, ([0, 1], [0, -1])))


def test_compiled_model(tmp_path):
    model = keras.Sequential([keras.Input([5])])
    model.add(keras.layers.Activation("softmax"))
    model.compile(
        "adam", loss="sparse_categorical_crossentropy", metrics=[ClusteringAccuracy(3, 5)]
    )
    scores = 2 * np.eye(5, dtype="float32")[CLUSTERS]
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    results = copy.evaluate(scores, LABELS, batch_size=16, verbose=0, return_dict=True)
    assert results["clustering_accuracy"] == pytest.approx(by_hand(LABELS, CLUSTERS))


def test_bad_input():
    with pytest.raises(ValueError, match="`class_count` should be an integer of at least 1"):
        ClusteringAccuracy(0)
    with pytest.raises(ValueError, match="`y_pred` should hold clusters, or scores of 5 clusters"):
        ClusteringAccuracy(3, 5).update_state(LABELS, np.zeros([60, 4]))
