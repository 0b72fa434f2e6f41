"""Below the MQTT link session: paho's client with a socket that reads ahead.

paho asks the socket for one byte, then for the bytes of the length, then for the rest, and waits in `select` before
each packet: five system calls a message, after each of which its thread has to wait for the interpreter again. Where
another thread computes, a hub would spend most of its time on that. Here 64 kB are read at a time, and packets handled
as long as whole ones are there.
"""

from __future__ import annotations

from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode

READ_BYTES = 64 * 1024
PACKETS_A_TURN = 256
"""Then what waits to be written has its turn."""


class ReadAhead:
    """A connected socket whose `recv` is served from what was read ahead; everything else is the socket's own."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._ahead: bytes = b""
        self._at = 0

    def recv(self, size: int) -> bytes:
        """At most `size` bytes; raises what the socket raises where it has none."""
        if self._at == len(self._ahead):
            if size >= READ_BYTES:
                data: bytes = self._inner.recv(size)
                return data
            self._ahead = self._inner.recv(READ_BYTES)
            self._at = 0
        piece = self._ahead[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def pending(self) -> int:
        """Bytes that can be read without the network: paho then does not wait."""
        ahead = len(self._ahead) - self._at
        deeper = getattr(self._inner, "pending", None)
        return ahead + (deeper() if deeper is not None else 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class ReadAheadClient(paho.Client):
    """paho's client, which reads ahead."""

    def _create_socket(self) -> Any:
        return ReadAhead(super()._create_socket())

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """See paho.Client.loop_read; goes on while bytes are there."""
        for _ in range(PACKETS_A_TURN):
            code = super().loop_read(max_packets)
            opened: Any = self.socket()
            if code != MQTTErrorCode.MQTT_ERR_SUCCESS or opened is None or not opened.pending():
                return code
        return MQTTErrorCode.MQTT_ERR_SUCCESS
