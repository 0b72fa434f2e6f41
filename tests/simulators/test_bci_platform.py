"""Without these the demo would stand still, or a lesson learnt on the simulator would be wrong on the kit."""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import random
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from edge_agent.eeg_measures import line_ratio, power_between, quality, spectrum
from firmware_bridge import cyton, kit_link
from firmware_bridge.framing import Frame, FrameDecoder, encode
from simulators.bci_platform import BciPlatformSimulator, add_arguments, run
from simulators.cyton_board import CytonBoard
from simulators.drive_model import COURSE_M, Drive
from simulators.eeg_model import DEFAULT_TARGETS_HZ, EegModel, Scene
from simulators.kit_controller import KitController
from simulators.serial_port import PtyPort, TcpPort
from tests.bci_bench import until

OPEN = Scene(-10_000)
OZ, PZ = 5, 7


def controller_messages(controller: KitController, seconds: float) -> list[kit_link.Message]:
    decoder, out = FrameDecoder(), []
    for _ in range(round(seconds * 50)):
        out += [kit_link.decode(frame) for frame in decoder.feed(controller.step())]
    assert decoder.counters["lost"] == decoder.counters["bad_frames"] == 0
    return [message for message in out if message is not None]


def send(controller: KitController, message: kit_link.Message) -> list[kit_link.Message | None]:
    kind, payload = kit_link.encode(message)
    return [kit_link.decode(f) for f in FrameDecoder().feed(controller.receive(encode(Frame(kind, 0, payload))))]


def test_the_same_seed_gives_the_same_brain_in_whatever_pieces() -> None:
    now = Scene(500, target=2)
    whole = EegModel(4).samples(400 + 200, 400, now, OPEN)
    model = EegModel(4)
    pieces = np.concatenate([model.samples(600 + i, 5, now, OPEN) for i in range(0, 400, 5)], axis=1)
    assert np.allclose(whole, pieces)
    assert not np.allclose(whole, EegModel(5).samples(600, 400, now, OPEN))


def test_closed_eyes_raise_alpha_as_task_c1_asks() -> None:
    model = EegModel(1)
    alpha = []
    for eyes in (Scene(-10_000, eyes_closed=True), OPEN):
        frequencies, density = spectrum(model.samples(0, 250 * 30, eyes, eyes), 250)
        alpha.append(power_between(frequencies, density, 8, 13)[OZ])
    assert alpha[0] / alpha[1] >= 1.5


@pytest.mark.parametrize("target", range(4))
def test_the_target_looked_at_stands_out_most_at_the_back_of_the_head(target: int) -> None:
    scene = Scene(-10_000, target=target)
    frequencies, density = spectrum(EegModel(1).samples(0, 250 * 20, scene, scene), 250)
    without = spectrum(EegModel(1).samples(0, 250 * 20, OPEN, OPEN), 250)[1]
    peaks = [(density - without)[:, np.argmin(abs(frequencies - hz))] for hz in DEFAULT_TARGETS_HZ]
    assert int(np.argmax([peak[OZ] for peak in peaks])) == target
    assert int(np.argmax(peaks[target])) == OZ


def test_a_lost_electrode_shows_in_quality_and_the_others_do_not() -> None:
    model = EegModel(1)
    model.lost = {PZ}
    window = model.samples(0, 500, OPEN, OPEN)
    frequencies, density = spectrum(window, 250)
    scores = quality(window, frequencies, density, 50)
    assert scores[PZ] < 60
    assert np.delete(scores, PZ).min() > 60
    noise = line_ratio(frequencies, density, np.zeros(8, bool), 50)
    assert noise is not None
    assert noise < 3


def test_a_board_is_silent_until_told_and_answers_as_the_firmware_does() -> None:
    board = CytonBoard()
    assert cyton.parse_banner(board.receive(b"v").decode()) is not None
    assert board.receive(b"d") == b"updating channel settings to default$$$"
    assert board.receive(b"D") == b"060110$$$"
    assert board.receive(b"x3020000X") == b"Success: Channel set for 3$$$"
    assert board.receive(b"xyzX").startswith(b"Failure")
    assert board.receive(b"C") == b"no daisy to attach!8$$$"
    assert board.receive(b"?").endswith(b"$$$")
    assert board.gains == (24, 24, 4, 24, 24, 24, 24, 24)
    assert not board.streaming
    assert board.receive(b"b") == b""
    assert board.streaming
    assert board.receive(b"?") == b""
    assert board.receive(b"4s") == b""
    assert not board.streaming
    board.skip(10)
    block = cyton.CytonDecoder(board.gains).feed(board.packets(np.full((8, 3), 100.0), (0.05, 0.0, 1.0)))
    assert block.eeg[:, 0] == pytest.approx([100, 100, 100, 0, 100, 100, 100, 100], abs=0.1)
    assert list(block.numbers) == [10, 11, 12]
    assert block.accel[0, 0] != 0


