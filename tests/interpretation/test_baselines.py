import keras
import numpy as np
import pytest
from keras import layers, ops

from gyoza.interpretation import baselines

N = 1500
ALL = [getattr(baselines, name) for name in baselines.__all__]


@pytest.fixture(scope="module")
def parts():
    head = keras.Sequential([keras.Input([6]), layers.Activation("linear")])
    return head, keras.Sequential([keras.Input([6]), layers.Dense(3)])


@pytest.fixture(scope="module")
def data():
    """Returns independent factors, a class and a number, in dimensions 0, 1 and 2 of six."""
    random = np.random.default_rng(0)
    labels = np.stack([random.integers(3, size=N), random.uniform(size=N)], axis=1)
    latent = random.normal(size=[N, 6])
    latent[:, :2] = np.array([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])[labels[:, 0].astype(int)]
    latent[:, :2] += 0.3 * random.normal(size=[N, 2])
    latent[:, 2] = 4.0 * labels[:, 1] + 0.1 * random.normal(size=N)
    return latent, labels


def encode(interpreter, hidden):
    z = ops.convert_to_numpy(interpreter.flow(np.asarray(hidden, "float32"))[0])
    return np.split(z, np.cumsum(list(interpreter.dimensions_per_factor.values()))[:-1], axis=1)


def decode(interpreter, blocks):
    z = np.concatenate(blocks, axis=1).astype("float32")
    return ops.convert_to_numpy(interpreter.flow.invert(z)).astype("float64")


def erase(interpreter, hidden, block=1):
    blocks = encode(interpreter, hidden)
    blocks[block] = np.zeros_like(blocks[block])
    return decode(interpreter, blocks)


