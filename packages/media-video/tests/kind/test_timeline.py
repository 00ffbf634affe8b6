"""Which packets are decoded for which frames, and what rates and times packets say."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import pairwise

import pytest

from sensorium_media_video.timeline import Packets, Run, Timeline, make_timeline

MILLI = Fraction(1, 1000)


def timeline(
    times: list[int | None],
    keys: set[int],
    *,
    hidden: set[int] | None = None,
    fps: float = 25.0,
    trusted: bool = True,
    duration: int = 40,
) -> Timeline:
    packets = Packets(
        times,
        [place in keys for place in range(len(times))],
        [place not in (hidden or set()) for place in range(len(times))],
        [duration] * len(times),
    )
    return make_timeline(packets, MILLI, fps, trusted=trusted)


#: I P B B, twice; frames are shown 0, 2, 3, 1 and so on.
REORDERED: list[int | None] = [0, 120, 40, 80, 160, 280, 200, 240]


def test_frames_are_in_the_order_in_which_they_are_shown() -> None:
    found = timeline(REORDERED, {0, 4})
    assert found.times.tolist() == list(range(0, 320, 40))
    assert found.places.tolist() == [0, 2, 3, 1, 4, 6, 7, 5]
    assert (found.fps, found.duration, found.seconds) == (25.0, 0.32, ())


def test_runs_begin_at_key_frames() -> None:
    found = timeline(REORDERED, {0, 4})
    assert found.runs([0]) == [Run(0, 1, (0,))]
    assert found.runs([5]) == [Run(4, 7, (5,))]
    assert found.runs([1, 5]) == [Run(0, 3, (1,)), Run(4, 7, (5,))]
    assert found.runs([4, 5, 7]) == [Run(4, 7, (4, 5, 7))]
    assert found.runs([3, 3]) == [Run(0, 2, (3, 3))]


def test_a_frame_shown_before_its_key_frame_needs_the_one_before() -> None:
    """An open group: the frame of place 5 is stored behind the key frame and shown before it."""
    found = timeline([0, 40, 80, 120, 240, 160, 200], {0, 4})
    assert found.runs([4]) == [Run(0, 6, (4,))]
    assert found.runs([6]) == [Run(4, 5, (6,))]


def test_hidden_packets_are_decoded_and_not_shown() -> None:
    found = timeline([-80, -40, 0, 40], {0}, hidden={0, 1})
    assert found.num_frames == 2
    assert found.runs([0]) == [Run(0, 3, (0,))]


@pytest.mark.parametrize("times", [[0, None, 80], [0, 40, 40]])
def test_frames_are_counted_where_times_do_not_tell_them(times: list[int | None]) -> None:
    found = timeline(times, {0})
    assert not found.is_timed
    assert (found.num_frames, found.fps, found.duration) == (3, 25.0, pytest.approx(0.12))


def test_times_that_are_not_the_frames_own_still_tell_the_rate() -> None:
    found = timeline([0, 80, 160, 240], {0}, fps=25.0, trusted=False, duration=80)
    assert not found.is_timed
    assert found.fps == pytest.approx(12.5)


def test_rounded_times_are_even() -> None:
    found = timeline([round(1000 * i / 29.97) for i in range(3000)], {0}, fps=30_000 / 1001)
    assert found.seconds == ()
    assert found.fps == 30_000 / 1001


def test_a_stated_rate_that_the_packets_deny() -> None:
    found = timeline([40 * i for i in range(100)], {0}, fps=1000.0)
    assert found.fps == pytest.approx(25.0)
    assert found.duration == pytest.approx(4.0)


def test_uneven_times() -> None:
    found = timeline([0, 40, 240, 280], {0}, fps=0.0)
    assert found.seconds == pytest.approx((0, 0.04, 0.24, 0.28))
    assert found.duration == pytest.approx(0.32)
    assert found.fps == pytest.approx(12.5)


def test_one_frame_and_none() -> None:
    assert timeline([7], {0}).duration == pytest.approx(0.04)
    assert timeline([], set()).num_frames == 0


def test_runs_of_random_clips_cover_what_is_wanted_and_no_packet_twice() -> None:
    rng = random.Random("runs")
    for _ in range(300):
        count = rng.randrange(1, 60)
        keys = {0} | {place for place in range(count) if rng.random() < 0.15}
        times: list[int | None] = [40 * place for place in range(count)]
        for start in range(1, count - 3):
            if rng.random() < 0.2 and not keys & set(range(start, start + 3)):
                window = times[start : start + 3]
                rng.shuffle(window)
                times[start : start + 3] = window
        found = timeline(times, keys)
        wanted = sorted(rng.choices(range(count), k=rng.randrange(1, 9)))
        runs = found.runs(wanted)
        assert [index for run in runs for index in run.wanted] == wanted
        for run in runs:
            assert run.start in keys
            assert all(run.start <= found.places[index] < run.stop for index in run.wanted)
        assert all(one.stop <= other.start for one, other in pairwise(runs))
