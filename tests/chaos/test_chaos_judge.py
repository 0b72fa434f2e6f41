"""A judge that finds nothing must be shown to find something: each kind of difference, told apart and named."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from lab_contract.batch import EVENT_STREAM, Gap, GapReason, Header, Shape, encode_gaps
from lab_contract.messages import Ack, dump
from lab_contract.topics import Kind, topic
from tests.chaos.disk import Disk, small_disk
from tests.chaos.driver import Order, Report
from tests.chaos.link import Link, Packets, Trouble
from tests.chaos.made import CHANNELS, STREAM, Made, Value, read_log, values_of
from tests.chaos.schedule import Cut, Fill, Kill, plan
from tests.chaos.table import BEGIN, END, PAPER, row, with_runs
from tests.chaos.verdict import DELAY_NS, Sample, Verdict, judge

SECOND = 1_000_000_000
MADE = [Made("wave", counter, (counter + 1) * SECOND) for counter in range(10)]
MADE += [Made("counts", counter, (counter + 1) * SECOND + 7) for counter in range(10)]
ALL: list[Sample] = [
    (channel, one.t, value) for one in MADE for channel, value in values_of(one.topic, one.counter).items()
]


def judged(stored: list[Sample], gaps: list[Gap] | None = None, committed: list[Sample] | None = None) -> Verdict:
    gaps = gaps or []
    return judge(MADE, ALL if committed is None else committed, gaps, stored, gaps)


def without(*channels: str, t_from: int = 0, t_to: int = 2**62) -> list[Sample]:
    """Everything but these channels in this time."""
    return [one for one in ALL if one[0] not in channels or not t_from <= one[1] <= t_to]


def counts(verdict: Verdict) -> tuple[int, int, int, int]:
    return verdict.lost, verdict.duplicated, verdict.altered, verdict.unsaid


def test_what_is_stored_as_it_was_made_is_no_difference() -> None:
    verdict = judged(ALL)
    assert verdict.differences == 0
    assert verdict.made == verdict.committed == verdict.stored == len(ALL) == 10 * len(CHANNELS)


def test_a_committed_value_that_is_not_stored_is_lost_and_named() -> None:
    verdict = judged(ALL[1:])
    assert verdict.lost == 1
    assert f"lost: {ALL[0][0]} at {ALL[0][1]}" in verdict.first[0]


def test_a_value_stored_twice_is_a_duplicate() -> None:
    assert counts(judged([*ALL, ALL[5]])) == (0, 1, 0, 0)


@pytest.mark.parametrize("value", [(1e9, None, 0), (None, None, 0), (ALL[0][2][0], "text", 0), (ALL[0][2][0], None, 5)])
def test_another_value_text_or_quality_is_an_alteration(value: Value) -> None:
    # Once against the spool, once against what was made.
    verdict = judged([(ALL[0][0], ALL[0][1], value), *ALL[1:]])
    assert counts(verdict) == (0, 0, 2, 0)


def test_a_value_altered_before_the_spool_is_found_by_what_was_made() -> None:
    changed: list[Sample] = [(ALL[0][0], ALL[0][1], (1e9, None, 0)), *ALL[1:]]
    assert counts(judged(changed, committed=changed)) == (0, 0, 1, 0)


def test_another_time_is_a_loss_and_a_value_that_nobody_made() -> None:
    moved: list[Sample] = [(ALL[0][0], ALL[0][1] + 1, ALL[0][2]), *ALL[1:]]
    verdict = judged(moved)
    assert (verdict.lost, verdict.unsaid) == (1, 1)
    assert verdict.altered == 2


def test_what_never_reached_the_spool_must_be_said_by_a_gap_of_its_own_stream() -> None:
    rest = without("wave.a", t_from=3 * SECOND, t_to=4 * SECOND)
    assert counts(judged(rest, committed=rest)) == (0, 0, 0, 2)
    wrong = Gap(EVENT_STREAM, 2 * SECOND, 5 * SECOND, GapReason.STOPPED)
    assert judged(rest, [wrong], committed=rest).unsaid == 2
    short = Gap(STREAM, 2 * SECOND, 4 * SECOND - 1, GapReason.STOPPED)
    assert judged(rest, [short], committed=rest).unsaid == 1
    whole = Gap(STREAM, 2 * SECOND, 5 * SECOND, GapReason.STOPPED)
    verdict = judged(rest, [whole], committed=rest)
    assert (verdict.differences, verdict.said) == (0, 2)


def test_the_edge_of_a_gap_of_events_is_as_sharp_as_the_way_of_the_equipment_and_no_sharper() -> None:
    t = 5 * SECOND + 7
    rest = without("count.0", t_from=t, t_to=t)
    near = Gap(EVENT_STREAM, t + DELAY_NS, t + SECOND, GapReason.STOPPED)
    verdict = judged(rest, [near], committed=rest)
    assert (verdict.differences, verdict.tolerated) == (0, 1)
    far = Gap(EVENT_STREAM, t + DELAY_NS + 1, t + SECOND, GapReason.STOPPED)
    assert judged(rest, [far], committed=rest).unsaid == 1


def test_a_gap_record_is_delivered_like_data() -> None:
    gap = Gap(STREAM, 1, 2, GapReason.STOPPED)
    assert judge(MADE, ALL, [gap], ALL, []).lost == 1
    assert judge(MADE, ALL, [gap], ALL, [gap, gap]).duplicated == 1


def test_the_plan_follows_from_its_seed_and_kills_as_many_as_asked() -> None:
    for kills in (1, 7, 200):
        episodes = list(plan(kills, 3, ("edge", "hub", "broker"), ("edge", "hub")))
        assert episodes == list(plan(kills, 3, ("edge", "hub", "broker"), ("edge", "hub")))
        assert sum(episode.kills for episode in episodes) == kills
        assert episodes[-1].recovers
    steps = [step for episode in episodes for step in episode.steps]
    assert {victim for step in steps if isinstance(step, Kill) for victim in step.victims} == {"edge", "hub", "broker"}
    assert any(isinstance(step, Kill) and len(step.victims) == 2 for step in steps)
    assert {step.trouble for step in steps if isinstance(step, Cut)} == set(Trouble)
    assert {step.part for step in steps if isinstance(step, Fill)} == {"edge", "hub"}


def test_the_log_of_the_producer_gives_back_what_was_made(tmp_path: Path) -> None:
    log = tmp_path / "made.log"
    assert list(read_log(log)) == []
    log.write_bytes(b"".join(one.line() for one in MADE))
    assert list(read_log(log)) == MADE


def test_a_run_takes_the_place_of_the_former_one_of_the_same_store_and_broker() -> None:
    """A figure of an older program must not stand beside that of a newer one."""
    report = Report(Order(kills=20, seed=5))
    report.kills.update(["edge", "hub", "edge"])
    old = report.as_json()
    paper = with_runs(f"before {BEGIN}\n{END} after", [old, old | {"store": "influx"}])
    assert paper.startswith("before ")
    assert paper.endswith(" after")
    assert row(old) in paper
    assert with_runs(paper, []) == paper
    new = old | {"seed": 6, "kills": 200}
    paper = with_runs(paper, [new])
    assert row(new) in paper
    assert row(old) not in paper
    assert row(old | {"store": "influx"}) in paper
    assert with_runs(PAPER.read_text("utf-8"), []) == PAPER.read_text("utf-8")


def publish(name: str, payload: bytes, qos: int = 1) -> bytes:
    """An MQTT PUBLISH packet."""
    body = len(name).to_bytes(2, "big") + name.encode() + (b"\x00\x01" if qos else b"") + payload
    size, length = len(body), bytearray()
    while True:
        size, low = size >> 7, size & 0x7F
        length.append(low | (0x80 if size else 0))
        if not size:
            return bytes([0x30 | qos << 1, *length]) + body


def test_messages_are_found_however_the_bytes_are_cut() -> None:
    messages = [("a/b", b""), ("lab", b"x" * 300), ("c", os.urandom(20_000))]
    data = b"\xc0\x00" + b"".join(publish(name, payload, qos=i % 2) for i, (name, payload) in enumerate(messages))
    rng = random.Random(1)
    for _ in range(20):
        packets, found, place = Packets(), [], 0
        while place < len(data):
            step = rng.randint(1, 5000)
            found += packets.feed(data[place : place + step])
            place += step
        assert found == messages


async def test_a_deaf_link_lets_batches_through_and_keeps_the_acknowledgement() -> None:
    """Whether the edge heard an acknowledgement decides whether it may let go of a batch."""
    up, ack = topic("e", Kind.UP), topic("e", Kind.ACK)
    batch = encode_gaps(Header("e", 5, 6, "k", "gaps", Shape.GAP), [Gap("s", 1, 2, GapReason.STOPPED)])
    answer = publish(ack, dump(Ack(store_id="s", epoch=5, stored=(6,))))
    arrived = asyncio.Event()

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(publish(up, batch)))
        arrived.set()
        writer.write(answer)
        await writer.drain()
        await reader.read()
        writer.close()

    async with (
        asyncio.timeout(10),
        await asyncio.start_server(broker, "127.0.0.1", 0) as server,
        Link(server.sockets[0].getsockname()[1], random.Random(1)) as link,
    ):
        deaf = asyncio.create_task(link.trouble(Trouble.DEAF, 60))
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(publish(up, batch))
        await arrived.wait()
        assert await link.wait(lambda heard: bool(heard.stored), 5)
        assert link.heard.newest_stored == 0
        deaf.cancel()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()

        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(publish(up, batch))
        assert await reader.readexactly(len(answer)) == answer
        assert link.heard.newest_stored > 0
        assert link.heard.sent == {(5, 6): 2}
        assert link.heard.redeliveries == 1
        writer.close()


WRITER = """
import sys
for line in sys.stdin:
    try:
        with open(sys.argv[1], "ab") as file:
            file.write(bytes(4096))
        print("written", flush=True)
    except OSError as error:
        print("refused", flush=True)
"""


@pytest.mark.real
@pytest.mark.parametrize("mount", [True, False])
def test_a_full_disk_refuses_and_takes_again(tmp_path: Path, mount: bool) -> None:
    pids: list[int] = []
    with small_disk(tmp_path / "disk", 2, lambda: pids, mount=mount) as disk:
        command = [sys.executable, "-c", WRITER, str(disk.folder / "file")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            pids.append(process.pid)
            assert wrote(process), "at first"
            disk.fill()
            assert not wrote(process), "while it is full"
            disk.free()
            assert wrote(process), "afterwards"
            assert isinstance(disk, Disk)
            process.communicate()


def wrote(process: subprocess.Popen[str]) -> bool:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline() == "written\n"
