"""The console in a real Chromium: what a person does, what scripts in messages do not do, and how it fits a phone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from fetching import fetch_exactly
from fix_gateway import LIMIT_S

if TYPE_CHECKING:
    from fix_gateway import Gateway

    from memphis_sync import Memphis

pytestmark = pytest.mark.browser

ATTACK = "<script>document.title='stolen'</script><img src=x onerror=\"document.title='stolen'\">"


class Person:
    """Somebody at the browser."""

    def __init__(self, driver: Any, gateway: Gateway, until: Callable[..., Any]) -> None:
        self.driver, self._gateway, self._until = driver, gateway, until

    def until(self, condition: Callable[[], Any]) -> Any:
        """Waits until it is true; what is not there yet is not."""
        from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

        def is_true() -> Any:
            try:
                return condition()
            except (NoSuchElementException, StaleElementReferenceException):
                return None

        return self._until(is_true, LIMIT_S)

    def open(self, path: str) -> None:
        self.driver.get(f"{self._gateway.url}{path}")

    def find(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def text(self, css: str) -> str:
        text: str = self.find(css).text
        return text

    def press(self, css: str, title: str) -> None:
        """Clicks, and waits for the page of this title."""
        self.find(css).click()
        self.until(lambda: self.driver.title.startswith(title))

    def log_in(self) -> None:
        self.open("/")
        self.find("[name=username]").send_keys("root")
        self.find("[name=password]").send_keys("memphis")
        self.press("form .button", "Overview")

    def resize(self, width: int, height: int, *, is_dark: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def complaints(self) -> list[str]:
        """What the browser did not like: a script that a policy has stopped, a file that is not there."""
        return [each["message"] for each in self.driver.get_log("browser") if each["level"] == "SEVERE"]


@pytest.fixture
def person(browser: Any, gateway: Gateway, until: Callable[..., Any]) -> Iterator[Person]:
    """Logged in as root, with a window of 1280 x 900."""
    found = Person(browser, gateway, until)
    found.resize(1280, 900)
    found.log_in()
    yield found
    assert found.complaints() == []


def test_a_person_looks_at_a_station_while_its_figures_move(
    person: Person, memphis: Memphis, station_name: str
) -> None:
    producer = memphis.producer(station_name, "web")
    producer.produce("first")
    person.open("/console/stations")
    person.find("[type=search]").send_keys(station_name)
    assert [row.text.split()[0] for row in person.driver.find_elements("css selector", "tbody tr") if row.text] == [
        station_name
    ]
    person.press(f"a[href='/console/stations/{station_name}']", station_name)
    assert person.text("[data-value='messages']") == "1"

    def moves() -> bool:
        producer.produce_many(["x"] * 50)
        return float(person.text("[data-value='rate in']").replace(",", "").replace("\N{EN DASH}", "0")) > 0

    person.until(moves)
    assert int(person.text("[data-value='messages']").replace(",", "")) > 1
    person.until(lambda: person.find("[data-series=in] .curve").get_attribute("points"))


def test_a_message_with_a_script_is_text(person: Person, memphis: Memphis, station_name: str) -> None:
    memphis.produce(station_name, "web", {"comment": ATTACK}, headers={"x-note": ATTACK})
    person.open(f"/console/stations/{station_name}/messages")
    assert ATTACK.replace('"', '\\"') in person.text("td.line")
    person.press("tbody th a", f"Message 1 of {station_name}")
    assert ATTACK.replace('"', '\\"') in person.text("#payload-text")
    assert ATTACK in person.text("main")  # the header
    assert person.driver.find_elements("css selector", "main script, main img[src=x]") == []
    person.press(".tabs a[href*='view=text']", f"Message 1 of {station_name}")
    assert ATTACK.replace('"', '\\"') in person.text("#payload-text")


def test_a_dead_letter_is_sent_again_and_another_dropped(person: Person, memphis: Memphis, station_name: str) -> None:
    consumer = memphis.consumer(station_name, "c", "g")
    memphis.producer(station_name, "p").produce_many(["one", "two"])
    for message in fetch_exactly(consumer, 2):
        message.dead_letter(ATTACK)
    person.open(f"/console/stations/{station_name}/dead-letters")
    assert ATTACK in person.text("td.reason")
    person.resize(400, 800)
    reason = person.driver.execute_script("return document.querySelector('td.reason').getBoundingClientRect().right")
    assert reason <= 400, "the whole reason is read without scrolling"
    person.resize(1280, 900)
    boxes = person.driver.find_elements("css selector", "[name=id]")
    boxes[0].click()
    person.find("[value=resend]").click()
    person.until(lambda: "1 sent again." in person.text(".note.done"))
    (message,) = consumer.fetch(batch_size=2, timeout_s=30)
    assert (message.data, message.is_dead_letter) == (b"one", True)
    message.ack()
    person.driver.find_elements("css selector", "[name=id]")[-1].click()
    person.press("[value=drop]", "Drop dead letters")
    person.find(".danger.sure").click()
    person.until(lambda: "1 dropped." in person.text(".note.done"))
    consumer.stop()


def test_the_pages_fit_a_phone_and_are_used_with_the_keyboard(
    person: Person, memphis: Memphis, station_name: str
) -> None:
    memphis.consumer(station_name, "a-consumer-with-a-name-that-is-long", "a-group-with-a-name-that-is-long-as-well")
    memphis.create_schema(f"a-schema-{'-with-a-name-that-is-long' * 4}", "json", schema_content="{}")
    memphis.produce(station_name, "p", {"key": "v" * 500})
    person.resize(400, 800)
    for path in ("", "/messages", "/messages/1/1", "/dead-letters"):
        person.open(f"/console/stations/{station_name}{path}")
        assert person.driver.execute_script("return document.documentElement.scrollWidth") <= 400, path
    for path in ("/", "/stations", "/schemas", "/connections"):
        person.open(f"/console{path}")
        assert person.driver.execute_script("return document.documentElement.scrollWidth") <= 400, path
        unnamed = person.driver.execute_script(
            "return [...document.querySelectorAll('input:not([type=hidden]), select, button, a')]"
            ".filter(each => !(each.labels && each.labels.length) && !each.ariaLabel && !each.textContent.trim())"
            ".map(each => each.outerHTML)"
        )
        assert unnamed == []
    keys = person.driver.switch_to.active_element
    keys.send_keys("\ue004")  # Tab
    assert person.driver.switch_to.active_element.text == "Skip to the content"
    person.driver.switch_to.active_element.send_keys("\ue007")  # Enter
    assert person.driver.execute_script("return document.activeElement.id") == "main"


def test_text_is_readable_in_light_and_dark(person: Person, memphis: Memphis, station_name: str) -> None:
    """Each text has a contrast of 4.5 : 1 with what is behind it: WCAG 2, AA."""
    memphis.consumer(station_name, "c", "g")
    memphis.produce(station_name, "p", "x")
    for is_dark in (False, True):
        person.resize(1280, 900, is_dark=is_dark)
        for path in (f"/stations/{station_name}", f"/stations/{station_name}/dead-letters", "/schemas", "/"):
            person.open(f"/console{path}")
            assert person.driver.execute_script(_PALE) == []


_PALE = """
const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
const light = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; } return [255, 255, 255]; };
const found = [];
for (const e of document.querySelectorAll('body *')) {
  if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !e.offsetParent || e.closest('select, .for-readers, .skip')) continue;
  const one = light(parse(getComputedStyle(e).color).slice(0, 3)), other = light(behind(e).slice(0, 3));
  const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  if (contrast < 4.5) found.push([e.outerHTML.slice(0, 120), contrast]);
}
return found;
"""  # noqa: E501
