"""Refusals are counted from the log of the broker, whoever writes into it and however long it grows."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hub.broker.refusals import MosquittoLog, NatsLog, Tail

NATS = "[7] 2026/11/24 12:46:25.519357 "
REFUSED = f'{NATS}[ERR] 127.0.0.1:46539 - mid:7 - "edge-1" - authentication error - User "edge-1"\n'
WAIT_S = 10.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_one_refusal_is_counted_once() -> None:
    """NATS tells of a refused sign-in in two lines."""
    log = NatsLog()
    log.feed(REFUSED.rstrip())
    log.feed(f'{NATS}[ERR] 127.0.0.1:46539 - mid:7 - "edge-1" - unable to connect: authentication error')
    log.feed(f'{NATS}[ERR] 127.0.0.1:46539 - mid:8 - "edge-1" - unable to connect: connection closed')
    log.feed(f"{NATS}[INF] Server is ready")
    assert log.refusals().sign_ins == 1
    assert log.refusals().publishes == log.refusals().subscriptions == log.refusals().take_overs == 0


def test_a_strangers_words_do_not_steer_a_terminal() -> None:
    """Client ids and user names are chosen by whoever is refused."""
    log = NatsLog()
    log.feed(f'{NATS}[ERR] 127.0.0.1:1 - mid:7 - "\x1b[2Jx{"y" * 5000}" - authentication error')
    assert log.refusals().sign_ins == 1
    assert "\x1b" not in log.refusals().last
    assert len(log.refusals().last) <= 200


def test_granted_subscriptions_of_mosquitto_are_not_counted() -> None:
    log = MosquittoLog()
    for line in (
        "1: Received SUBSCRIBE from a b",
        "1: \tlab/v1/e1/down/# (QoS 1)",
        "1: a b 1 lab/v1/e1/down/#",
        "1: \tlab/v1/e2/down/# (QoS 1)",
        "1: Sending SUBACK to a b",
    ):
        log.feed(line)
    assert log.refusals().subscriptions == 1
    assert "a b" in log.refusals().last


def test_what_is_not_told_is_not_zero() -> None:
    log = MosquittoLog()
    assert log.refusals().sign_ins is None
    log.feed("1: Client <unknown> disconnected, not authorised.")
    assert (log.refusals().sign_ins, log.refusals().publishes, log.refusals().subscriptions) == (1, None, None)
    log.feed("1: Sending CONNACK to 127.0.0.1 (0, 5)")
    assert (log.refusals().publishes, log.refusals().subscriptions) == (0, 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "broker.log"
    file.write_text(REFUSED)
    return file


def test_a_log_is_followed_from_now_on_and_through_its_renaming(file: Path) -> None:
    """What a former hub had counted is not counted again, and what is refused while the log turns over is."""
    log = NatsLog()
    tail = Tail(file, log)
    tail.start()
    with file.open("a") as out:
        out.write(REFUSED + REFUSED[:20])
    until(lambda: log.refusals().sign_ins == 1)
    with file.open("a") as out:
        out.write(REFUSED[20:])
    until(lambda: log.refusals().sign_ins == 2)
    # The end of the old file and the beginning of the new one within one look at them.
    with file.open("a") as out:
        out.write(REFUSED)
    file.rename(file.with_name("broker.log.2026.11.24"))
    file.write_text(REFUSED * 2)
    until(lambda: log.refusals().sign_ins == 5)
    file.write_text(REFUSED)
    until(lambda: log.refusals().sign_ins == 6)
    with file.open("a") as out:
        out.write(REFUSED)
    tail.stop()
    tail.stop()
    assert log.refusals().sign_ins == 7


def test_a_log_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """Otherwise its zeros would look like peace."""
    (tmp_path / "broker.log").mkdir()
    tail = Tail(tmp_path / "broker.log", MosquittoLog())
    tail.start()
    until(lambda: bool(tail.fault))
    tail.stop()
    assert tail.fault == f"{tmp_path / 'broker.log'}: Is a directory"
