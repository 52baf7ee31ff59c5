"""
What does the port for official SDKs cost: the same bytes through it, compared with the nats-server's own port?

Messages as memphis-py sends them, each with a ``msg-id`` of its own, written as fast as they are acknowledged. On the
SDK port every one of them gets a second header and is looked up among the ids of the window; on the other port the id
is ignored. ``--plain`` leaves the ids out: what remains is the relay alone.
"""

from __future__ import annotations

import itertools
import statistics

import _common
import _raw

from memphis_sync.broker import BrokerProcess


class SdkFrames:
    """Stands in for a recorded frame of our client: the bytes of memphis-py 1.3.1."""

    reply = b"_INBOX.sdk"

    def __init__(self, *, ids: bool) -> None:
        self._ids = ids
        self._numbers = itertools.count(1)

    def frame(self, subject: bytes, payload: bytes, number: int) -> bytes:
        """One message; its id is never used twice."""
        headers = b"NATS/1.0\r\n$memphis_producedBy: bench\r\n$memphis_connectionId: " + b"0" * 36 + b"\r\n"
        if self._ids:
            headers += b"msg-id: %032d\r\n" % next(self._numbers)
        headers += b"\r\n"
        size = len(headers) + len(payload)
        line = b"HPUB %b %b.%d %d %d\r\n" % (subject, self.reply, number, len(headers), size)
        return line + headers + payload + b"\r\n"


def main() -> None:
    """Runs the pairs and prints the ratio of the medians."""
    parser = _common.parser(__doc__, count=100_000)
    parser.add_argument("--plain", action="store_true", help="messages without ids")
    args = parser.parse_args()
    if args.url:
        parser.error("--url: this one needs a broker of its own, with both ports")
    with BrokerProcess(port=0, ephemeral=True, sdk_port=0) as broker:
        args.url = broker.url
        with _common.bench(args) as run:
            frames = SdkFrames(ids=not args.plain)

            def rate(port: int) -> float:
                station = run.station()
                wire = _raw.Wire(broker.host, port, "root$1", broker.password)
                took = _raw.produce(wire, frames, run.subjects(station), run.payload, args.count, 8192)
                wire.close()
                station.destroy()
                return args.count / took

            rates = _common.in_turn(args.pairs, lambda: rate(broker.sdk_port or 0), lambda: rate(broker.port))
            through, direct = map(statistics.median, rates)
            figures = {
                "msgs_per_s": round(through),
                "direct_msgs_per_s": round(direct),
                "ratio": round(through / direct, 3),
                "has_ids": not args.plain,
            }
            sentence = f"{through:,.0f} messages/s on the SDK port, {direct:,.0f} on the other: "
            _common.report("sdk_port", run, figures, f"{sentence}{through / direct:.2f} of it")
            if args.plot:
                _common.plot(args.plot, "the port for SDKs", "messages/s", {"SDK port": rates[0], "direct": rates[1]})


if __name__ == "__main__":
    main()
