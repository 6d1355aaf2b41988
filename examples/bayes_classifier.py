"""A Bayes classifier: a flow learns the density of each class, and Bayes's rule compares them.

Quadratic discriminant analysis (QDA) is the same with normal distributions. It wins on digits, and
loses on moons, which are not normal. Settings have the lowest log-loss on validation data.

    python examples/bayes_classifier.py --output figures
"""

import argparse
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits, make_moons
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from gyoza import applications

plt.switch_backend("Agg")  # draws into files and needs no display
COLOURS = {"flow": "black", "QDA": "C1", "logistic": "C2"}


def fit_flow(flow, train, validation):
    """Fits densities given classes, and returns a function that computes probabilities."""
    classes = np.eye(1 + train[1].max(), dtype="float32")
    data, held_out = ({"inputs": x, "context": classes[y]} for x, y in (train, validation))
    flow.adapt(data)
    flow.compile(keras.optimizers.Adam(2e-3), jit_compile=False)
    stopping = keras.callbacks.EarlyStopping(patience=10, restore_best_weights=True)
    options = {"batch_size": 100, "epochs": 100, "verbose": 0, "callbacks": [stopping]}
    flow.fit(data, validation_data=(held_out, None), **options)

    def classify(x):
        scores = [keras.ops.convert_to_numpy(flow.log_prob(x, context=row)) for row in classes]
        return keras.ops.convert_to_numpy(keras.ops.softmax(np.stack(scores, axis=1)))

    return classify


def compare(train, validation, test, make_flow):
    """Returns the best probabilities of each kind of classifier, as functions, by its name."""
    quadratic = [QuadraticDiscriminantAnalysis(reg_param=r) for r in (0.0, 0.03, 0.1, 0.3)]
    linear = [LogisticRegression(C=c, max_iter=2000) for c in (0.01, 0.1, 1.0, 10.0)]
    candidates = {
        "flow": [fit_flow(make_flow(width), train, validation) for width in (32, 64)],
        "QDA": [model.fit(*train).predict_proba for model in quadratic],
        "logistic": [model.fit(*train).predict_proba for model in linear],
    }
    for name, functions in candidates.items():
        best = min(functions, key=lambda f: log_loss(validation[1], f(validation[0])))
        answer, confidence = best(test[0]).argmax(axis=1), best(test[0]).max(axis=1).mean()
        right = f"{np.mean(answer == test[1]):.1%} right, at a mean confidence of {confidence:.1%}"
        print(f"{name:10} {right}, log-loss {log_loss(test[1], best(test[0])):.3f}")
        yield name, best


def split(x, y, counts):
    """Divides data into those for training, for validation, and for testing."""
    return list(zip(np.split(x.astype("float32"), counts), np.split(y, counts), strict=True))


def draw_moons(ax):
    """Draws where each classifier is undecided between two moons."""
    moons = split(*make_moons(4000, noise=0.3, random_state=0), [1000, 2000])
    grid = np.stack(np.meshgrid(*np.linspace([-2, -1.5], [3, 2], 101, dtype="float32").T), axis=-1)
    ax.scatter(*moons[2][0][:400].T, c=moons[2][1][:400], s=3, cmap="coolwarm")
    for name, classify in compare(*moons, lambda width: applications.NeuralSplineFlow(2, [width])):
        share = classify(grid.reshape(-1, 2))[:, 1].reshape(101, 101)
        ax.contour(*grid.T, share.T, [0.5], colors=COLOURS[name])
        ax.plot([], [], color=COLOURS[name], label=name)
    ax.set(title="Moons: where both are equally likely")
    ax.legend(fontsize="small", loc="upper left")


def draw_digits(ax):
    """Draws how often classifiers of digits are right, where they are how confident."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x = PCA(20, whiten=True).fit(x[order[:900]]).transform(x[order])
    digits = split(x, y[order], [900, 1200])
    for name, classify in compare(*digits, lambda width: applications.MAF(2, [width])):
        shares = classify(digits[2][0])
        confidence, answer = shares.max(axis=1), shares.argmax(axis=1)
        groups = np.array_split(np.argsort(confidence), 6)
        right = [np.mean(answer[group] == digits[2][1][group]) for group in groups]
        ax.plot([confidence[group].mean() for group in groups], right, "o-", color=COLOURS[name])
    ax.axline((1, 1), slope=1, color="0.7")
    ax.set(title="Digits: calibration", xlabel="confidence", ylabel="share of right answers")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("bayes_classifier_figures"))
    parser.add_argument("--docs", action="store_true", help="draw into docs/images instead")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    draw_moons(left)
    draw_digits(right)
    folder = Path(__file__).parents[1] / "docs/images" if arguments.docs else arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "bayes_classifier.png", dpi=80)
