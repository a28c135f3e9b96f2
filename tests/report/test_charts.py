import numpy as np
import pytest
from helpers import quick
from hypothesis import given
from hypothesis import strategies as st

from stcl_cli.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    line_chart,
    nice_ticks,
    tick_text,
)

numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


def places(chart):
    return [tuple(map(float, point.split(","))) for point in chart.points.split()]


@quick
@given(st.lists(numbers, min_size=1, max_size=50))
def test_a_line_stays_in_its_box_and_keeps_its_order(ys):
    chart = line_chart("loss", range(len(ys)), ys, (0, len(ys) - 1))
    for x, y in places(chart):
        assert LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1
        assert TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1
    drawn = [y for _, y in places(chart)]
    for one, other, drawn_one, drawn_other in zip(ys, ys[1:], drawn, drawn[1:], strict=False):
        assert drawn_one >= drawn_other if one < other else drawn_one <= drawn_other  # SVG counts downwards
    assert chart.mark == places(chart)[-1]
    assert chart.value == f"{ys[-1]:.3g}"


def test_the_ends_of_the_axes():
    chart = line_chart("loss", [0, 100], [1.0, 3.0], (0, 100))
    assert places(chart) == [(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, TOP)]
    assert chart.x_ticks[0] == (LEFT, "0")
    assert chart.x_ticks[-1] == (WIDTH - RIGHT, "100")
    assert [text for _, text in chart.y_ticks] == ["1", "1.5", "2", "2.5", "3"]


def test_the_dot_marks_the_point_that_was_asked_for():
    chart = line_chart("mIoU", [0, 1, 2, 3], [0.0, 1.0, 0.5, 0.25], (0, 3), mark=1)
    assert chart.value == "1"
    assert chart.mark == places(chart)[1] == (round(LEFT + (WIDTH - LEFT - RIGHT) / 3, 1), TOP)


def test_a_long_line_is_averaged():
    ys = np.tile([0.0, 2.0], 4000)
    chart = line_chart("loss", range(8000), ys, (0, 8000))
    assert len(places(chart)) == MOST_POINTS
    assert chart.value == "2"
    middle = (TOP + HEIGHT - BOTTOM) / 2  # a flat line of ones
    assert {y for _, y in places(chart)} == {middle}


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0])
def test_a_single_value_and_a_flat_line(value):
    for ys in ([value], [value] * 3):
        chart = line_chart("lr", range(len(ys)), ys, (0, 0))
        assert chart.y_ticks


@quick
@given(numbers, st.floats(1e-3, 1e6), st.integers(2, 6))
def test_ticks_are_round_few_and_inside(low, span, most):
    high = low + span
    ticks = nice_ticks(low, high, most)
    assert 1 <= len(ticks) <= most + 1
    slack = 1e-6 * span + 1e-9 * abs(low)
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    steps = np.diff(ticks)
    if len(steps):
        assert np.allclose(steps, steps[0])
        leading = steps[0] / 10.0 ** np.floor(np.log10(steps[0]) + 1e-3)
        assert min(abs(leading - number) for number in (1, 2, 5)) < 0.01


def test_texts_of_ticks():
    values = {0: "0", 20_000: "20k", 1500: "1.5k", 0.1 + 0.2: "0.3", 1e-5: "1e-05", -2.0: "-2", 0.001: "0.001"}
    assert {value: tick_text(value) for value in values} == values
