"""The adaptive concurrency limit, on a simulated clock and against simulated servers."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datatile_provider.api.concurrency import FEW, IN_A_ROW, MAX_PAUSE, PAUSE, RECONSIDERED, ConcurrencyLimit
from datatile_provider.api.polling import MAX_RETRY_AFTER

EVENTS = st.one_of(
    st.tuples(st.just("responded"), st.floats(0, 30)),
    st.tuples(st.just("overloaded"), st.floats(0, 30)),
    st.tuples(st.just("too_fast"), st.none() | st.floats(0, 1e6)),
    st.tuples(st.just("queued"), st.floats(0, 100)),
    st.tuples(st.just("pass"), st.floats(0, 100)),
)


@example(most=6, events=[("too_fast", None), ("pass", 60.0), ("responded", 0.0)])
@given(st.integers(2, 1000), st.lists(EVENTS, max_size=400))
def test_bounds_whatever_happens(most, events):
    limit, now = ConcurrencyLimit(most, 1000.0), 1000.0
    for kind, value in events:
        before = limit.limit
        if kind == "pass":
            now += value or 0.0
        elif kind == "queued":
            limit.queued(value or 0.0)
        elif kind == "too_fast":
            limit.too_fast(now, now, value)
            assert limit.limit in (before, max(1, before // 2))
        elif kind == "overloaded":
            limit.overloaded(now - (value or 0.0), now)
            assert limit.limit >= min(before, limit.few)
        else:
            limit.responded(now - (value or 0.0), now)
        assert 1 <= limit.limit <= most
        assert 1 <= limit.few <= FEW
        assert limit.limit <= 2 * before
        assert limit.resumes <= now + MAX_RETRY_AFTER
        assert limit.surplus >= 0
    assert isinstance(limit.reason(now), str)


@dataclass
class Simulation:
    """
    Polls that arrive evenly, at a server whose latency is a function of the number of outstanding polls.

    :param rate: polls a second that are asked for.
    :param latency: seconds, from the number of outstanding polls.
    :param rejects: returns whether the server rejects a poll at that time.
    """

    rate: float
    latency: Callable[[int], float]
    rejects: Callable[[float], bool] = lambda now: False
    most: int = 100
    now: float = 0.0
    sent: int = 0
    rejected: int = 0
    delays: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.limit = ConcurrencyLimit(self.most, self.now)
        self._queue: deque[float] = deque()
        self._outstanding: list[tuple[float, float, bool]] = []
        self._next = 0.0

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            ends = self._outstanding[0][0] if self._outstanding else end
            pause = self.limit.resumes if self._queue and self.limit.resumes > self.now else end
            self.now = min(ends, self._next, pause, end)
            if self.now == self._next:
                self._queue.append(self.now)
                self._next += 1 / self.rate
            while self._outstanding and self._outstanding[0][0] <= self.now:
                _, sent, rejected = heapq.heappop(self._outstanding)
                if rejected:
                    self.rejected += 1
                    self.limit.too_fast(sent, self.now, None)
                else:
                    self.limit.responded(sent, self.now)
            self._send()

    def _send(self) -> None:
        while self._queue and len(self._outstanding) < self.limit.limit and self.now >= self.limit.resumes:
            asked, rejected = self._queue.popleft(), self.rejects(self.now)
            self.sent += 1
            self.delays.append(self.now - asked)
            latency = self.latency(len(self._outstanding) + 1)
            heapq.heappush(self._outstanding, (self.now + latency, self.now, rejected))
        if self._queue and len(self._outstanding) >= self.limit.limit:
            self.limit.queued(self.now - self._queue[0])


@pytest.mark.parametrize(("rate", "latency"), [(1000 / 5, 0.2), (5000 / 30, 0.2), (10_000 / 30, 0.2), (500, 0.05)])
def test_it_grows_to_what_is_needed(rate, latency):
    """By Little's law, rate times latency: 33 to 67 connections."""
    simulation = Simulation(rate, lambda outstanding: latency)
    simulation.run(20)
    simulation.delays.clear()
    simulation.run(3 * RECONSIDERED)
    assert rate * latency <= simulation.limit.limit <= 100
    assert max(simulation.delays) < 1


