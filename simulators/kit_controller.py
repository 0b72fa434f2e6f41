"""The kit's own controller without I/O: steps drive and rider, speaks kit_link (see firmware_bridge/kit_link.py).

Its watchdog brings a drive that was armed from afar to the safe state 1.5 s after the last heartbeat of the host. A
drive that was armed on the spot does not depend on a host. Remote verbs are checked here once more, whoever checked
before.

Not modelled: calibration changes nothing, a decoding window is taken but does not change the scores.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from itertools import pairwise

from firmware_bridge import kit_link
from firmware_bridge.framing import Frame, FrameDecoder, encode
from simulators.drive_model import CLASS_SPEED_M_S, Drive
from simulators.eeg_model import DEFAULT_TARGETS_HZ, ELECTRODES
from simulators.rider import TICKS_PER_S, Rider

INFO = "bci-platform simulator 1.0"
TICK_MS = 1000 // TICKS_PER_S
WATCHDOG_MS = 1500
PERIODS_MS = {
    "motion": 100,
    "ranges": 100,
    "power": 200,
    "decode": 500,
    "battery": 5000,
    "switches": 5000,
    "impedance": 10_000,
}
HEARTBEAT_MS = 1000
CONTACT_KOHM = 3.0
LOST_KOHM = 850.0
TARGET_RANGE_HZ = (6.0, 15.0)


class KitController:
    """`step` moves the kit on by 20 ms and gives what is to be sent; `receive` gives the answers to the host."""

    def __init__(self, seed: int, attended: bool = True) -> None:
        self._rng = random.Random(f"{seed} controller")
        self.drive = Drive(random.Random(f"{seed} drive"))
        self.rider = Rider(self.drive, random.Random(f"{seed} rider"), attended=attended)
        if attended:
            self.drive.armed = "local"
        self.targets_hz: tuple[float, ...] = DEFAULT_TARGETS_HZ
        self.window_s = 2.0
        self.ms = 0
        self._seq = 0
        self._decoder = FrameDecoder()
        self._switches: dict[str, float] = {}
        self._host_heard_ms = 0
        self._contact = [CONTACT_KOHM + self._rng.uniform(-1.0, 1.0) for _ in ELECTRODES]

    @property
    def counters(self) -> dict[str, int]:
        """What came from the host: frames, lost, bad_frames, garbage_bytes."""
        return self._decoder.counters

    def step(self) -> bytes:
        """Move on by one tick; the frames that are due."""
        self.ms += TICK_MS
        self.rider.step()
        if self.drive.armed == "remote" and self.ms - self._host_heard_ms > WATCHDOG_MS:
            self.drive.disarm("no heartbeat from the host")
        self.drive.step(TICK_MS / 1000)
        due = [name for name, period in PERIODS_MS.items() if self.ms % period == 0]
        if "switches" not in due and self._switch_values() != self._switches:
            due.append("switches")
        messages: list[kit_link.Message] = [self._telemetry(name) for name in due]
        if self.ms % HEARTBEAT_MS == 0:
            messages.append(kit_link.KitHeartbeat(self.ms))
        return self._frames(messages)

    def receive(self, data: bytes) -> bytes:
        """The answers to what the host has sent."""
        answers: list[kit_link.Message] = []
        for frame in self._decoder.feed(data):
            try:
                message = kit_link.decode(frame)
            except kit_link.MessageMalformed:
                self._decoder.counters["bad_frames"] += 1
                continue
            match message:
                case kit_link.Hello():
                    answers.append(kit_link.Info(kit_link.VERSION, INFO))
                    answers += [self._telemetry(name) for name in PERIODS_MS]
                case kit_link.HostHeartbeat():
                    self._host_heard_ms = self.ms
                case kit_link.Command():
                    outcome, text = self._obey(message)
                    answers.append(kit_link.Reply(message.id, outcome, text))
                case _:
                    pass
        return self._frames(answers)

    def _frames(self, messages: Iterable[kit_link.Message]) -> bytes:
        out = b""
        for message in messages:
            kind, payload = kit_link.encode(message)
            out += encode(Frame(kind, self._seq, payload))
            self._seq = (self._seq + 1) % 256
        return out

    def _telemetry(self, group: str) -> kit_link.Telemetry:
        drive = self.drive
        values: dict[str, float]
        match group:
            case "motion":
                values = {
                    "speed": drive.speed,
                    "turn_rate": drive.turn_rate,
                    "heading": drive.heading,
                    "x": drive.x,
                    "y": drive.y,
                }
            case "ranges":
                values = drive.ranges
            case "power":
                values = {"current_l": drive.current_l, "current_r": drive.current_r, "tilt": drive.tilt}
            case "battery":
                values = {"voltage": drive.battery_v, "percent": drive.battery_pct}
            case "switches":
                values = self._switches = self._switch_values()
            case "decode":
                values = self.rider.decoded()
            case _:
                values = self._impedances()
        return kit_link.Telemetry(group, self.ms, values)

    def _switch_values(self) -> dict[str, float]:
        drive = self.drive
        return {
            "bumper": drive.bumper,
            "estop": drive.estop,
            "enable_switch": drive.enable_switch,
            "seat": drive.seat,
        }

    def _impedances(self) -> dict[str, float]:
        self._contact = [min(4.8, max(1.0, level + self._rng.gauss(0, 0.1))) for level in self._contact]
        lost = self.rider.lost_electrode
        return {
            name: LOST_KOHM if i == lost else level
            for i, (name, level) in enumerate(zip(ELECTRODES, self._contact, strict=True))
        }

    def _obey(self, command: kit_link.Command) -> tuple[kit_link.Outcome, str]:
        done, refused, bad = kit_link.Outcome.DONE, kit_link.Outcome.REFUSED, kit_link.Outcome.BAD_ARGUMENT
        arguments = command.arguments
        match command.verb, arguments:
            case "stop" | "disarm_drive", _:
                self.drive.disarm(command.verb)
                return done, ""
            case "arm_drive", ():
                why = self.drive.may_arm()
                if why:
                    return refused, why
                self.drive.armed = "remote"
                self._host_heard_ms = self.ms
                return done, ""
            case "start_calibration", ():
                return done, ""
            case "start_trial_block", (trials,):
                if not 1 <= trials <= 40 or trials != int(trials):
                    return bad, "expected 1 to 40 trials"
                self.rider.trials_left = int(trials)
                return done, ""
            case "set_targets", (_, _, _, _):
                if why := _targets_fault(arguments):
                    return bad, why
                self.targets_hz = tuple(round(hz, 3) for hz in arguments)
                return done, ""
            case "set_window", (window,):
                if not 1 <= window <= 5:
                    return bad, "expected 1 to 5 s"
                self.window_s = window
                return done, ""
            case "set_confidence_threshold", (threshold,):
                if not 0.399 <= threshold <= 0.951:
                    return bad, "expected 0.4 to 0.95"
                self.rider.threshold = threshold
                return done, ""
            case "set_speed_limit", (speed,):
                if not 0.0499 <= speed <= CLASS_SPEED_M_S + 0.001:
                    return bad, "expected 0.05 to 0.30 m/s"
                self.drive.speed_limit = speed
                return done, ""
            case verb, _ if verb in kit_link.VERBS:
                return bad, f"expected other arguments than {len(arguments)}"
        return kit_link.Outcome.UNKNOWN_VERB, command.verb


def _targets_fault(targets: tuple[float, ...]) -> str:
    low, high = TARGET_RANGE_HZ
    if any(not low <= hz <= high for hz in targets):
        return f"expected {low:g} to {high:g} Hz"
    ordered = sorted(targets)
    if any(b - a < 0.499 for a, b in pairwise(ordered)):
        return "expected targets at least 0.5 Hz apart"
    for a in ordered:
        for b in ordered:
            if b > a and math.isclose(b / a, round(b / a), abs_tol=0.005):
                return "expected no target to be a multiple of another"
    return ""
