import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stcl_cli.evaluation.metrics import confusion_matrix, iou_per_class, mean_iou

TRUTH = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, 255]))
PRED = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, 7, 255]))


def naive_matrix(truth, pred, classes, ignore_predictions):
    matrix = np.zeros((classes, classes + 1), int)
    for t, p in zip(truth.flat, pred.flat, strict=True):
        if t == 255 or (ignore_predictions and p == 255):
            continue
        matrix[t, p if p < classes else classes] += 1
    return matrix


def naive_iou(truth, pred, classes):
    truth, pred = truth[truth != 255], pred[truth != 255]
    ious = []
    for c in range(classes):
        inside = ((truth == c) & (pred == c)).sum()
        union = ((truth == c) | (pred == c)).sum()
        ious.append(inside / union if (truth == c).any() else np.nan)
    return ious


@given(TRUTH, PRED, st.booleans())
def test_matrix_is_the_naive_loop(truth, pred, ignore_predictions):
    matrix = confusion_matrix(truth, pred, 3, ignore_predictions)
    assert matrix.dtype == np.int64
    assert np.array_equal(matrix, naive_matrix(truth, pred, 3, ignore_predictions))


@given(TRUTH, PRED)
def test_iou_is_the_naive_loop(truth, pred):
    matrix = confusion_matrix(truth, pred, 3)
    np.testing.assert_allclose(iou_per_class(matrix), naive_iou(truth, pred, 3))


def test_against_scikit_learn():
    rng = np.random.default_rng(0)
    truth, pred = rng.integers(0, 5, (2, 30, 40))
    truth[rng.random(truth.shape) < 0.1] = 255
    counted = truth != 255
    t, p = truth[counted], pred[counted]
    matrix = confusion_matrix(truth, pred, 5)
    assert np.array_equal(matrix[:, :5], sklearn.metrics.confusion_matrix(t, p, labels=range(5)))
    assert not matrix[:, 5].any()
    np.testing.assert_allclose(iou_per_class(matrix), sklearn.metrics.jaccard_score(t, p, average=None))
    np.testing.assert_allclose(mean_iou(matrix), sklearn.metrics.jaccard_score(t, p, average="macro"))


def test_ignored_predictions_are_errors_unless_left_out():
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    pred = np.array([[0, 255, 1, 255]], np.uint8)
    matrix = confusion_matrix(truth, pred, 2)
    assert matrix[:, -1].tolist() == [1, 1]
    assert iou_per_class(matrix).tolist() == [0.5, 0.5]
    assert mean_iou(confusion_matrix(truth, pred, 2, ignore_predictions=True)) == 1


def test_absent_classes_do_not_count():
    matrix = confusion_matrix(np.zeros((2, 2), np.uint8), np.array([[0, 0], [0, 1]], np.uint8), 3)
    assert iou_per_class(matrix).tolist()[0] == 0.75
    assert np.isnan(iou_per_class(matrix)[1:]).all()  # predicted but not true: lowers no mean of its own
    assert mean_iou(matrix) == 0.75


@pytest.mark.filterwarnings("error")
def test_a_truth_of_nothing():
    nothing = np.full((2, 2), 255, np.uint8)
    assert np.isnan(mean_iou(confusion_matrix(nothing, nothing, 3)))


def test_a_class_beyond_uint8_arithmetic():
    """254 classes and 255 columns: the cell numbers leave uint8, whatever comes in."""
    truth = np.full((300, 300), 254, np.uint8)
    matrix = confusion_matrix(truth, truth, 255)
    assert matrix[254, 254] == 90_000
    assert matrix.sum() == 90_000


def test_inputs_stay_as_they_are():
    truth, pred = np.array([[0, 255]], np.int64), np.array([[9, 255]], np.int64)
    confusion_matrix(truth, pred, 2)
    assert truth.tolist() == [[0, 255]]
    assert pred.tolist() == [[9, 255]]


def test_errors():
    with pytest.raises(ValueError, match="differ in shape"):
        confusion_matrix(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2)
    with pytest.raises(ValueError, match="holds 2, but there are 2"):
        confusion_matrix(np.full((2, 2), 2, np.uint8), np.zeros((2, 2), np.uint8), 2)


def test_predictions_that_know_fewer_classes():
    truth, pred = np.array([[0, 1, 2, 2, 2]], np.uint8), np.array([[0, 1, 2, 1, 255]], np.uint8)
    assert confusion_matrix(truth, pred, 3, predicted_total=2).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 2]]
    assert confusion_matrix(truth, pred, 3, True, 2).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1]]
