"""Without these an unplugged instrument would look alive, or a busy port would be a riddle."""

from __future__ import annotations

import asyncio
import os
import pty
import threading
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from serial.tools import list_ports

from firmware_bridge.ports import Chunk, LinkUnavailable, PortBusy, PortInvalid, SerialLink, check_port, find_port


@dataclass
class Terminal:
    master: int
    slave: int

    @property
    def name(self) -> str:
        return os.ttyname(self.slave)

    def close(self) -> None:
        for end in (self.master, self.slave):
            if end >= 0:
                os.close(end)
        self.master = self.slave = -1


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    made = Terminal(master, slave)
    yield made
    made.close()


class Reader:
    """A link and what came over it."""

    def __init__(self, port: str, **options: int) -> None:
        self.news = threading.Condition()
        self.chunks: list[Chunk] = []
        self.link = SerialLink(port, baudrate=115200, monotonic_ns=time.monotonic_ns, notify=self._notify, **options)

    def _notify(self) -> None:
        with self.news:
            self.news.notify_all()

    def read(self, size: int) -> bytes:
        def enough() -> bool:
            self.chunks += self.link.take()
            return sum(len(chunk.data) for chunk in self.chunks) >= size

        with self.news:
            assert self.news.wait_for(enough, 5)
        return b"".join(chunk.data for chunk in self.chunks)

    def wait_ended(self) -> LinkUnavailable:
        with self.news:
            assert self.news.wait_for(lambda: self.link.ended is not None, 5)
        assert self.link.ended is not None
        return self.link.ended


def test_bytes_go_both_ways_over_a_terminal(terminal: Terminal) -> None:
    reader = Reader(terminal.name)
    reader.link.open()
    os.write(terminal.master, b"telemetry")
    assert reader.read(9) == b"telemetry"
    assert reader.chunks[-1].drained
    reader.link.write(b"v")
    assert os.read(terminal.master, 10) == b"v"
    reader.link.close()
    reader.link.close()
    assert reader.link.ended is None
    with pytest.raises(LinkUnavailable, match="closed"):
        reader.link.write(b"v")


def test_an_unplug_is_noticed_at_once_and_named(terminal: Terminal) -> None:
    reader = Reader(terminal.name)
    reader.link.open()
    began = time.monotonic()
    terminal.close()
    assert "gone" in str(reader.wait_ended())
    assert time.monotonic() - began < 2
    with pytest.raises(LinkUnavailable, match="cannot write"):
        reader.link.write(b"v")
    reader.link.close()


def test_a_port_that_another_program_holds_has_its_own_message(terminal: Terminal) -> None:
    first, second = Reader(terminal.name), Reader(terminal.name)
    first.link.open()
    with pytest.raises(PortBusy, match="another program has this port open"):
        second.link.open()
    second.link.close()
    first.link.close()
    third = Reader(terminal.name)
    third.link.open()
    third.link.close()


def test_a_link_that_points_elsewhere_after_a_replug_is_followed(terminal: Terminal, tmp_path: Path) -> None:
    by_id = tmp_path / "usb-board"
    by_id.symlink_to(terminal.name)
    reader = Reader(str(by_id))
    reader.link.open()
    old_name = terminal.name
    master, slave = pty.openpty()
    tty.setraw(slave)
    terminal.close()
    reader.wait_ended()
    reader.link.close()
    by_id.unlink()
    by_id.symlink_to(os.ttyname(slave))
    assert os.ttyname(slave) != old_name
    again = Reader(str(by_id))
    again.link.open()
    os.write(master, b"back")
    assert again.read(4) == b"back"
    again.link.close()
    os.close(master)
    os.close(slave)


def test_a_missing_port_is_unavailable_and_says_which() -> None:
    reader = Reader("/dev/serial/by-id/none-here")
    with pytest.raises(LinkUnavailable, match="none-here"):
        reader.link.open()
    reader.link.close()


def test_what_nobody_takes_is_bounded_and_counted(terminal: Terminal) -> None:
    reader = Reader(terminal.name, handover_bytes=1000)
    reader.link.open()
    for i in range(30):
        os.write(terminal.master, bytes([i]) * 100)
        with reader.news:
            assert reader.news.wait_for(lambda i=i: reader.link.counters["bytes_read"] == 100 * (i + 1), 5)
    reader.link.close()
    kept = b"".join(chunk.data for chunk in reader.link.take())
    assert len(kept) <= 1000
    assert kept.endswith(bytes([29]) * 100)
    assert reader.link.counters["overflow_bytes"] == 3000 - len(kept)


def test_closing_while_opening_leaves_no_port_open(terminal: Terminal) -> None:
    reader = Reader(terminal.name)
    reader.link.close()
    with pytest.raises(LinkUnavailable, match="closed"):
        reader.link.open()
    again = Reader(terminal.name)
    again.link.open()
    again.link.close()


async def test_a_line_over_tcp_reads_and_notices_the_end() -> None:
    """Simulators on Windows, and serial device servers, are reached this way."""
    peers: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda r, w: peers.put_nowait((r, w)), "127.0.0.1", 0)
    reader = Reader(f"socket://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await asyncio.to_thread(reader.link.open)
    heard, peer = await asyncio.wait_for(peers.get(), 5)
    peer.write(b"x" * 10_000)
    assert len(await asyncio.to_thread(reader.read, 10_000)) == 10_000
    await asyncio.to_thread(reader.link.write, b"v")
    assert await asyncio.wait_for(heard.read(1), 5) == b"v"
    peer.close()
    await peer.wait_closed()
    assert "gone" in str(await asyncio.to_thread(reader.wait_ended))
    await asyncio.to_thread(reader.link.close)
    server.close()
    await server.wait_closed()


@dataclass
class Listed:
    device: str
    vid: int | None
    pid: int | None
    serial_number: str | None


def test_a_usb_id_finds_the_port_wherever_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    here = [
        Listed("/dev/ttyS0", None, None, None),
        Listed("COM7", 0x0403, 0x6015, "A1"),
        Listed("COM9", 0x2341, 0x0043, "B2"),
    ]
    monkeypatch.setattr(list_ports, "comports", lambda: here)
    assert find_port("usb:0403:6015") == "COM7"
    assert find_port("usb:2341:0043:B2") == "COM9"
    with pytest.raises(LinkUnavailable, match="usb:0403:6015:A1"):
        find_port("usb:1111:2222")
    here.append(Listed("COM8", 0x0403, 0x6015, "A2"))
    with pytest.raises(PortInvalid, match=r"COM7.*COM8"):
        find_port("usb:0403:6015")
    assert find_port("usb:0403:6015:A2") == "COM8"


@pytest.mark.parametrize("port", ["", "usb:12:34", "http://host:1", "socket://host", "socket://host:x", "usb:"])
def test_a_setting_that_names_no_port_is_found_without_hardware(port: str) -> None:
    with pytest.raises(PortInvalid, match="expected"):
        check_port(port)


@pytest.mark.parametrize("port", ["COM3", "/dev/ttyUSB0", "usb:0403:6015", "usb:0403:6015:DM00", "socket://h:7001"])
def test_the_four_forms_of_a_port_are_known(port: str) -> None:
    check_port(port)
