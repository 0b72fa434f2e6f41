"""Alarms in data time: raised when the kit model says so, not earlier, not twice, and gone when the cause is gone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.live.alarm_rules import compare
from hub.live.alarms import KitAlarms
from lab_contract.kit import Channel, KitModel, Severity, builtin_kit_models
from tests.small_kit import NOW, SECOND, model


def ids(alarms: KitAlarms) -> list[str]:
    return [f"{alarm.channel}/{alarm.id}" for alarm in alarms.active()]


def with_channel(**changes: object) -> KitModel:
    """The small kit with `line.pressure` changed."""
    document = model().model_dump(by_alias=True)
    for channel in document["channels"]:
        if channel["id"] == "line.pressure":
            channel |= changes
    return KitModel.model_validate(document)


def test_limits_show_the_worse_one_only_and_clear_behind_the_deadband() -> None:
    """A pressure that hangs around its limit must not ring for every digit."""
    alarms = KitAlarms(model())
    seen = []
    for step, value in enumerate([0.6, 0.449, 0.465, 0.34, 0.36, 0.375, 0.46, 0.471]):
        alarms.sample("line.pressure", NOW + step * SECOND, value, None)
        seen.append([a.id for a in alarms.active()])
    assert seen == [[], ["lo"], ["lo"], ["lo_lo"], ["lo_lo"], ["lo"], ["lo"], []]


def test_bad_quality_neither_raises_nor_clears() -> None:
    alarms = KitAlarms(model())
    alarms.sample("line.pressure", NOW, 0.4, None)
    alarms.sample("line.pressure", NOW + SECOND, None, None)
    assert ids(alarms) == ["line.pressure/lo"]


def test_states_are_compared_by_name_and_worst_comes_first() -> None:
    alarms = KitAlarms(model())
    alarms.sample("line.pressure", NOW, 0.4, None)
    alarms.sample("line.state", NOW + 1, 2, "Aborted")
    assert [a.severity for a in alarms.active()] == [Severity.CRITICAL, Severity.WARNING]
    alarms.sample("line.state", NOW + 2, 0, "Idle")
    assert ids(alarms) == ["line.pressure/lo"]


def test_a_latched_alarm_stays_until_it_is_cleared() -> None:
    """An emergency stop that was pressed and released in a blink must still be seen."""
    alarms = KitAlarms(model())
    alarms.sample("line.estop", NOW, 1, None)
    assert not alarms.clear("line.estop", "estop")
    alarms.sample("line.estop", NOW + 1, 0, None)
    (alarm,) = alarms.active()
    assert (alarm.holds, alarm.since_ns) == (False, NOW)
    assert alarms.clear("line.estop", "estop")
    assert alarms.active() == ()


def test_a_standstill_is_noticed_from_other_channels_time() -> None:
    """A jammed encoder says nothing at all: only the rest of the kit tells that time goes on."""
    alarms = KitAlarms(model())
    alarms.sample("line.encoder", NOW, 100, None)
    alarms.advance(NOW + 10 * SECOND)
    assert ids(alarms) == []
    alarms.sample("line.state", NOW + 10 * SECOND, 1, "Execute")
    alarms.advance(NOW + 11 * SECOND)
    assert ids(alarms) == []
    alarms.advance(NOW + 13 * SECOND)
    (alarm,) = alarms.active()
    assert (alarm.id, alarm.since_ns) == ("jam", NOW + 12 * SECOND)
    alarms.sample("line.encoder", NOW + 14 * SECOND, 101, None)
    assert ids(alarms) == []
    alarms.advance(NOW + 17 * SECOND)
    assert ids(alarms) == ["line.encoder/jam"]
    alarms.sample("line.state", NOW + 18 * SECOND, 0, "Idle")
    assert ids(alarms) == []


def test_unchanged_means_within_the_deadband() -> None:
    """An open electrode shows a line that is not quite flat."""
    alarm = {
        "id": "flat",
        "label": {"en": "Flat", "zh": "平", "ru": "Ровно"},
        "severity": "high",
        "condition": {"op": "unchanged", "value": 2},
    }
    alarms = KitAlarms(with_channel(limits=None, deadband=0.5, alarms=[alarm]))
    t = NOW + np.arange(1000) * 4_000_000
    alarms.frame("line.pressure", t, (0.2 * np.sin(np.arange(1000))).astype(np.float32))
    alarms.advance(int(t[-1]))
    assert ids(alarms) == ["line.pressure/flat"]
    alarms.frame("line.pressure", t + 4 * SECOND, (20 * np.sin(np.arange(1000))).astype(np.float32))
    assert ids(alarms) == []


def test_share_of_rejects_over_the_last_counts() -> None:
    alarms = KitAlarms(model())
    alarms.sample("line.good", NOW, 1000, None)
    alarms.sample("line.reject", NOW, 500, None)
    for count in (501, 502):
        alarms.sample("line.reject", NOW + count, count, None)
        assert ids(alarms) == []
    alarms.sample("line.reject", NOW + 503, 503, None)
    assert ids(alarms) == ["line.reject/rejects"]
    for good in range(1001, 1021):
        alarms.sample("line.good", NOW + good, good, None)
    assert ids(alarms) == []
    alarms.sample("line.good", NOW + 2000, 0, None)
    alarms.sample("line.reject", NOW + 2000, 0, None)
    assert ids(alarms) == []


def test_backlog_changes_no_alarm() -> None:
    """Old data that arrives late must not raise what is long over."""
    alarms = KitAlarms(model())
    alarms.sample("line.state", NOW, 0, "Idle")
    alarms.sample("line.state", NOW - 60 * SECOND, 2, "Aborted")
    assert ids(alarms) == []


@pytest.mark.parametrize(
    ("sample", "op", "wanted", "expected"),
    [
        ((1.0, "Execute"), "eq", "Execute", True),
        ((7.0, None), "ne", "Execute", True),
        ((1.0, None), "eq", True, True),
        ((None, None), "eq", True, None),
        (None, "gt", 1, None),
        ((2.0, None), "le", 2, True),
        ((2.0, "x"), "gt", "x", None),
        ((3.0, "Held"), "in", ("Idle", "Held"), True),
        ((3.0, "Held"), "in", ("Idle", "Execute"), False),
        (None, "in", ("Idle",), None),
    ],
)
def test_comparisons(sample: tuple[float | None, str | None] | None, op: str, wanted: object, expected: object) -> None:
    assert compare(sample, op, wanted) is expected  # type: ignore[arg-type]


@given(
    steps=st.lists(st.tuples(st.integers(1, 5000), st.booleans()), min_size=1, max_size=30),
    on_ms=st.sampled_from([0, 500, 1000, 2500]),
    off_ms=st.sampled_from([0, 700, 2000]),
    tail=st.integers(0, 6000),
)
def test_delays_agree_with_a_walk_through_every_millisecond(
    steps: list[tuple[int, bool]], on_ms: int, off_ms: int, tail: int
) -> None:
    """The shortcut from sample to sample must raise and clear at the instants a patient observer would."""
    limits = {"hi": 1.0, "on_delay_s": on_ms / 1000, "off_delay_s": off_ms / 1000}
    alarms = KitAlarms(with_channel(limits=limits))
    at = 0
    signal: list[bool] = []
    for pause, high in steps:
        signal += [signal[-1] if signal else False] * (pause - 1) + [high]
        at += pause
        alarms.sample("line.pressure", NOW + at * 1_000_000, 2.0 if high else 0.0, None)
    signal += [signal[-1]] * tail
    alarms.advance(NOW + (at + tail) * 1_000_000)
    active, since, turned, before = False, 0, 0, False
    for ms, high in enumerate(signal, start=1):
        if high != before:
            before, turned = high, ms
        if high and not active and ms - turned >= on_ms:
            active, since = True, ms
        elif not high and active and ms - turned >= off_ms:
            active = False
    expected = [NOW + since * 1_000_000] if active else []
    assert [alarm.since_ns for alarm in alarms.active()] == expected


@given(
    values=st.lists(st.floats(-200, 200, width=32) | st.just(float("nan")), min_size=1, max_size=300),
    cuts=st.lists(st.integers(1, 100), min_size=1, max_size=10),
)
def test_frames_raise_what_single_samples_raise(values: list[float], cuts: list[int]) -> None:
    """The quick look at a frame's extremes must not overlook an artefact."""
    by_frame, by_sample = KitAlarms(model()), KitAlarms(model())
    t = NOW + np.arange(len(values)) * 40_000_000
    wave = np.array(values, dtype=np.float32)
    for at, value in zip(t.tolist(), wave.tolist(), strict=True):
        by_sample.sample("eeg.a", at, None if np.isnan(value) else value, None)
    start = 0
    for cut in [*cuts, len(values)]:
        by_frame.frame("eeg.a", t[start : start + cut], wave[start : start + cut])
        start += cut
    end = int(t[-1]) + 100_000_000
    by_frame.advance(end)
    by_sample.advance(end)
    assert by_frame.active() == by_sample.active()


