"""Recognises that another client uses this device's client id: a broker then closes the older connection each time.

Over MQTT 5 a broker may say so (*session taken over*). Over 3.1.1, and with mosquitto 2.0.11 also over MQTT 5, it only
closes the connection, which is recognised by the pattern: accepted at once, closed after a short time, again and again,
at another place each time, and also while nothing was in flight. A message that a broker hangs up on closes the
connection at the same place each time.
"""

from __future__ import annotations

CUTS_TO_SUSPECT, CUTS_UNDER_LOAD = 3, 5
"""Ends in a row at different places, if nothing was in flight at one of them, and if something was at each."""
SHORT_LIFE_S = 30.0
OVER_S = 300.0
"""The other client is taken to be gone when this device was not disturbed for so long."""


class ClientIdWatch:
    """Judges the ends of connections; only the publisher's thread calls. All times are of the monotonic clock."""

    def __init__(self, client_id: str) -> None:
        self._client_id = client_id
        self._cuts = self._idle_cuts = 0
        self._last_suspect: int | str | None = None
        self._problem = ""
        self._seen_s = 0.0

    def problem(self, now_s: float) -> str | None:
        """What is known of another client with this id, with the client id in the text; None if there is none."""
        if self._problem and now_s - self._seen_s > OVER_S:
            self._problem = ""
        return self._problem or None

    @property
    def suspicious(self) -> bool:
        """Whether a connection on which nothing is sent would tell more."""
        return self._cuts >= CUTS_TO_SUSPECT - 1

    def not_accepted(self) -> None:
        """An attempt to connect failed: the broker or the network is down."""
        self._reset()

    def ended(
        self,
        now_s: float,
        *,
        lived_s: float,
        cut_off: bool,
        taken_over: bool,
        idle: bool,
        suspect: int | str | None,
    ) -> None:
        """An accepted connection ended.

        `cut_off` is True if the broker closed it, `idle` if nothing was in flight; `suspect` names the only packet in
        flight, and is None if there were none or several.
        """
        if taken_over:
            self._found(f"another client connects with the client id {self._client_id}: session taken over", now_s)
            return
        if not cut_off or lived_s > SHORT_LIFE_S:
            self._reset()
            return
        if suspect is not None and suspect == self._last_suspect:
            self._reset()
            self._last_suspect = suspect
            return
        self._last_suspect = suspect
        self._cuts += 1
        self._idle_cuts += idle
        if self._cuts >= (CUTS_TO_SUSPECT if self._idle_cuts else CUTS_UNDER_LOAD) or self._problem:
            self._found(
                f"the broker accepts the client id {self._client_id} and closes the connection again and again: most "
                "likely another client uses the same client id",
                now_s,
            )

    def _found(self, text: str, now_s: float) -> None:
        self._seen_s = now_s
        if not self._problem or "session taken over" in text:
            self._problem = text

    def _reset(self) -> None:
        self._cuts = self._idle_cuts = 0
        self._last_suspect = None