def test_the_kit_says_everything_at_its_rates_and_moves() -> None:
    messages = controller_messages(KitController(1), 100)
    counts = Counter(m.group for m in messages if isinstance(m, kit_link.Telemetry))
    assert counts["motion"] == counts["ranges"] == 1000
    assert counts["power"] == 500
    assert counts["decode"] == 200
    assert counts["battery"] == 20
    assert counts["impedance"] == 10
    assert sum(isinstance(m, kit_link.KitHeartbeat) for m in messages) == 100
    decoded = [m.values for m in messages if isinstance(m, kit_link.Telemetry) and m.group == "decode"]
    assert {d["mode"] for d in decoded} == {0, 1}
    assert len({d["intent"] for d in decoded}) >= 3
    xs = [m.values["x"] for m in messages if isinstance(m, kit_link.Telemetry) and m.group == "motion"]
    assert max(xs) - min(xs) > 2


@pytest.mark.parametrize("seed", range(4))
def test_the_platform_goes_round_the_course_and_hits_nothing(seed: int) -> None:
    controller = KitController(seed)
    places = set()
    for _ in range(50 * 700):
        controller.step()
        drive = controller.drive
        assert not drive.bumper
        assert 0 < drive.x < COURSE_M[0]
        assert 0 < drive.y < COURSE_M[1]
        assert abs(drive.speed) <= 0.31
        assert math.isfinite(drive.battery_v)
        places.add((drive.x > 4, drive.y > 3))
    assert len(places) == 4


def test_the_same_seed_drives_the_same_way() -> None:
    # As text, since NaN, "not measured", equals nothing.
    assert str(controller_messages(KitController(7), 30)) == str(controller_messages(KitController(7), 30))


def test_hello_gives_the_whole_state() -> None:
    answers = send(KitController(1), kit_link.Hello())
    assert isinstance(answers[0], kit_link.Info)
    assert {a.group for a in answers if isinstance(a, kit_link.Telemetry)} == set(kit_link.GROUPS)


def test_a_drive_armed_from_afar_stops_within_two_seconds_of_the_last_heartbeat() -> None:
    """The kit model's heartbeat (1.5 s) and the safe state's half second."""
    controller = KitController(1, attended=False)
    (reply,) = send(controller, kit_link.Command(7, "arm_drive"))
    assert reply == kit_link.Reply(7, kit_link.Outcome.DONE)
    controller.drive.intent = "forward"
    for count in range(200):
        send(controller, kit_link.HostHeartbeat(count))
        controller.drive.intent = "forward"
        controller.step()
    assert controller.drive.armed == "remote"
    assert controller.drive.speed > 0.2
    for _ in range(76):
        controller.step()
    assert not controller.drive.armed
    for _ in range(25):
        controller.step()
    assert controller.drive.speed == 0
    assert controller.drive.refused == "no heartbeat from the host"


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({"enable_switch": False}, "enable switch"),
        ({"battery_pct": 19.0}, "battery"),
        ({"estop": True}, "emergency stop"),
        ({"dead_sensors": {"rear"}}, "obstacle sensor rear"),
    ],
)
def test_arming_is_refused_with_a_reason(fault: dict[str, object], why: str) -> None:
    controller = KitController(1, attended=False)
    for name, value in fault.items():
        setattr(controller.drive, name, value)
    (reply,) = send(controller, kit_link.Command(1, "arm_drive"))
    assert isinstance(reply, kit_link.Reply)
    assert reply.outcome is kit_link.Outcome.REFUSED
    assert why in reply.text


def test_letting_go_of_the_switch_and_the_emergency_stop_disarm() -> None:
    for fault in ("enable_switch", "estop"):
        controller = KitController(1)
        setattr(controller.drive, fault, fault == "estop")
        controller.step()
        assert not controller.drive.armed


