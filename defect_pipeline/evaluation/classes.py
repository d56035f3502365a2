"""Do synthetic defects look like their own class: asked of a linear probe on pretrained features of real defects."""

import numpy as np

RIDGE = 1.0  # times the mean squared length of a centred feature vector


def confusion(
    train: np.ndarray, train_labels: np.ndarray, features: np.ndarray, labels: np.ndarray, classes: int
) -> np.ndarray:
    """(K, K) int: how many of ``features`` (m, D) of class i the probe takes for class j.

    The probe is a ridge regression from ``train`` (n, D) to one-hot ``train_labels`` (n,), every class weighing alike.
    """
    mean = train.mean(axis=0)
    x, y = (train - mean).astype(np.float64), np.eye(classes)[train_labels] - 1 / classes
    weight = np.sqrt(1 / np.maximum(np.bincount(train_labels, minlength=classes), 1))[train_labels, None]
    x, y = x * weight, y * weight
    gram = x @ x.T  # (n, n): images are fewer than features
    solution = np.linalg.solve(gram + RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram)), y)
    answers = ((features - mean) @ (x.T @ solution)).argmax(axis=1)
    table = np.zeros((classes, classes), int)
    np.add.at(table, (labels, answers), 1)
    return table
