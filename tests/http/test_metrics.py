"""/metrics, /healthz, /readyz and the description of all routes: what a supervisor and a program may rely on."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, Callable

from starlette.routing import Route

LABELS = r"[a-z]+=\"[^\"\n\\]*\"(,[a-z]+=\"[^\"\n\\]*\")*"
LINE = re.compile(rf"(?P<name>memphis_gateway_[a-z_]+)(\{{{LABELS}\}})? (?P<value>[0-9.]+)")


def metrics(gateway: Any) -> dict[str, float]:
    """Each line of /metrics; fails when one is not as the format has it."""
    answer = gateway.request("GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = answer.body.decode()
    assert text.endswith("\n")
    found, typed, last = {}, set(), ""
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            last = line.split()[2]
            assert last not in typed, "the lines of a name belong together"
            typed.add(last)
        elif not line.startswith("# HELP "):
            match = LINE.fullmatch(line)
            assert match, line
            assert re.sub("_(bucket|sum|count)$", "", match["name"]) == last or match["name"] == last
            series = line.rpartition(" ")[0]
            assert series not in found
            found[series] = float(match["value"])
    return found


def requests(found: dict[str, float], route: str, status: int) -> float:
    series = f'memphis_gateway_requests_total{{route="{route}",method="POST",status="{status}"}}'
    return found.get(series, 0)


def test_requests_and_messages_are_counted(gateway: Any, station_name: str) -> None:
    single, batch = "/stations/{station}/produce/single", "/stations/{station}/produce/batch"
    before = metrics(gateway)
    for _ in range(3):
        assert gateway.post(f"/stations/{station_name}/produce/single", "1", "text/plain").status == 200
    assert gateway.post(f"/stations/{station_name}/produce/single", "1", "image/png").status == 415
    assert gateway.post(f"/stations/{station_name}/produce/batch", [1, 2]).status == 200
    assert gateway.post(f"/stations/{station_name}/produce/stream", b"1\n{\n", "application/x-ndjson").status == 200
    messages = gateway.post(f"/stations/{station_name}/consume", {"consumer_name": "c", "batch_size": 2}).json
    tokens = {"tokens": [message["token"] for message in messages["messages"]]}
    assert gateway.post(f"/stations/{station_name}/ack", tokens).status == 200
    after = metrics(gateway)
    assert requests(after, single, 200) - requests(before, single, 200) == 3
    assert requests(after, single, 415) - requests(before, single, 415) == 1
    assert requests(after, batch, 200) - requests(before, batch, 200) == 1
    grown = {
        outcome: after[series] - before[series]
        for outcome in ("stored", "failed", "consumed", "acknowledged", "returned")
        for series in [f'memphis_gateway_messages_total{{outcome="{outcome}"}}']
    }
    got = len(tokens["tokens"])
    assert grown == {"stored": 6, "failed": 1, "consumed": got, "acknowledged": got, "returned": 0}
    assert after["memphis_gateway_clients"] >= 1
    assert after["memphis_gateway_requests_under_way"] >= 1
    buckets = [value for series, value in after.items() if f'_bucket{{route="{single}"' in series]
    assert buckets == sorted(buckets)
    assert buckets[-1] == after[f'memphis_gateway_request_seconds_count{{route="{single}"}}']


def test_no_request_makes_a_label_of_its_own(gateway: Any, station_name: str) -> None:
    gateway.post(f"/stations/{station_name}/produce/single", "1", "text/plain")
    metrics(gateway)
    before = set(metrics(gateway))
    for number in range(30):
        gateway.request("GET", f"/nothing-{number}")
        gateway.request(f"METHOD{number}", "/stations/x/produce/single")
        gateway.post(f"/stations/{station_name}-{number % 3}/produce/single", "1", "text/plain")
    more = set(metrics(gateway)) - before
    names = Counter(series.partition("{")[0] for series in more)
    assert names["memphis_gateway_requests_total"] <= 3, more
    assert not [series for series in more if station_name in series or "nothing" in series or "METHOD" in series]


def test_readiness_follows_the_broker_and_liveness_does_not(
    fresh_broker: Callable[..., Any], gateway_inside: Callable[..., Any], until: Callable[..., Any]
) -> None:
    broker = fresh_broker()
    gateway = gateway_inside(broker.url)

    def ready() -> tuple[int, str]:
        answer = gateway.request("GET", "/readyz")
        return answer.status, answer.json["status"]

    assert ready() == (200, "ready")
    gateway.token()  # a client is open, and asked
    until(lambda: ready() == (200, "ready"))
    broker.kill()
    until(lambda: ready() == (503, "not ready"))
    assert gateway.request("GET", "/readyz").headers["retry-after"] == "1"
    assert gateway.request("GET", "/healthz").json == {"status": "ok"}
    broker.start()
    until(lambda: ready() == (200, "ready"))


def test_the_description_has_every_route_of_the_gateway(gateway: Any) -> None:
    told = json.loads(gateway.request("GET", "/openapi.json").body)
    assert told["openapi"] == "3.0.3"
    described = {(path.lower(), method.upper()) for path, methods in told["paths"].items() for method in methods}
    from memphis_sync.http.gateway.app import routes
    from memphis_sync.http.gateway.metrics import Metrics
    from memphis_sync.http.gateway.settings import GatewaySettings

    class NoSessions:
        tokens = None

    served = {
        (route.path, method)
        for route in routes(NoSessions(), GatewaySettings("memphis://127.0.0.1"), Metrics())
        if isinstance(route, Route)
        for method in route.methods - {"HEAD"}
    }
    assert described == served
    for methods in told["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            assert "200" in operation["responses"]


def test_the_page_of_the_description_loads_nothing_and_runs_no_script(gateway: Any) -> None:
    answer = gateway.request("GET", "/openapi")
    page = answer.body.decode()
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=\"?https?:", page)
    for path in ("/stations/{station}/produce/stream", "/stations/{station}/nack", "/auth/refreshToken"):
        assert path in page
