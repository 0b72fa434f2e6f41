"""The board end of the Cyton protocol without I/O: commands in, answers and packets out (see firmware_bridge/cyton.py).

Not modelled: Daisy, SD card, time stamps, auxiliary modes, lead-off drive, the USB dongle's own commands.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from firmware_bridge import cyton

BANNER = (
    "OpenBCI V3 8-16 channel\r\nOn Board ADS1299 Device ID: 0x3E\r\nLIS3DH Device ID: 0x33\r\nFirmware: v3.1.1\r\n$$$"
)
COMMAND_MOST = 32
"""A channel command is 9 characters; what grows beyond this is given up."""


class CytonBoard:
    """Streams nothing before `b` and nothing after `s`, and numbers the samples from 0 at each start."""

    def __init__(self) -> None:
        self.streaming = False
        self._number = 0
        self._command = b""
        self._defaults()

    def _defaults(self) -> None:
        self._channels = {channel: cyton.ChannelSettings(channel) for channel in range(1, cyton.CHANNELS + 1)}

    @property
    def gains(self) -> tuple[int, ...]:
        """Of channels 1 to 8."""
        return tuple(settings.gain for settings in self._channels.values())

    def receive(self, data: bytes) -> bytes:
        """The answers to what the host has sent; a streaming board answers nothing."""
        return b"".join(self._take(data[i : i + 1]) for i in range(len(data)))

    def _take(self, byte: bytes) -> bytes:
        if self._command or byte == b"x":
            self._command += byte
            if byte != b"X" and len(self._command) < COMMAND_MOST:
                return b""
            command, self._command = self._command, b""
            return self._say(self._set_channel(command))
        if byte == cyton.START:
            self.streaming = True
            self._number = 0
            return b""
        if byte == cyton.STOP:
            self.streaming = False
            return b""
        if byte == cyton.SOFT_RESET:
            self.streaming = False
            self._defaults()
            return BANNER.encode()
        if byte == cyton.DEFAULTS:
            self._defaults()
            return self._say("updating channel settings to default$$$")
        if byte == cyton.REPORT_DEFAULTS:
            return self._say("060110$$$")
        if byte == cyton.REGISTERS:
            return self._say(self._registers())
        if byte == b"C":
            return self._say("no daisy to attach!8$$$")
        for codes, on in ((cyton.CHANNELS_OFF, False), (cyton.CHANNELS_ON, True)):
            if byte in codes:
                self._switch(codes.index(byte) + 1, on)
        return b""

    def _say(self, text: str) -> bytes:
        return b"" if self.streaming else text.encode()

    def _set_channel(self, command: bytes) -> str:
        settings = cyton.parse_channel_command(command)
        if settings is None:
            return "Failure: invalid channel settings$$$"
        self._channels[settings.channel] = settings
        return f"Success: Channel set for {settings.channel}$$$"

    def _switch(self, channel: int, on: bool) -> None:
        old = self._channels[channel]
        self._channels[channel] = cyton.ChannelSettings(
            channel, old.gain, on, old.input_type, old.bias, old.srb2, old.srb1
        )

    def _registers(self) -> str:
        lines = ["Board ADS Registers", "ID, 00, 0x3E"]
        for channel, settings in self._channels.items():
            # CHnSET of the ADS1299: power-down, gain, SRB2, input type.
            value = (not settings.on) << 7 | cyton.GAINS.index(settings.gain) << 4 | settings.srb2 << 3
            lines.append(f"CH{channel}SET, {4 + channel:02X}, 0x{value | settings.input_type:02X}")
        return "\r\n".join(lines) + "\r\n$$$"

    def packets(self, eeg_uv: NDArray[np.float64], accel_g: tuple[float, float, float]) -> bytes:
        """The packets of these samples (8, n), with one acceleration for all of them."""
        n = eeg_uv.shape[1]
        counts = cyton.counts_of(eeg_uv, self.gains)
        counts[[not settings.on for settings in self._channels.values()]] = 0
        aux = np.repeat(np.rint(np.array(accel_g) / cyton.ACCEL_G).astype(np.int64)[:, None], n, axis=1)
        numbers = self._number + np.arange(n)
        self._number = (self._number + n) % 256
        return cyton.encode_packets(numbers, counts, aux)

    def skip(self, count: int) -> None:
        """Samples that were taken but never sent: a gap in the numbers."""
        self._number = (self._number + count) % 256
