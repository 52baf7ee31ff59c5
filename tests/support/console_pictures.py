"""
Makes the pictures of ``docs/how-to/console.md`` anew: console_pictures.py, with Chromium and chromedriver installed.

It starts a broker and a gateway of its own, gives them something to show, and takes a picture of each page.
"""

from __future__ import annotations

import base64
import io
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fix_browser import start_chromium
from fix_gateway import Gateway
from PIL import Image

import memphis_sync
from memphis_sync import Memphis, Retention, SchemaError, Storage
from memphis_sync.broker import BrokerOptions, BrokerProcess

FOLDER = Path(__file__).parents[2] / "docs" / "images"
CURVE_S = 45  # of figures that move, before the first picture
PICTURES = (  # file, page, width, height, in dark
    ("console-overview.png", "/", 1280, 720, False),
    ("console-station.png", "/stations/orders", 1280, 980, True),
    ("console-message.png", "/stations/orders/messages/1/3", 1280, 940, False),
    ("console-dead-letters.png", "/stations/orders/dead-letters", 1280, 560, False),
    ("console-overview-400.png", "/", 400, 900, False),
    ("console-dead-letters-400.png", "/stations/orders/dead-letters", 400, 900, True),
)


@contextmanager
def something_to_show(client: Memphis) -> Iterator[Any]:
    """Stations, a schema, groups and dead letters; yields what moves the figures on."""
    client.station("orders", partitions_number=3)
    client.station("payments.eu")
    client.station("audit-log", storage_type=Storage.MEMORY, retention_type=Retention.MESSAGES, retention_value=100_000)
    client.create_schema("payment", "json", schema_content='{"type": "object", "required": ["id"]}')
    client.enforce_schema("payment", "payments.eu")
    shop = client.producer("orders", "web-shop")
    for number in range(120):
        items = [{"sku": "A-17", "count": 2}, {"sku": "<script>alert(1)</script>", "count": 1}]
        shop.produce({"id": number, "customer": "Ada Lovelace", "items": items}, headers={"trace-id": f"{number:032x}"})
    client.produce("payments.eu", "till-1", {"id": 1, "amount": 12.5})
    client.produce("audit-log", "web-shop", "login ada")
    with suppress(SchemaError):  # a dead letter
        client.produce("payments.eu", "till-2", {"amount": 3})
    shipping = client.consumer("orders", "worker-1", "shipping", max_msg_deliveries=2)
    billing = client.consumer("orders", "worker-2", "billing")
    for number, message in enumerate(shipping.fetch(batch_size=40, timeout_s=10)):
        if number in (3, 7, 11):
            message.dead_letter(f"no warehouse has item A-{number}")
        elif number < 36:
            message.ack()
    turns = iter(range(1_000_000))

    def move() -> None:
        for _ in range(int(20 + 15 * math.sin(next(turns) / 6))):
            shop.produce({"customer": "Grace Hopper"}, nonblocking=True)
        for message in billing.fetch(batch_size=30, timeout_s=0.1):
            message.ack()
        time.sleep(0.4)

    yield move


def save(driver: Any, path: Path) -> None:
    """A picture of what the window shows, in 256 colours."""
    data = base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"])
    Image.open(io.BytesIO(data)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def main() -> int:
    """Makes all of them."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, BrokerProcess(BrokerOptions(port=0, ephemeral=True)) as broker:
        gateway = Gateway(broker.url, Path(folder))
        driver = start_chromium(Path(folder) / "profile")
        try:
            with memphis_sync.connect(broker.url) as client, something_to_show(client) as move:
                driver.get(gateway.url)
                driver.find_element("name", "username").send_keys("root")
                driver.find_element("name", "password").send_keys(broker.password)
                driver.find_element("css selector", "form .button").click()
                for name, page, width, height, is_dark in PICTURES:
                    scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
                    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
                    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
                    driver.get(f"{gateway.url}/console{page}")
                    until = time.monotonic() + (CURVE_S if page in ("/", "/stations/orders") else 1)
                    while time.monotonic() < until:
                        move()
                    save(driver, FOLDER / name)
        finally:
            driver.quit()
            gateway.program.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
