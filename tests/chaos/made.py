"""What the producer makes: values that follow from a counter alone, and the log of which counter had which time.

One kit, `counting`, read over MQTT: the topic `wave` gives the stream `wave` (four channels sampled together), the
topic `counts` gives single changes: six numbers, a state and a text. Every value of a message follows from its counter,
so that whoever knows the counter of a time knows every value that may stand there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KIT = "counting-1"
MODEL = "counting"
PREFIX = "kit/counting-1"
STREAM = "wave"
LABEL = {"en": "Counting", "zh": "计数", "ru": "Счёт"}
STATES = ("Idle", "Starting", "Execute", "Held", "Stopping")
WAVE = tuple(f"wave.{letter}" for letter in "abcd")
NUMBERS = tuple(f"count.{number}" for number in range(6))
STATE = "line.state"
TEXT = "line.note"
CHANNELS = (*WAVE, *NUMBERS, STATE, TEXT)
WAVE_HZ = 50
COUNTS_EVERY = 5
"""One message of `counts` to so many of `wave`."""

Value = tuple[float | None, str | None, int]
"""Value, text and quality of a sample, as the store gives them."""


def wave_values(counter: int) -> list[float]:
    """One sample of the stream; 20 bits and 3 binary places are exact in the float32 that a frame holds."""
    return [(counter * 4 + place) % 2**20 + place / 8 for place in range(len(WAVE))]


def counts_fields(counter: int) -> dict[str, float | int | str]:
    """The fields of one message of `counts`."""
    numbers: dict[str, float | int | str] = {f"n{place}": counter * 8 + place / 4 for place in range(len(NUMBERS))}
    return numbers | {"state": counter % len(STATES), "note": f"note {counter}"}


def values_of(topic: str, counter: int) -> dict[str, Value]:
    """What the store must hold for one message, by channel."""
    if topic == "wave":
        return {channel: (value, None, 0) for channel, value in zip(WAVE, wave_values(counter), strict=True)}
    fields = counts_fields(counter)
    values: dict[str, Value] = {channel: (float(fields[f"n{i}"]), None, 0) for i, channel in enumerate(NUMBERS)}
    state = counter % len(STATES)
    return values | {STATE: (float(state), STATES[state], 0), TEXT: (None, str(fields["note"]), 0)}


def payload(topic: str, counter: int, t: int) -> bytes:
    """The message as it is published."""
    fields: dict[str, Any] = {"v": wave_values(counter)} if topic == "wave" else dict(counts_fields(counter))
    return json.dumps({"seq": counter, "t_ns": t, **fields}).encode()


def model() -> dict[str, Any]:
    """The kit model as its file has it."""
    base = {"label": LABEL, "connection": "cell"}
    waves = [
        base | {"id": channel, "kind": "float", "rate_hz": WAVE_HZ, "address": {"topic": "wave", "field": f"v.{i}"}}
        for i, channel in enumerate(WAVE)
    ]
    numbers = [
        base | {"id": channel, "kind": "float", "address": {"topic": "counts", "field": f"n{i}"}}
        for i, channel in enumerate(NUMBERS)
    ]
    states = [{"value": i, "id": name, "label": LABEL} for i, name in enumerate(STATES)]
    state = base | {
        "id": STATE,
        "kind": "enum",
        "values": states,
        "address": {"topic": "counts", "field": "state", "each": True},
    }
    text = base | {"id": TEXT, "kind": "text", "address": {"topic": "counts", "field": "note"}}
    return {
        "schema": "kit-model/1",
        "id": MODEL,
        "family": "robot",
        "version": "1.0.0",
        "label": LABEL,
        "description": LABEL,
        "state_channel": STATE,
        "stations": [{"id": "wave", "label": LABEL}, {"id": "count", "label": LABEL}, {"id": "line", "label": LABEL}],
        "connections": [{"id": "cell", "protocol": "mqtt", "label": LABEL, "settings": {"stale_after_s": 10}}],
        "channels": [*waves, *numbers, state, text],
        "streams": [{"id": STREAM, "label": LABEL, "connection": "cell", "rate_hz": WAVE_HZ, "channels": list(WAVE)}],
        "safe_state": {"description": LABEL, "reached_within_s": 1, "actions": [LABEL], "triggers": [LABEL]},
        "heartbeat": {"safe_s": 3},
    }


@dataclass(frozen=True, slots=True)
class Made:
    """One message: its topic, the counter that its values follow from, its time (UTC ns)."""

    topic: str
    counter: int
    t: int

    def line(self) -> bytes:
        """As a line of the log."""
        return f"{self.topic} {self.counter} {self.t}\n".encode("ascii")


def read_log(path: Path) -> Iterator[Made]:
    """What was made, in order; a line is in the log before its message is published."""
    if not path.exists():
        return
    with path.open("r", encoding="ascii") as log:
        for line in log:
            topic, counter, t = line.split()
            yield Made(topic, int(counter), int(t))