def test_a_few_are_enough_for_a_fast_server():
    simulation = Simulation(1000, lambda outstanding: 0.001)
    simulation.run(120)
    assert simulation.limit.limit == FEW
    assert simulation.limit.reason(simulation.now) == ""


def test_at_the_limit_all_polls_are_equally_late_and_the_reason_names_it():
    simulation = Simulation(1000, lambda outstanding: 0.2, most=50)
    simulation.run(10)
    assert simulation.limit.limit == 50
    assert simulation.limit.reason(simulation.now) == "all 50 connections are in use (max_connections)"


@settings(max_examples=15, deadline=None)
@given(st.floats(0.02, 0.2), st.integers(10, 30))
def test_a_server_that_slows_down_is_not_flooded(latency, cores):
    """Its latency grows in proportion to the outstanding polls, beyond as many as it has cores."""
    simulation = Simulation(2_000, lambda outstanding: latency * max(1, outstanding / cores), most=1000)
    simulation.run(30)
    highest = []
    for _ in range(100):
        simulation.run(0.5)
        highest.append(simulation.limit.limit)
    # Twice the latency of the few is the bound; the next step crosses it.
    assert max(highest) <= 2 * cores + 2
    assert max(highest) >= cores / 2


def test_a_server_that_became_slow_by_itself_gets_more_connections_again():
    simulation = Simulation(200, lambda outstanding: 0.02 if simulation.now < 30 else 0.3)
    simulation.run(30)
    simulation.run(2 * RECONSIDERED + 20)
    simulation.delays.clear()
    simulation.run(20)
    assert max(simulation.delays) < 1


def test_connections_that_are_not_used_are_closed():
    simulation = Simulation(400, lambda outstanding: 0.2)
    simulation.run(10)
    assert simulation.limit.limit >= 80
    simulation.rate = 5
    simulation.run(6 * RECONSIDERED)
    assert simulation.limit.limit == FEW
    assert simulation.limit.surplus > 0


def test_a_rate_limit_is_respected():
    """The server takes 50 polls a second, of the 200 that are asked for."""
    taken: dict[int, int] = {}

    def rejects(now: float) -> bool:
        taken[int(now)] = taken.get(int(now), 0) + 1
        return taken[int(now)] > 50

    simulation = Simulation(200, lambda outstanding: 0.005, rejects)
    simulation.run(60)
    assert simulation.rejected < 0.25 * simulation.sent
    assert simulation.sent - simulation.rejected > 0.4 * 50 * 60


def test_a_pause_doubles_until_a_poll_is_not_rejected():
    limit, now, pauses = ConcurrencyLimit(100, 0.0), 0.0, []
    for _ in range(IN_A_ROW - 1):
        limit.too_fast(now, now, None)
        assert limit.resumes <= now
    for _ in range(9):
        limit.too_fast(now, now, None)
        pauses.append(limit.resumes - now)
        # The response to a poll that was sent before the pause does not extend it.
        limit.too_fast(now, now + 0.01, None)
        assert limit.resumes == now + pauses[-1]
        now = limit.resumes
    assert pauses == [PAUSE * 2**n for n in range(6)] + [MAX_PAUSE] * 3
    assert limit.reason(now) == "the server rejects them as too frequent (429)"
    limit.responded(now, now + 1)
    assert "429" not in limit.reason(now)


@pytest.mark.parametrize(("asked", "pause"), [(0.0, 0.0), (7.0, 7.0), (1e9, MAX_RETRY_AFTER)])
def test_retry_after_is_the_pause(asked, pause):
    limit = ConcurrencyLimit(100, 0.0)
    for _ in range(IN_A_ROW):
        limit.too_fast(5.0, 5.0, asked)
    assert limit.resumes == 5.0 + pause


def test_503_halves_the_limit_once_a_round_and_leaves_the_few():
    simulation = Simulation(1000, lambda outstanding: 0.2)
    simulation.run(5)
    limit, now = simulation.limit, simulation.now
    assert limit.limit == 100
    limit.overloaded(now, now)
    limit.overloaded(now - 0.1, now)
    assert (limit.limit, limit.surplus) == (50, 50)
    for second in range(20):
        limit.overloaded(now + second, now + second)
    assert limit.limit == FEW
    assert limit.resumes <= now