@given(
    runs=st.lists(
        st.tuples(st.sampled_from([0.0, 0.05, 5.0, float("nan")]), st.integers(1, 14)), min_size=1, max_size=9
    ),
    cuts=st.lists(st.integers(1, 10), min_size=1, max_size=12),
    off_delay_s=st.sampled_from([0.0, 0.3]),
    latching=st.booleans(),
)
def test_frames_tell_a_standstill_as_single_samples_do(
    runs: list[tuple[float, int]], cuts: list[int], off_delay_s: float, latching: bool
) -> None:
    """The quick walk through a frame must not overlook an electrode that has come off, or invent one."""
    alarm = {
        "id": "flat",
        "label": {"en": "Flat", "zh": "平", "ru": "Ровно"},
        "severity": "high",
        "condition": {"op": "unchanged", "value": 1},
        "off_delay_s": off_delay_s,
        "latching": latching,
    }
    steps = [step for step, times in runs for _ in range(times)]
    flat = with_channel(limits=None, deadband=0.5, alarms=[alarm])
    by_frame, by_sample = KitAlarms(flat), KitAlarms(flat)
    t = NOW + np.arange(len(steps)) * 100_000_000
    wave = np.where(np.isnan(steps), np.nan, np.cumsum(np.nan_to_num(steps))).astype(np.float32)
    start = 0
    for cut in [*cuts, len(steps)]:
        piece = slice(start, start + cut)
        start += cut
        for at, value in zip(t[piece].tolist(), wave[piece].tolist(), strict=True):
            by_sample.sample("line.pressure", at, None if np.isnan(value) else value, None)
        by_frame.frame("line.pressure", t[piece], wave[piece])
        if len(t[piece]):
            by_frame.advance(int(t[piece][-1]))
            by_sample.advance(int(t[piece][-1]))
        assert by_frame.active() == by_sample.active()


