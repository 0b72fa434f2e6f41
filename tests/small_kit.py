"""A small kit model, and batches of it as an edge sends them, for tests on both sides of the wire."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from lab_contract.batch import (
    CLOCK_UNKNOWN,
    EVENT_STREAM,
    GAP_STREAM,
    Gap,
    Header,
    Shape,
    encode_events,
    encode_frame,
    encode_gaps,
)
from lab_contract.kit import KitModel, parse_kit_model

SECOND = 1_000_000_000
NOW = 1_760_000_000 * SECOND
EDGE = "edge-1"
KIT = "kit-1"
EEG = ("eeg.a", "eeg.b")

MODEL = """
schema: kit-model/1
id: test_kit
family: bci
version: 1.0.0
label: {en: Test kit, zh: 测试, ru: Тест}
description: {en: A kit, zh: 设备, ru: Стенд}
state_channel: line.state
stations:
  - {id: line, label: {en: Line, zh: 线, ru: Линия}}
  - {id: eeg, label: {en: EEG, zh: 脑电, ru: ЭЭГ}}
connections:
  - {id: plc, protocol: opcua, label: {en: PLC, zh: 控制器, ru: ПЛК}}
  - {id: amp, protocol: cyton, label: {en: Amplifier, zh: 放大器, ru: Усилитель}}
channels:
  - id: line.state
    label: {en: State, zh: 状态, ru: Состояние}
    kind: enum
    connection: plc
    values:
      - {value: 0, id: Idle, label: {en: Idle, zh: 空闲, ru: Готов}}
      - {value: 1, id: Execute, label: {en: Execute, zh: 执行, ru: Работа}}
      - {value: 2, id: Aborted, label: {en: Aborted, zh: 中止, ru: Прервано}}
    alarms:
      - id: aborted
        label: {en: Aborted, zh: 中止, ru: Прервано}
        severity: critical
        condition: {op: eq, value: Aborted}
  - id: line.estop
    label: {en: E-stop, zh: 急停, ru: Аварийный останов}
    kind: bool
    connection: plc
    safety: true
    alarms:
      - id: estop
        label: {en: E-stop, zh: 急停, ru: Аварийный останов}
        severity: critical
        latching: true
        condition: {op: eq, value: true}
  - id: line.pressure
    label: {en: Air pressure, zh: 气压, ru: Давление}
    kind: float
    unit: MPa
    rate_hz: 1
    connection: plc
    limits: {lo_lo: 0.35, lo: 0.45, deadband: 0.02}
  - id: line.encoder
    label: {en: Encoder, zh: 编码器, ru: Энкодер}
    kind: int
    connection: plc
    alarms:
      - id: jam
        label: {en: Jam, zh: 卡料, ru: Заклинивание}
        severity: high
        condition: {op: unchanged, value: 2, only_while: [{channel: line.state, value: Execute}]}
  - {id: line.good, label: {en: Good, zh: 合格, ru: Годные}, kind: int, connection: plc}
  - id: line.reject
    label: {en: Rejected, zh: 废品, ru: Брак}
    kind: int
    connection: plc
    alarms:
      - id: rejects
        label: {en: Too many rejects, zh: 废品过多, ru: Много брака}
        severity: warning
        condition: {op: share_gt, value: 0.1, against: line.good, window: 20}
  - {id: line.program, label: {en: Program, zh: 程序, ru: Программа}, kind: text, connection: plc}
  - id: eeg.a
    label: {en: A, zh: A, ru: A}
    kind: float
    unit: uV
    connection: amp
    limits: {lo: -150, hi: 150, on_delay_s: 1, off_delay_s: 1}
  - {id: eeg.b, label: {en: B, zh: B, ru: B}, kind: float, unit: uV, connection: amp}
streams:
  - {id: eeg, label: {en: EEG, zh: 脑电, ru: ЭЭГ}, connection: amp, rate_hz: 250, channels: [eeg.a, eeg.b]}
safe_state:
  description: {en: Belt off, zh: 关, ru: Выкл}
  reached_within_s: 1
  actions: [{en: Belt off, zh: 关, ru: Выкл}]
  triggers: [{en: Late, zh: 迟, ru: Поздно}]
heartbeat: {safe_s: 1}
"""

Row = tuple[int | str | float | None, ...]
"""t, channel, value and, where wanted, text and quality."""


@lru_cache
def model() -> KitModel:
    return parse_kit_model(MODEL, "small_kit.py")


def frame_bytes(
    seq: int,
    t: Sequence[int] | np.ndarray,
    values: np.ndarray | None = None,
    *,
    edge: str = EDGE,
    kit: str = KIT,
    epoch: int = 1,
    clock: tuple[int, int] = (0, CLOCK_UNKNOWN),
) -> bytes:
    if values is None:
        values = np.zeros((2, len(t)), dtype=np.float32)
    header = Header(edge, epoch, seq, kit, "eeg", Shape.FRAME, clock_offset_ns=clock[0], clock_uncertainty_ns=clock[1])
    return encode_frame(header, np.asarray(t, dtype=np.int64), EEG, values.astype(np.float32))


def event_bytes(
    seq: int,
    rows: Sequence[Row],
    *,
    edge: str = EDGE,
    kit: str = KIT,
    epoch: int = 1,
    clock: tuple[int, int] = (0, CLOCK_UNKNOWN),
) -> bytes:
    header = Header(
        edge, epoch, seq, kit, EVENT_STREAM, Shape.EVENT, clock_offset_ns=clock[0], clock_uncertainty_ns=clock[1]
    )
    whole = [(*row, None, 0)[:5] if len(row) == 3 else (*row, 0)[:5] for row in rows]
    t, channel, value, text, quality = zip(*whole, strict=True)
    nothing = [None] * len(rows)
    return encode_events(header, t, channel, value, text, quality, nothing, nothing)


def gap_bytes(seq: int, gaps: Sequence[Gap], *, edge: str = EDGE, kit: str = KIT, epoch: int = 1) -> bytes:
    return encode_gaps(Header(edge, epoch, seq, kit, GAP_STREAM, Shape.GAP), gaps)
