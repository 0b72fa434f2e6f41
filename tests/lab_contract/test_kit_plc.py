"""The PLC line's kit model holds every row of the alliance's channel table; a missing alarm limit is a missed fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.opcua_tags import OpcuaAddress
from edge_agent.sources.agent import AgentAddress
from edge_agent.sources.opcua import OpcuaSettings
from lab_contract.kit import Limits, Severity, ValueKind, find_kit_model

KIT = find_kit_model("plc_line", Path())

# id: (kind, unit, min, max, rate; None is on change)
TABLE = {
    "line.state": ("enum", None, None, None, None),
    "line.mode": ("enum", None, None, None, None),
    "line.estop": ("bool", None, None, None, None),
    "line.guard_closed": ("bool", None, None, None, None),
    "line.air_pressure": ("float", "MPa", 0, 1.0, 1),
    "line.power_24v": ("float", "V", 0, 30, 1),
    "line.cycle_time": ("float", "s", 0, 120, None),
    "line.parts_good": ("int", "1", 0, 1e6, None),
    "line.parts_reject": ("int", "1", 0, 1e6, None),
    "line.run_seconds": ("float", "s", 0, None, 0.2),
    "line.down_seconds": ("float", "s", 0, None, 0.2),
    "feed.magazine_low": ("bool", None, None, None, None),
    "feed.magazine_empty": ("bool", None, None, None, None),
    "feed.push_out": ("bool", None, None, None, None),
    "feed.push_home": ("bool", None, None, None, None),
    "proc.press_down": ("bool", None, None, None, None),
    "proc.clamp_closed": ("bool", None, None, None, None),
    "asm.core_low": ("bool", None, None, None, None),
    "asm.turntable_pos": ("enum", None, None, None, None),
    "sort.belt_freq": ("float", "Hz", 0, 50, 2),
    "sort.belt_current": ("float", "A", 0, 3, 2),
    "sort.encoder": ("int", "1", None, None, 5),
    "sort.part_type": ("enum", None, None, None, None),
    "sort.chute1_full": ("bool", None, None, None, None),
    "sort.chute2_full": ("bool", None, None, None, None),
    "sort.chute3_full": ("bool", None, None, None, None),
    "trans.pos": ("float", "mm", 0, 1000, 5),
    "trans.speed": ("float", "mm/s", 0, 400, 5),
    "trans.servo_alarm": ("int", None, 0, None, None),
    "trans.homed": ("bool", None, None, None, None),
    "plc.scan_ms": ("float", "ms", 0, 200, 0.2),
    "agent.link_rtt": ("float", "ms", 0, None, 0.2),
    "agent.data_age": ("float", "s", 0, None, 0.2),
}
ADDED = {"proc.press_up", "proc.clamp_open"}

LIMITS = {
    "line.air_pressure": {"lo_lo": 0.35, "lo": 0.45},
    "line.power_24v": {"lo": 22, "hi": 27},
    "line.cycle_time": {"hi": 15},
    "sort.belt_freq": {"hi": 40},
    "sort.belt_current": {"hi": 1.2, "on_delay_s": 3},
    "trans.pos": {"lo_lo": -2, "hi_hi": 1002, "severity": Severity.CRITICAL},
    "trans.speed": {"hi": 350},
    "plc.scan_ms": {"hi": 100},
}

# (channel, alarm): (severity, op, value, on-delay in s)
ALARMS = {
    ("line.state", "aborted"): ("critical", "eq", "Aborted", 0),
    ("line.state", "held_long"): ("warning", "eq", "Held", 60),
    ("line.estop", "estop"): ("critical", "eq", True, 0),
    ("line.guard_closed", "guard_open"): ("critical", "eq", False, 0),
    ("line.parts_reject", "reject_share"): ("warning", "share_gt", 0.10, 0),
    ("feed.magazine_low", "magazine_low"): ("warning", "eq", True, 0),
    ("feed.magazine_empty", "magazine_empty"): ("high", "eq", True, 10),
    ("feed.push_out", "jam"): ("high", "eq", False, 2),
    ("proc.press_down", "jam"): ("high", "eq", False, 2),
    ("proc.clamp_closed", "jam"): ("high", "eq", False, 2),
    ("asm.core_low", "core_low"): ("warning", "eq", True, 0),
    ("sort.encoder", "jam"): ("high", "unchanged", 2, 0),
    ("sort.chute1_full", "chute_full"): ("high", "eq", True, 3),
    ("sort.chute2_full", "chute_full"): ("high", "eq", True, 3),
    ("sort.chute3_full", "chute_full"): ("high", "eq", True, 3),
    ("trans.servo_alarm", "servo_fault"): ("high", "ne", 0, 0),
    ("agent.data_age", "stale"): ("warning", "gt", 5, 0),
}


def test_every_channel_of_the_table_is_there() -> None:
    found = {c.id: (c.kind.value, c.unit, c.min, c.max, c.rate_hz) for c in KIT.channels if c.id not in ADDED}
    assert found == TABLE
    assert {c.id for c in KIT.channels} == TABLE.keys() | ADDED


def test_every_limit_of_the_table_is_there() -> None:
    found = {c.id: c.limits.model_dump(exclude_defaults=True, exclude={"deadband"}) for c in KIT.channels if c.limits}
    assert found == {channel: Limits(**limits).model_dump(exclude_defaults=True) for channel, limits in LIMITS.items()}


def test_every_alarm_of_the_table_is_there() -> None:
    found = {
        (c.id, a.id): (a.severity.value, a.condition.op, a.condition.value, a.on_delay_s)
        for c in KIT.channels
        for a in c.alarms
    }
    assert found == ALARMS
    assert {c.id for c in KIT.channels for a in c.alarms if a.latching} == {"line.estop"}


def test_safety_channels_stay_read_only() -> None:
    """A command that asks the emergency stop, guard or mode switch to move must never pass."""
    assert {c.id for c in KIT.channels if c.safety} == {"line.estop", "line.guard_closed", "line.mode"}


def test_the_states_bear_the_numbers_of_opc_30060() -> None:
    """The numbers are on the wire; one off, and a stopped line reads as running."""
    names = (
        *("Stopped", "Resetting", "Idle", "Starting", "Execute", "Completing", "Complete", "Aborting", "Aborted"),
        *("Stopping", "Clearing", "Suspending", "Suspended", "Unsuspending", "Holding", "Held", "Unholding"),
    )
    values = KIT.channel_by_id["line.state"].values
    assert [(v.value, v.id) for v in values] == list(enumerate(names))


@pytest.mark.parametrize("channel", KIT.channels, ids=lambda channel: channel.id)
def test_every_address_is_one_that_its_source_understands(channel) -> None:
    (AgentAddress if channel.connection == "agent" else OpcuaAddress).model_validate(channel.address)


def test_the_connection_settings_lack_only_the_endpoint() -> None:
    OpcuaSettings.model_validate(KIT.connection_by_id["plc"].settings | {"endpoint": "opc.tcp://127.0.0.1:4840/"})


def test_commands_are_allowed_where_the_table_says() -> None:
    allowed = {c.verb: c.allowed_in for c in KIT.commands}
    assert allowed == {
        "reset": ("Stopped",),
        "start": ("Idle",),
        "stop": None,
        "hold": ("Execute",),
        "unhold": ("Held",),
        "set_belt_freq": ("Idle", "Execute"),
        "set_batch": ("Idle",),
        "select_recipe": ("Idle",),
        "ack_alarm": None,
    }
    by_verb = {c.verb: c for c in KIT.commands}
    remote = {("line.mode", "auto"), ("line.guard_closed", True), ("line.estop", False)}
    for verb, command in by_verb.items():
        required = {(term.channel, term.value) for term in command.requires}
        assert required == (set() if verb in ("stop", "ack_alarm") else remote | _more(verb)), verb
    assert [c.verb for c in KIT.commands if c.always] == ["stop"]
    assert by_verb["reset"].refused_by_alarm is Severity.CRITICAL
    assert by_verb["start"].warning_s == 3
    freq = by_verb["set_belt_freq"].arguments[0]
    assert (freq.kind, freq.min, freq.max, freq.step_max) == (ValueKind.FLOAT, 10, 35, 5)
    parts = by_verb["set_batch"].arguments[0]
    assert (parts.kind, parts.min, parts.max) == (ValueKind.INT, 1, 20)


def _more(verb: str) -> set[tuple[str, object]]:
    return {("trans.homed", True)} if verb == "start" else set()


def test_safe_state_and_heartbeat() -> None:
    assert (KIT.heartbeat.hold_s, KIT.heartbeat.safe_s, KIT.safe_state.kept_open_s) == (3, 10, 120)
    assert len(KIT.safe_state.actions) == 5
    assert len(KIT.never_remote) == 6


def test_tasks_and_their_criteria() -> None:
    criteria = {t.id: {c.id: (c.op, c.limit, c.good) for c in t.criteria} for t in KIT.tasks}
    assert criteria["A1"] == {
        "parts": ("ge", 5, None),
        "cycle_mean": ("le", 12, None),
        "cycle_max": ("le", 14, None),
        "jams": ("eq", 0, None),
        "rejects": ("eq", 0, None),
        "estops": ("eq", 0, None),
        "holds": ("eq", 0, None),
    }
    assert criteria["A2"] == {
        "metal": ("eq", 4, None),
        "white": ("eq", 4, None),
        "black": ("eq", 4, None),
        "correct_chute": ("ge", 11, 12),
        "freq_min": ("ge", 20, None),
        "freq_max": ("le", 35, None),
        "chute_full": ("le", 3, None),
    }
    assert criteria["A3"] == {
        "acknowledged": ("le", 60, None),
        "cause": ("eq", 1, None),
        "recovery": ("le", 300, None),
        "good_parts": ("ge", 3, None),
        "unacknowledged": ("eq", 0, None),
    }
    assert [t.stage for t in KIT.tasks] == ["practice", "practice", "innovation"]