CHANGES = {
    "line.state": [(0.0, "Idle"), (1.0, "Execute"), (2.0, "Aborted")],
    "line.estop": [(0.0, None), (1.0, None), (None, None)],
    "line.pressure": [(0.6, None), (0.44, None), (0.46, None), (0.3, None), (None, None)],
    "line.encoder": [(7.0, None), (8.0, None)],
    "eeg.a": [(0.0, None), (160.0, None), (-151.0, None)],
    "line.good": [(10.0, None), (30.0, None)],
    "line.reject": [(1.0, None), (9.0, None)],
    "line.program": [(None, "part A"), (None, None)],
}


@settings(deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([(channel, *sample) for channel, samples in CHANGES.items() for sample in samples]),
            st.integers(0, 1500),
        ),
        min_size=1,
        max_size=60,
    ),
    cuts=st.lists(st.integers(1, 20), min_size=1, max_size=10),
    terms=st.sampled_from(
        [[("line.state", "eq", "Execute")], [("line.pressure", "gt", 0.4)], [("line.good", "ge", 10)]]
    ),
)
def test_batches_of_changes_raise_what_single_samples_raise(
    steps: list[tuple[tuple[str, float | None, str | None], int]], cuts: list[int], terms: list[tuple[str, str, object]]
) -> None:
    """The quick look at a batch of PLC changes must not overlook an emergency stop between two others."""
    document = model().model_dump(by_alias=True)
    jam = next(channel for channel in document["channels"] if channel["id"] == "line.encoder")["alarms"][0]
    jam["condition"]["only_while"] = [{"channel": name, "op": op, "value": value} for name, op, value in terms]
    kit = KitModel.model_validate(document)
    by_batch, by_sample = KitAlarms(kit), KitAlarms(kit)
    ids_of = list(CHANGES)
    t = NOW + np.cumsum([pause for _, pause in steps]) * 1_000_000
    start = 0
    for cut in [*cuts, len(steps)]:
        piece = steps[start : start + cut]
        at = t[start : start + cut]
        start += cut
        if not piece:
            continue
        for ((channel, value, text), _), when in zip(piece, at.tolist(), strict=True):
            by_sample.sample(channel, when, value, text)
        by_batch.events(
            ids_of,
            np.array([ids_of.index(channel) for (channel, _, _), _ in piece], dtype=np.int32),
            at,
            np.array([np.nan if value is None else value for (_, value, _), _ in piece]),
            [text for (_, _, text), _ in piece],
        )
        for alarms in (by_batch, by_sample):
            alarms.advance(int(at[-1]))
        assert by_batch.active() == by_sample.active()


@pytest.mark.parametrize("name", sorted(builtin_kit_models()))
def test_every_builtin_kit_model_can_be_judged(name: str) -> None:
    """A condition that cannot be evaluated would stop the whole live view of that kit."""
    built_in = builtin_kit_models()[name]
    alarms = KitAlarms(built_in)

    def samples(channel: Channel) -> list[tuple[float | None, str | None]]:
        if channel.values:
            return [(value.value, value.id) for value in channel.values]
        if channel.kind == "text":
            return [(None, "x")]
        return [(number, None) for number in (0.0, 1.0, -1e9, 1e9)]

    t = NOW
    for _ in range(2):
        for channel in built_in.channels:
            for value, text in samples(channel):
                t += SECOND
                alarms.sample(channel.id, t, value, text)
                alarms.advance(t)
    assert alarms.active()