def explain(x, y):
    """Returns the share of the variance of y that a linear map of x explains."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    error = y - x @ np.linalg.lstsq(x, y, rcond=1e-4)[0]
    return 1 - np.sum(error**2) / np.sum(y**2)


@pytest.mark.parametrize("make", ALL)
def test_baselines_are_exact_interpreters_with_unit_variance(make, parts, data):
    mixing = np.random.default_rng(1).normal(size=[5, 6])  # one direction is empty
    hidden = (data[0][:, :5] @ mixing + 3.0).astype("float32")
    interpreter = make(parts, hidden, data[1], [3, 2, 1], names=["shape", "size"])
    assert interpreter.dimensions_per_factor == {"residual": 3, "shape": 2, "size": 1}
    blocks = encode(interpreter, hidden)
    np.testing.assert_allclose(decode(interpreter, blocks), hidden, atol=1e-4)
    z = np.concatenate(blocks, axis=1)
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=0.05)
    deviations = z.std(axis=0)
    np.testing.assert_allclose(deviations[deviations > 1e-3], 1.0, atol=0.1)
    assert np.sum(deviations > 1e-3) >= 5


@pytest.mark.parametrize("make", [baselines.units, baselines.principal_axes])
def test_dimensions_that_tell_most_are_chosen(make, parts, data):
    latent, labels = data
    order = [3, 2, 5, 0, 4, 1]
    hidden = latent[:, order] * [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    rotation = np.eye(6)
    if make is baselines.principal_axes:
        # Uncorrelated dimensions of different variance are principal axes, up to their signs.
        rotation = np.linalg.qr(np.random.default_rng(0).normal(size=[6, 6]))[0]
    interpreter = make(parts, (hidden @ rotation).astype("float32"), labels, [3, 2, 1])
    _, first, second = encode(interpreter, hidden @ rotation)
    expected = (latent - latent.mean(axis=0)) / latent.std(axis=0)
    # Dimensions are uncorrelated only up to 1 / sqrt(N).
    tolerance = {"atol": 1e-3 if make is baselines.units else 0.5}
    np.testing.assert_allclose(abs(second[:, 0]), abs(expected[:, 2]), **tolerance)
    assert explain(first, expected[:, :2]) > 0.98


def test_pair_axes_find_factors_in_a_mixture(parts, data):
    latent, labels = data
    hidden = (latent @ np.random.default_rng(2).normal(size=[6, 6])).astype("float32")
    interpreter = baselines.pair_axes(parts, hidden, labels, names=["shape", "size"])
    assert interpreter.dimensions_per_factor == {"residual": 3, "shape": 2, "size": 1}
    residual, shape, size = encode(interpreter, hidden)
    assert explain(shape, latent[:, :2]) > 0.95
    assert explain(size, latent[:, 2]) > 0.95
    assert explain(residual, latent[:, :3]) < 0.05
    # Neither dimensions nor principal axes separate the factors in such a mixture.
    for make in (baselines.units, baselines.principal_axes):
        other = make(parts, hidden, labels, [3, 2, 1])
        assert explain(encode(other, hidden)[0], latent[:, :3]) > 0.1


@pytest.mark.parametrize("kind", ["class", "number"])
def test_difference_of_means_is_a_steering_vector(kind, parts):
    random = np.random.default_rng(3)
    label = random.integers(2, size=N) if kind == "class" else random.normal(size=N)
    hidden = random.normal(size=[N, 6]) @ random.normal(size=[6, 6]) + np.outer(label, np.ones(6))
    hidden = hidden.astype("float32")
    interpreter = baselines.difference_of_means(parts, hidden, label)
    assert interpreter.dimensions_per_factor == {"residual": 5, "factor_1": 1}
    if kind == "class":
        steering = hidden[label == 1].mean(axis=0) - hidden[label == 0].mean(axis=0)
    else:
        steering = (hidden - hidden.mean(axis=0)).T @ (label - label.mean())
    steering /= np.linalg.norm(steering)
    residual, block = encode(interpreter, hidden)
    moved = decode(interpreter, [residual, block + 1.0]) - hidden
    np.testing.assert_allclose(
        moved, np.outer(moved @ steering, steering), atol=1e-4 * np.abs(moved).max()
    )
    # The rest is at right angles to it.
    kept = (
        hidden - hidden.mean(axis=0) - np.outer((hidden - hidden.mean(axis=0)) @ steering, steering)
    )
    np.testing.assert_allclose(erase(interpreter, hidden) - hidden.mean(axis=0), kept, atol=1e-3)


def make_concept(rank=6):
    """Returns representations of a given rank, in which three classes have different means."""
    random = np.random.default_rng(4)
    label = random.integers(3, size=N)
    hidden = random.normal(size=[3, rank])[label] + random.normal(size=[N, rank])
    return (hidden @ random.normal(size=[rank, 6]) + 1.0).astype("float32"), label


@pytest.mark.parametrize("rank", [6, 4])
def test_leace_is_its_closed_form(rank, parts):
    hidden, label = make_concept(rank)
    erased = erase(baselines.leace(parts, hidden, label), hidden)
    centred = hidden - hidden.mean(axis=0, dtype="float64")
    covariance, one_hot = centred.T @ centred / N, np.eye(3)[label]
    values, axes = np.linalg.eigh(covariance)
    kept = values > 1e-6 * values.max()
    assert kept.sum() == rank
    whitening = axes[:, kept] / np.sqrt(values[kept]) @ axes[:, kept].T
    cross = whitening @ centred.T @ one_hot / N
    projection = cross @ np.linalg.pinv(cross, rcond=1e-6)
    change = np.linalg.pinv(whitening, rcond=1e-6) @ projection @ whitening
    np.testing.assert_allclose(erased, hidden - centred @ change.T, atol=1e-3)
    # The conditions of optimality: nothing linear is left, and the change is the smallest.
    np.testing.assert_allclose((erased - erased.mean(axis=0)).T @ one_hot / N, 0.0, atol=1e-4)
    assert explain(erased @ axes[:, kept], one_hot) < 1e-4 < 0.3 < explain(hidden, one_hot)


def test_leace_changes_less_than_others_that_erase(parts):
    hidden, label = make_concept()
    changes = {}
    for make in (baselines.leace, baselines.difference_of_means):
        erased = erase(make(parts, hidden, label), hidden)
        assert explain(erased, np.eye(3)[label]) < 1e-4
        changes[make.__name__] = erased - hidden
    random = np.random.default_rng(5)
    for metric in (np.eye(6), *random.normal(size=[3, 6, 6])):
        costs = {name: np.mean((change @ metric) ** 2) for name, change in changes.items()}
        assert costs["leace"] < 0.99 * costs["difference_of_means"]


def test_erasing_all_blocks_of_leace_erases_all_factors(parts, data):
    hidden = (data[0] @ np.random.default_rng(6).normal(size=[6, 6])).astype("float32")
    interpreter = baselines.leace(parts, hidden, data[1])
    residual, *blocks = encode(interpreter, hidden)
    assert [block.shape[1] for block in blocks] == [2, 1]
    erased = decode(interpreter, [residual, *map(np.zeros_like, blocks)])
    targets = np.concatenate([np.eye(3)[data[1][:, 0].astype(int)], data[1][:, 1:]], axis=1)
    assert explain(erased, targets) < 1e-4


def test_unused_dimensions_of_contrasts_go_to_the_residual(parts, data):
    for make in (baselines.leace, baselines.difference_of_means):
        interpreter = make(parts, data[0], data[1], [0, 1, 5])
        assert list(interpreter.dimensions_per_factor.values()) == [4, 1, 1]
        # The second of two equal factors has nothing left.
        interpreter = make(parts, data[0], data[1][:, [0, 0]])
        assert list(interpreter.dimensions_per_factor.values()) == [4, 2, 0]


def test_random_directions_are_orthonormal_and_know_nothing(parts, data):
    first, again, other = (
        baselines.random_subspace(parts, data[0], data[1], [4, 1, 1], seed=seed)
        for seed in (0, 0, 1)
    )
    matrices = [ops.convert_to_numpy(it.flow.layers[0].matrix) for it in (first, again, other)]
    np.testing.assert_array_equal(matrices[0], matrices[1])
    assert not np.allclose(matrices[0], matrices[2], atol=0.1)
    directions = matrices[0] / np.linalg.norm(matrices[0], axis=0)
    np.testing.assert_allclose(directions.T @ directions, np.eye(6), atol=1e-5)


def test_fake_labels_are_given_no_dimensions(parts, data):
    fake = np.random.default_rng(7).integers(4, size=N)
    for make in (baselines.units, baselines.principal_axes, baselines.pair_axes):
        assert make(parts, data[0], fake).dimensions_per_factor["factor_1"] == 0


def test_labels_may_be_strings_and_names_come_from_sizes(parts, data):
    words = np.array(["small", "middle", "large"])[data[1][:, 0].astype(int)]
    interpreter = baselines.units(parts, data[0], words, {"residual": 4, "word": 2})
    assert interpreter.dimensions_per_factor == {"residual": 4, "word": 2}


@pytest.mark.parametrize("make", ALL)
def test_factors_may_be_left_without_dimensions(make, parts, data):
    labels = np.concatenate([data[1], data[1][:, :1] > 0.5], axis=1)
    interpreter = make(parts, data[0], labels, [0, 6, 0, 0])
    assert sum(interpreter.dimensions_per_factor.values()) == 6
    np.testing.assert_allclose(
        decode(interpreter, encode(interpreter, data[0])), data[0], atol=1e-4
    )


def test_instances_alone_in_their_class_are_left_out_of_pairs(parts, data):
    classes = data[1][:, 0].copy()
    classes[0] = 100
    for make in (baselines.units, baselines.pair_axes, baselines.random_subspace):
        assert make(parts, data[0], classes).dimensions_per_factor["factor_1"] == 2


def test_wrong_arguments(parts, data):
    with pytest.raises(ValueError, match="sum to the number of dimensions, 6"):
        baselines.units(parts, *data, [3, 1, 1])
    for make in ALL:
        with pytest.raises(ValueError, match="none of them negative"):
            make(parts, *data, [7, -2, 1])
    with pytest.raises(ValueError, match="have the sizes of"):
        baselines.leace(parts, *data, {"residual": 4, "a": 1, "b": 1}, names=["a", "c"])
    with pytest.raises(ValueError, match="2 different names other than 'residual'"):
        baselines.units(parts, *data, names=["a"])
    with pytest.raises(ValueError, match="finite, and vary"):
        baselines.units(parts, np.zeros_like(data[0]), data[1])
