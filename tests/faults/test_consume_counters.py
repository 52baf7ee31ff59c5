"""The counters of stats() for what was received, and how it was answered: they add up while connections are cut."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from fix_proxy import Proxy

import memphis_sync
from memphis_sync import ConnectionLostError

MESSAGES = 600


def check_identity(stats):
    assert stats.received == stats.acked + stats.given_back + stats.dead_lettered + stats.unanswered
    assert min(stats.received, stats.acked, stats.given_back, stats.dead_lettered, stats.unanswered) >= 0


def test_each_answer_is_counted_as_what_it_is(memphis, broker, station_name):
    memphis.producer(station_name, "p").produce_many(str(number) for number in range(20))
    with memphis_sync.connect(broker.url) as client:
        assert client.stats().received == 0
        consumer = client.consumer(station_name, "c")
        messages = []
        while len(messages) < 20:
            messages += consumer.fetch(20 - len(messages), timeout_s=30)
        assert (client.stats().received, client.stats().unanswered) == (20, 20)
        messages[0].ack()
        messages[1].ack(wait=True)
        messages[2].nack()
        messages[3].delay(60)
        messages[4].dead_letter("bad")
        messages[5].in_progress()
        stats = client.stats()
        assert (stats.acked, stats.given_back, stats.dead_lettered, stats.unanswered) == (2, 2, 1, 15)
        consumer.restore(consumer.receipt(messages[6])).ack()
        assert client.stats() == stats, "what is restored may have been received by another client"
        for message in messages[6:]:
            message.ack()
        [again] = consumer.fetch(timeout_s=30)
        again.ack()
        stats = client.stats()
        assert (stats.received, stats.acked, stats.unanswered) == (21, 17, 1)
        check_identity(stats)
        assert "dead_lettered" in stats._repr_html_()


def test_what_nobody_has_seen_is_given_back(memphis, broker, station_name, until):
    memphis.producer(station_name, "p").produce_many(str(number) for number in range(50))
    with memphis_sync.connect(broker.url) as client:
        consumer = client.consumer(station_name, "c")
        assert consumer.run(lambda message: None, max_messages=20) == 20
        assert client.stats().acked == 20
        until(lambda: client.stats().unanswered == 0)
        check_identity(client.stats())


@pytest.mark.slow
def test_they_add_up_while_the_connection_is_cut(memphis, broker, station_name, request):
    memphis.station(station_name, partitions_number=2)
    memphis.producer(station_name, "p").produce_many(str(number) for number in range(MESSAGES))
    proxy = Proxy(("127.0.0.1", broker.port))
    request.addfinalizer(proxy.close)
    url = broker.url.replace(str(broker.port), str(proxy.port))
    answers: Counter[str] = Counter()
    seen: set[bytes] = set()
    is_over = threading.Event()
    with memphis_sync.connect(url, reconnect_interval_ms=20) as client:
        consumer = client.consumer(station_name, "c", max_ack_time_ms=2000, max_msg_deliveries=10)

        def watch():
            while not is_over.is_set():
                check_identity(client.stats())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for message in consumer:
                kind = "nack" if message.sequence % 7 == 0 and message.delivered == 1 else "ack"
                try:
                    getattr(message, kind)()
                except ConnectionLostError:
                    continue
                answers[kind] += 1
                if kind == "ack":
                    seen.add(message.data)
                    if len(seen) % 100 == 0:
                        proxy.cut()
                if len(seen) == MESSAGES:
                    break
        finally:
            is_over.set()
            watcher.join(60)
        stats = client.stats()
        check_identity(stats)
        assert stats.acked == answers["ack"]
        assert stats.given_back >= answers["nack"]
        assert stats.received >= MESSAGES + answers["nack"]