@pytest.mark.parametrize(
    ("verb", "good", "bad"),
    [
        ("set_targets", (6.7, 10, 12, 15), (6, 7, 8, 12)),
        ("set_targets", (9, 10, 11, 13), (9, 9.3, 11, 13)),
        ("set_window", (2,), (6,)),
        ("set_confidence_threshold", (0.6,), (0.2,)),
        ("set_speed_limit", (0.2,), (0.5,)),
        ("start_trial_block", (40,), (41,)),
        ("start_calibration", (), (1,)),
        ("stop", (), None),
        ("disarm_drive", (), None),
    ],
)
def test_the_controller_checks_every_argument_again(
    verb: str, good: tuple[float, ...], bad: tuple[float, ...] | None
) -> None:
    controller = KitController(1)
    (reply,) = send(controller, kit_link.Command(1, verb, good))
    assert isinstance(reply, kit_link.Reply)
    assert reply.outcome is kit_link.Outcome.DONE
    if bad is not None:
        (reply,) = send(controller, kit_link.Command(2, verb, bad))
        assert isinstance(reply, kit_link.Reply)
        assert reply.outcome is kit_link.Outcome.BAD_ARGUMENT


def test_the_platform_slows_before_an_obstacle_and_stops_in_front_of_it() -> None:
    drive = Drive(random.Random(1), armed="local", intent="forward", x=5.0, y=5.4, heading=0.0)
    speeds = []
    for _ in range(50 * 30):
        drive.intent = "forward"
        drive.step(0.02)
        speeds.append(drive.speed)
    assert not drive.bumper
    assert drive.speed == 0
    assert 0.3 < drive.ranges["front"] < 0.45
    assert any(0.1 < speed < 0.16 for speed in speeds)


async def test_samples_come_at_250_hz_by_the_clock_without_a_gap() -> None:
    received = bytearray()

    class Line(PtyPort):
        def write(self, data: bytes) -> None:
            received.extend(data)

    eeg = Line()
    async with BciPlatformSimulator(eeg, PtyPort(), seed=2) as simulator:
        eeg.on_data(b"vd")
        received.clear()
        loop = asyncio.get_running_loop()
        await until(lambda: simulator.controller.ms >= 100)
        assert received == b""
        eeg.on_data(b"b")
        began = loop.time()
        await until(lambda: len(received) >= 33 * 500)
        took = loop.time() - began
        eeg.on_data(b"s")
        size = len(received)
        ms = simulator.controller.ms
        await until(lambda: simulator.controller.ms >= ms + 100)
        assert len(received) == size
    # By the clock, not by the number of wake-ups: never early, and late only by what the machine was busy.
    assert -10 < took * 250 - size / 33 < 125
    decoder = cyton.CytonDecoder()
    assert len(decoder.feed(bytes(received))) == size // 33
    assert decoder.counters["lost"] == decoder.counters["garbage_bytes"] == 0


async def test_a_port_is_a_link_that_comes_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "eeg"
    port = PtyPort(path)
    await port.plug()
    first = path.readlink()
    await port.unplug()
    assert not path.is_symlink()
    await port.unplug()
    port.write(b"lost")
    assert port.dropped_bytes == 4
    path.symlink_to("/dev/nowhere-left-by-a-killed-run")
    await port.plug()
    assert path.readlink().exists()
    assert str(first).startswith("/dev/")
    await port.unplug()
    path.write_text("somebody's file")
    with pytest.raises(FileExistsError, match="symbolic link"):
        await port.plug()
    await port.unplug()
    assert path.read_text() == "somebody's file"


async def test_only_one_host_at_a_time_over_tcp() -> None:
    port = TcpPort()
    await port.plug()
    number = int(port.url.rpartition(":")[2])
    port.on_data = port.write
    first = await asyncio.open_connection("127.0.0.1", number)
    second = None
    try:
        first[1].write(b"echo")
        assert await first[0].readexactly(4) == b"echo"
        second = await asyncio.open_connection("127.0.0.1", number)
        assert await ended(second[0])
        await port.unplug()
        assert await ended(first[0])
    finally:
        await port.unplug()
        for stream in (first, second):
            if stream is not None:
                stream[1].close()


async def ended(stream: asyncio.StreamReader) -> bool:
    try:
        return await stream.read(1) == b""
    except ConnectionResetError:
        return True


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.mark.parametrize("tcp", [False, True])
async def test_the_program_says_ready_and_where(tcp: bool, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    add_arguments(parser)
    links = ["--eeg-port", str(tmp_path / "eeg"), "--drive-port", str(tmp_path / "drive")]
    options = parser.parse_args(["--tcp", "0", "0"] if tcp else links)
    said = io.StringIO()
    with redirect_stdout(said):
        task = asyncio.create_task(run(options))
        await until(lambda: said.getvalue().endswith("\n"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    word, _, eeg, _, drive = said.getvalue().split()
    assert word == "ready"
    assert eeg.startswith("socket://127.0.0.1:") if tcp else (eeg, drive) == (links[1], links[3])
    assert left_in(tmp_path) == []
