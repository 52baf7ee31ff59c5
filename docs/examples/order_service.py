"""A service for systemd or a container: one order after the other, until SIGTERM."""

import logging
import signal

import memphis_sync

log = logging.getLogger("orders")


def handle(message):
    log.info("order %s", message.json()["id"])


def main():
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with memphis_sync.connect(wait_s=60, name="order-service") as memphis:  # MEMPHIS_URL
        consumer = memphis.consumer("orders", "order-service", max_msg_deliveries=5)
        for wanted in (signal.SIGTERM, signal.SIGINT):
            signal.signal(wanted, lambda *_: consumer.stop(0))
        log.info("ready")
        for message in consumer:
            try:
                with message:  # acknowledged at the end of the block, given back when it raises
                    handle(message)
            except Exception:
                log.exception("delivery %s of message %s failed", message.delivered, message.sequence)
    log.info("stopped")


if __name__ == "__main__":
    main()
