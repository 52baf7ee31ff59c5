"""How many messages a handler gets at once."""

from __future__ import annotations

import pytest

from memphis_sync._consuming.portion import FITS_S, GROWTH, Portion


def test_it_begins_with_one_message():
    portion = Portion(500, 30.0)
    assert (portion.size, portion.is_ahead) == (1, False)


def test_a_quick_handler_soon_gets_full_batches_and_more_ahead():
    portion = Portion(500, 30.0)
    sizes = []
    for _ in range(6):
        portion.handled(portion.size, portion.size * 3e-6)
        sizes.append(portion.size)
    assert sizes == [GROWTH, 16, 64, 256, 500, 500]
    assert portion.is_ahead


@pytest.mark.parametrize(("each_s", "size"), [(5.0, 1), (0.2, 1), (0.1, 1), (0.05, 2), (0.02, 5), (0.001, 100)])
def test_what_is_taken_fits_a_tenth_of_a_second(each_s, size):
    portion = Portion(500, 30.0)
    for _ in range(10):
        portion.handled(portion.size, portion.size * each_s)
    assert portion.size == size
    assert portion.size * each_s <= max(FITS_S, each_s)
    assert not portion.is_ahead


def test_a_handler_that_slows_down_has_less_at_once():
    portion = Portion(500, 30.0)
    for _ in range(6):
        portion.handled(portion.size, 1e-6)
    portion.handled(500, 50.0)
    assert portion.size == 1


def test_a_short_ack_time_makes_portions_small():
    portion = Portion(500, 0.1)
    for _ in range(6):
        portion.handled(portion.size, portion.size * 0.002)
    assert portion.size == 5


def test_a_handler_that_takes_as_long_for_many_as_for_one_gets_many():
    portion = Portion(100, 30.0)
    for _ in range(12):
        portion.handled(portion.size, 0.06)
    assert portion.size == 100


def test_a_pause_begins_anew():
    portion = Portion(500, 30.0)
    portion.handled(1, 1e-6)
    portion.rest()
    assert (portion.size, portion.is_ahead) == (1, False)


def test_a_message_that_is_looked_at_alone_is_followed_by_one():
    portion = Portion(500, 30.0)
    portion.handled(1, 1e-6)
    portion.hold()
    portion.handled(1, 1e-6)
    assert portion.size == 1
    portion.handled(1, 1e-6)
    assert portion.size == GROWTH


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_a_clock_that_stands_still(seconds):
    portion = Portion(10, 30.0)
    portion.handled(1, seconds)
    assert portion.size == GROWTH
