"""
How many messages to fetch at once for one handler.

What a program has taken when it dies costs each of these messages one of its deliveries, though nobody has looked at
them. So no more is taken than the handler gets through in a moment: one message to begin with, then as many as its own
speed allows, and one again after a pause, for that is when messages come back that a program has died with.
"""

from __future__ import annotations

FITS_S = 0.1  # what is taken and waits is handled within so long
OF_ACK_TIME = 0.1  # and within this share of the ack time
GROWTH = 4  # times what was just handled, at most: one quick message says little about hundreds
LULL_S = 0.2  # nothing for so long is a pause
LONG_POLL_S = 2.0  # how long one look for messages takes after a pause; a stop ends it early
OUTAGE_PAUSE_S = 0.2


class Portion:
    """
    The size of what one handler gets at once; used by its thread alone.

    Args:
        most: The consumer's batch size.
        ack_time_s: The consumer's.

    Attributes:
        size: How many messages to take now, from 1.
        is_ahead: Whether as many again fit, to be fetched while these are handled.
        is_held: Whether the next one is taken alone, whatever this one takes.
    """

    __slots__ = ("_fits_s", "_most", "is_ahead", "is_held", "size")

    def __init__(self, most: int, ack_time_s: float) -> None:
        self._most = most
        self._fits_s = min(FITS_S, OF_ACK_TIME * ack_time_s)
        self.is_held = False
        self.size = 1
        self.is_ahead = False

    @property
    def look_s(self) -> float:
        """How long to look for the next one: for long, or a short while if there were some just now."""
        return LULL_S if self.size > 1 else LONG_POLL_S

    def handled(self, count: int, seconds: float) -> None:
        """So many messages, from 1, were handled in so many seconds."""
        if self.is_held:
            self.is_held = False
            return
        fits = self._fits_s * count / max(seconds, 1e-9)
        # Rounded: a handler that takes as long for two messages as for one is to be found out.
        self.size = max(1, min(round(min(fits, self._most)), GROWTH * max(self.size, count), self._most))
        self.is_ahead = self.size > 1 and fits >= 2 * self.size

    def rest(self) -> None:
        """After a pause it begins anew."""
        self.size = 1
        self.is_ahead = False

    def hold(self) -> None:
        """The next one is taken alone, however quickly this one is handled."""
        self.rest()
        self.is_held = True
