"""WaitSet of Cython and of cffi: many tickets, one wait; and what garbage and forks must not do to it."""

from __future__ import annotations

import gc
import os
import threading
import time

import pytest

from memphis_sync._core import _cffi, _cython
from memphis_sync.errors import ForkedError

SECOND = 1_000_000_000


@pytest.fixture(params=[_cython, _cffi], ids=lambda module: module.IMPL)
def binding(request: pytest.FixtureRequest):
    return request.param


def link_of(binding, token: bytes = b"token"):
    return binding.Link(token, 1 << 20, 5000, 100, 1 << 20)


def tickets_of(binding, link, count: int):
    route = binding.Route(link, b"orders$1.final", b"Nats-Msg-Id", b"", link.owner_new(), True, None)
    return [route.send(b"m", b"", b"", 60 * SECOND, binding.Ticket) for _ in range(count)]


def test_places_come_once_each_and_from_several_links(binding) -> None:
    links = [link_of(binding, token) for token in (b"a", b"b")]
    tickets = [*tickets_of(binding, links[0], 3), *tickets_of(binding, links[1], 2)]
    links[0].abandon()
    group = binding.WaitSet(iter(tickets))
    assert group.wait(0) == [0, 1, 2]  # settled before: in the order of adding
    started = time.monotonic()
    assert group.wait(time.monotonic() + 0.05) == []
    assert time.monotonic() - started >= 0.05
    threading.Timer(0.1, links[1].abandon).start()
    found = group.wait(time.monotonic() + 10)
    while len(found) < 2:
        found += group.wait(time.monotonic() + 10)
    assert sorted(found) == [3, 4]
    assert group.wait(0) == []


def test_no_ticket_and_many(binding) -> None:
    assert binding.WaitSet(()).wait(0) == []
    link = link_of(binding)
    tickets = tickets_of(binding, link, 3000)
    group = binding.WaitSet(tickets)
    link.abandon()
    found: list[int] = []
    while more := group.wait(0):
        found += more
    assert found == list(range(3000))


def test_only_tickets_are_taken(binding) -> None:
    with pytest.raises((TypeError, AttributeError)):
        binding.WaitSet([object()])


def test_a_group_that_is_dropped_leaves_its_tickets_alone(binding) -> None:
    link = link_of(binding)
    tickets = tickets_of(binding, link, 100)
    for _ in range(3):
        group = binding.WaitSet(tickets)
        assert group.wait(0) == []
        del group
    link.abandon()
    assert {ticket.outcome for ticket in tickets} == {5}


def test_a_cycle_of_garbage_with_a_pending_group_ends_well(binding) -> None:
    for _ in range(20):
        link = link_of(binding)
        holder: dict[str, object] = {}
        route = binding.Route(link, b"orders$1.final", b"Nats-Msg-Id", b"", link.owner_new(), True, holder)
        tickets = [route.send(b"m", b"", b"", 60 * SECOND, binding.Ticket) for _ in range(50)]
        holder.update(group=binding.WaitSet(tickets), tickets=tickets, link=link, route=route)
        del link, route, tickets, holder
    gc.collect()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_group_does_not_cross_a_fork(binding) -> None:
    binding.watch_forks()
    link = link_of(binding)
    group = binding.WaitSet(tickets_of(binding, link, 3))
    child = os.fork()
    if child == 0:
        try:
            group.wait(0)
        except ForkedError:
            del group
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    link.abandon()
    assert group.wait(0) == [0, 1, 2]
