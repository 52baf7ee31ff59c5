"""What other sites cannot do with somebody's browser, and what no path reaches."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from fix_console import ATTACK, Page, Visitor

if TYPE_CHECKING:
    from fix_gateway import Gateway

    from memphis_sync import Memphis

CHANGES = [
    ("/logout", {}),
    ("/schemas", {"action": "attach", "schema": "s", "station": "st"}),
    ("/stations/st/schema", {"action": "detach"}),
    ("/stations/st/dead-letters", {"action": "drop-all", "sure": "yes"}),
    ("/stations/st/dead-letters", {"action": "resend-all"}),
]


@pytest.mark.parametrize(("path", "fields"), CHANGES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this host
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://[::1"},
    ],
)
def test_a_change_from_elsewhere_is_refused_even_with_the_token(
    root: Visitor, path: str, fields: dict[str, str], headers: dict[str, str]
) -> None:
    answer = root.post(path, fields, headers)
    assert answer.status == 403
    assert "did not come from a page of this console" in Page(answer).note("failed")
    assert root.get("/").status == 200


@pytest.mark.parametrize(("path", "fields"), CHANGES)
@pytest.mark.parametrize("token", ["", "x", "of another login", ATTACK])
def test_a_change_without_the_token_of_this_login_is_refused(
    root: Visitor, gateway: Gateway, path: str, fields: dict[str, str], token: str
) -> None:
    if token == "of another login":
        other = Visitor(gateway)
        assert other.log_in().status == 303
        token = other.csrf
    answer = root.post(path, {**fields, "csrf": token})
    assert answer.status == 403
    assert root.get("/").status == 200


def test_what_a_forged_change_asks_for_does_not_happen(root: Visitor, memphis: Memphis, station_name: str) -> None:
    memphis.station(station_name)
    memphis.create_schema(station_name, "json", schema_content="{}")
    memphis.enforce_schema(station_name, station_name)
    forged = {"action": "detach", "csrf": "x"}
    assert root.post(f"/stations/{station_name}/schema", forged).status == 403
    assert root.post(f"/stations/{station_name}/schema", {"action": "detach"}, {"Origin": "null"}).status == 403
    assert [each.stations for each in memphis.schemas() if each.name == station_name] == [(station_name,)]
    assert root.post(f"/stations/{station_name}/schema", {"action": "detach"}).status == 303
    assert [each.stations for each in memphis.schemas() if each.name == station_name] == [()]


def test_a_browser_that_says_nothing_of_sites_needs_the_token_and_its_own_origin(root: Visitor) -> None:
    """Over plain HTTP to another machine browsers send no Sec-Fetch-Site."""
    origin = root.gateway.url
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    body = f"csrf={root.csrf}".encode()
    assert root.send("POST", "/console/logout", body, {**kind, "Origin": "http://evil.example"}).status == 403
    assert root.send("POST", "/console/logout", b"csrf=x", {**kind, "Origin": origin}).status == 403
    assert root.send("POST", "/console/logout", body, {**kind, "Origin": origin}).status == 303


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "application/json"}, b"{}", 415),
        ({"Content-Type": "text/plain"}, b"csrf=x", 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x--", 415),
        ({}, b"csrf=x", 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"a=" + b"x" * 300_000, 413),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"a&" * 10_000, 400),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"\xff\x00&&==%zz", 403),
    ],
)
def test_what_is_not_a_form_of_ours_is_refused(
    root: Visitor, headers: dict[str, str], body: bytes, status: int
) -> None:
    answer = root.send("POST", "/console/schemas", body, headers)
    assert answer.status == status
    assert Page(answer).note("failed")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST"])
def test_looking_changes_nothing_by_any_method(root: Visitor, method: str) -> None:
    for path in ("/", "/stations", "/stations/x", "/connections", "/live", "/static/console.css"):
        assert root.send(method, f"/console{path}", b"").status == 405
    assert root.answer("/logout").status == 405


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/console",
        "/console/",
        "/console/login",
        "/console/stations",
        "/console/stations/not-there",
        "/console/nothing",
        "/console/static/console.js",
        "/console/static/none.js",
        "/console/logout",
        "/console/live",
    ],
)
def test_every_answer_has_the_headers_of_a_safe_page(visitor: Visitor, path: str) -> None:
    for method in ("GET", "HEAD", "POST"):
        answer = visitor.send(method, path)
        if path in ("/", "/console") and method == "POST":  # the API's own 405, in JSON
            continue
        policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers
        if "/static/" not in path:
            assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


def test_pages_load_nothing_from_elsewhere_and_have_no_inline_script_or_style(root: Visitor) -> None:
    for path in ("/", "/stations", "/schemas", "/connections", "/stations/none"):
        page = root.get(path)
        for tag, given in page.tags:
            for name in ("src", "href", "action"):
                assert not given.get(name) or given[name].startswith(("/console", "#")), (tag, given)
            assert not [name for name in given if name.startswith("on") or name == "style"], (tag, given)
            assert tag != "style"
            assert tag != "script" or given["src"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../pages.py",
        "/static/..%2fpages.py",
        "/static/%2e%2e/pages.py",
        "/static/..%5cpages.py",
        "/static/%2fetc%2fpasswd",
        "/static//etc/passwd",
        "/static/console.css%00.js",
        "/static/",
        "/static/.",
        "/static/console.CSS",
        "/static/../templates/base.html",
        "/templates/base.html",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//evil.example/",
    ],
)
def test_no_path_leads_to_another_file(gateway: Gateway, root: Visitor, path: str) -> None:
    cookie = f"Cookie: memphis-console={root.cookies['memphis-console']}\r\n"
    with socket.create_connection((gateway.host, gateway.port), timeout=60) as sock:
        host = f"Host: {gateway.host}:{gateway.port}\r\n"
        sock.sendall(f"GET /console{path} HTTP/1.1\r\n{host}{cookie}Connection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    status = int(answer.split(b" ", 2)[1])
    assert status in (400, 404), answer[:300]
    assert b"root:" not in answer
    assert b"import" not in answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("path", ["/", "/console", "/console/", "/console/login/", "/console/stations/", "/metrics/"])
def test_no_answer_leads_to_the_host_that_a_request_has_named(gateway: Gateway, path: str) -> None:
    answer = gateway.request("GET", path, headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"})
    assert answer.status in (303, 404), answer
    assert answer.headers.get("location", "/").startswith("/"), answer
    assert b"evil.example" not in answer.body


def test_files_of_pages_are_kept_by_browsers_until_they_change(root: Visitor) -> None:
    page = root.get("/")
    urls = [page.all("script")[0]["src"], page.all("link", rel="stylesheet")[0]["href"]]
    for url in urls:
        named = root.send("GET", url)
        assert (named.status, named.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
        unnamed = root.send("GET", url.partition("?")[0])
        assert (unnamed.status, unnamed.headers["cache-control"]) == (200, "no-cache")


@pytest.mark.parametrize(
    "name",
    [
        "a%2Fb",
        "..",
        "%2e%2e",
        "a%20b",
        "a%00b",
        "%3Cx-attack%3E",
        "é",
        "%F0%9F%98%80",
        "%ff%fe",
        "a*",
        "a%3E",
        "$JS",
        "a%0d%0ab",
        "%25",
        "a" * 300,
        "-a",
        "a:b",
        "{{7*7}}",
    ],
)
def test_a_station_that_cannot_be_is_a_page_that_says_so(root: Visitor, name: str) -> None:
    for path in (f"/stations/{name}", f"/stations/{name}/messages", f"/stations/{name}/dead-letters"):
        raw: Any = f"/console{path}".encode().decode("latin-1")
        answer = root.send(
            "GET", raw.encode("latin-1").decode("latin-1") if name != "é" else "/console" + path.replace("é", "%C3%A9")
        )
        assert answer.status in (303, 307, 400, 404), (path, answer)
        if answer.body:
            page = Page(answer)
            assert not page.all("x-attack")
            assert "Traceback" not in page.text
    assert root.get("/").status == 200


@pytest.mark.parametrize(
    "query",
    [
        {"from": ATTACK},
        {"from": "-1"},
        {"from": "9" * 40},
        {"from": "1e3"},
        {"from": "٣"},
        {"partition": ATTACK},
        {"partition": "7"},
        {"partition": "1.5"},
    ],
)
def test_a_query_that_cannot_be_is_said_to_be_wrong(
    root: Visitor, memphis: Memphis, station_name: str, query: dict[str, str]
) -> None:
    memphis.station(station_name, partitions_number=2)
    page = root.get(f"/stations/{station_name}/messages", **query)
    assert page.status == 400
    assert page.note("failed")
    assert not page.all("x-attack")


def test_a_cross_origin_page_may_not_read_the_console(root: Visitor) -> None:
    answer = root.send("GET", "/console/", headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert "access-control-allow-credentials" not in answer.headers
