"""The person on the platform and the decoder that reads them: what they look at, and what the kit makes of it. Pure.

The person drives round the course for a while, then rests with eyes open and with eyes closed, and so on. While driving
they choose every 2.5 s the target that leads to the next gate. Now and then an electrode loses its contact or the
attendant lets go of the enable switch.

Not modelled: the decoder does not look at the simulated EEG; its scores, confidence and errors follow what the person
looks at, with seeded noise. Motor imagery and blink control are not played.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from simulators.drive_model import GATES, INTENTS, STOP_M, TURN_DEG_S, Drive
from simulators.eeg_model import ELECTRODES, Scene

TICKS_PER_S = 50
SAMPLES_PER_TICK = 5
TARGET_INTENTS = ("forward", "left", "right", "back")
"""What each of the four targets means."""
MODES = {"off": 0, "ssvep": 1, "mi": 2, "blink": 3}

SHOW_S = (("drive", 60), ("eyes_open", 6), ("eyes_closed", 10))
DECISION_S = 2.5
TURN_STEP_DEG = 30.0
GATE_REACHED_M = 0.7
ALIGNED_DEG = 16.0
WRONG_SHARE = 0.07
NO_CONFIDENCE_S = 3.0
REARM_S = 5.0
LOSS_EVERY_S = 150.0
LOSS_S = 8.0
RELEASE_EVERY_S = 190.0
RELEASE_S = 3.0


@dataclass
class Rider:
    """Stepped once every 20 ms; sets the intent of `drive` and arms it on the spot, as the attendant would."""

    drive: Drive
    rng: random.Random
    attended: bool = True
    """Whether the attendant plays their part: arms the drive again, sometimes lets go of the switch."""
    threshold: float = 0.5
    trials_left: int = 0
    now: Scene = field(default_factory=lambda: Scene(0))
    before: Scene = field(default_factory=lambda: Scene(0))
    mode: str = "ssvep"
    intent: str = "none"
    confidence: float = 0.0
    latency_ms: float = math.nan
    lost_electrode: int | None = None

    def __post_init__(self) -> None:
        self._tick = 0
        self._gate = 1
        self._show = 0
        self._show_ends = self._ticks(SHOW_S[0][1])
        self._decide_at = 0
        self._turn_ends: int | None = None
        self._wanted = "none"
        self._confident_at = 0
        self._disarmed_at: int | None = None
        self._loss_at = self._soon(LOSS_EVERY_S)
        self._release_at = self._soon(RELEASE_EVERY_S)

    @staticmethod
    def _ticks(seconds: float) -> int:
        return round(seconds * TICKS_PER_S)

    def _soon(self, seconds: float) -> int:
        return self._tick + self._ticks(seconds * self.rng.uniform(0.6, 1.4))

    def step(self) -> None:
        """Move on by one tick."""
        self._tick += 1
        self._incidents()
        if self._tick >= self._show_ends:
            self._show = (self._show + 1) % len(SHOW_S)
            self._show_ends = self._tick + self._ticks(SHOW_S[self._show][1])
            self._enter(SHOW_S[self._show][0])
        if self.mode == "ssvep" and self._tick >= self._decide_at:
            self._decide()
        if self._turn_ends is not None and self._tick >= self._turn_ends:
            self._turn_ends = None
            self.drive.intent = "none"
        self._guard()

    def _enter(self, part: str) -> None:
        driving = part == "drive"
        self.mode = "ssvep" if driving else "off"
        self._look(None, closed=part == "eyes_closed")
        self._decide_at = self._tick
        if not driving:
            self.intent, self.confidence = "none", 0.0
            self.drive.disarm("rest")
        # The first decision comes only after the first look at a target.
        self._confident_at = self._tick + self._ticks(DECISION_S)

    def _look(self, target: int | None, closed: bool = False) -> None:
        self.before = self.now
        self.now = Scene(self._tick * SAMPLES_PER_TICK, closed, target)

    def _decide(self) -> None:
        # The decision on what was looked at until now, then the eyes go to the next target.
        target = self.now.target
        if target is not None:
            right = self.rng.random() >= WRONG_SHARE
            chosen = target if right else self.rng.choice([i for i in range(4) if i != target])
            self.confidence = min(0.99, max(0.05, self.rng.gauss(0.84 if right else 0.58, 0.07)))
            self.intent = TARGET_INTENTS[chosen] if self.confidence >= self.threshold else "none"
            self.latency_ms = min(4500.0, max(900.0, self.rng.gauss(2100, 250)))
            self._obey()
        if self.trials_left:
            self.trials_left -= 1
            self._wanted = self.rng.choice(TARGET_INTENTS)
        else:
            self._wanted = self._way()
        self._look(TARGET_INTENTS.index(self._wanted))
        self._decide_at = self._tick + self._ticks(DECISION_S)

    def _obey(self) -> None:
        if self.trials_left:
            return
        self.drive.intent = self.intent
        self._turn_ends = None
        if self.intent in ("left", "right"):
            self._turn_ends = self._tick + self._ticks(TURN_STEP_DEG / TURN_DEG_S)

    def _way(self) -> str:
        """What leads to the next gate."""
        drive = self.drive
        gate_x, gate_y = GATES[self._gate]
        if math.hypot(gate_x - drive.x, gate_y - drive.y) < GATE_REACHED_M:
            self._gate = (self._gate + 1) % len(GATES)
            gate_x, gate_y = GATES[self._gate]
        bearing = math.degrees(math.atan2(gate_y - drive.y, gate_x - drive.x))
        error = (bearing - drive.heading + 180) % 360 - 180
        if abs(error) > ALIGNED_DEG:
            return "left" if error > 0 else "right"
        if drive.ranges["front"] < STOP_M + 0.1:
            return "left" if drive.ranges["left"] > drive.ranges["right"] else "right"
        return "forward"

    def _incidents(self) -> None:
        if self._tick == self._loss_at:
            self.lost_electrode = self.rng.randrange(len(ELECTRODES))
        elif self._tick == self._loss_at + self._ticks(LOSS_S):
            self.lost_electrode = None
            self._loss_at = self._soon(LOSS_EVERY_S)
        if not self.attended:
            return
        if self._tick == self._release_at:
            self.drive.enable_switch = False
        elif self._tick == self._release_at + self._ticks(RELEASE_S):
            self.drive.enable_switch = True
            self._release_at = self._soon(RELEASE_EVERY_S)

    def _guard(self) -> None:
        if self.mode == "off" or self.confidence >= self.threshold:
            self._confident_at = max(self._confident_at, self._tick)
        elif self._tick - self._confident_at > self._ticks(NO_CONFIDENCE_S):
            self.drive.disarm("no confident intent")
        if self.drive.armed:
            self._disarmed_at = None
        elif self._disarmed_at is None:
            self._disarmed_at = self._tick
        elif (
            self.attended
            and self.mode == "ssvep"
            and self._tick - self._disarmed_at > self._ticks(REARM_S)
            and not self.drive.may_arm()
        ):
            self.drive.armed = "local"

    def scores(self) -> tuple[float, float, float, float]:
        """The decoder's score for each target just now, from 0 to 1."""
        looked_s = (self._tick * SAMPLES_PER_TICK - self.now.start) / (TICKS_PER_S * SAMPLES_PER_TICK)
        rise = min(1.0, looked_s / 1.5)
        values: list[float] = []
        for i in range(4):
            level = 0.15 + (0.6 * rise if self.mode == "ssvep" and i == self.now.target else 0.0)
            values.append(min(1.0, max(0.0, level + self.rng.gauss(0, 0.04))))
        return values[0], values[1], values[2], values[3]

    def decoded(self) -> dict[str, float]:
        """The fields of the telemetry group `decode`."""
        scores = {f"score_f{i}": score for i, score in enumerate(self.scores(), start=1)}
        return {
            "mode": MODES[self.mode],
            "intent": INTENTS.index(self.intent),
            **scores,
            "confidence": self.confidence,
            "latency": self.latency_ms,
        }
