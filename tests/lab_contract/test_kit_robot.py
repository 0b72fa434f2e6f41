"""The kit model of the robot cell says what the reference tables say, and an edge can read every channel of it."""

from __future__ import annotations

import pytest

from edge_agent.sources.mqtt import Address, Settings
from lab_contract.kit import LANGUAGES, Channel, KitModel, Label, Severity, ValueKind, builtin_kit_models

MODEL: KitModel = builtin_kit_models()["robot_cell"]

AXES = range(1, 7)
KINDS = {
    "robot.operational_mode": "enum",
    "robot.emergency_stop": "bool",
    "robot.protective_stop": "bool",
    **{f"robot.axis{i}.{signal}": "float" for i in AXES for signal in ("position", "speed", "current", "temperature")},
    **{f"robot.tcp.{signal}": "float" for signal in ("x", "y", "z", "rx", "ry", "rz", "speed")},
    "robot.speed_override": "float",
    "robot.in_control": "bool",
    "robot.on_path": "bool",
    "robot.program_name": "text",
    "robot.program_loaded": "bool",
    "robot.execution_mode": "enum",
    "robot.program_state": "enum",
    "robot.gripper.closed": "bool",
    "robot.gripper.part": "bool",
    "robot.payload": "float",
    "robot.alarm_code": "int",
    "robot.alarm_text": "text",
    "cell.guard_closed": "bool",
    "cell.presence": "bool",
    "cell.light_curtain": "bool",
    "robot.cycle_time": "float",
    "robot.cycles": "int",
}
"""Channel ids of the table with what they are; the text of an alarm code is a channel of its own."""

# channel: lo_lo, lo, hi, hi_hi, on delay in s
LIMITS = {
    **{f"robot.axis{i}.position": (None, -170, 170, None, 0) for i in AXES},
    **{f"robot.axis{i}.speed": (None, -90, 90, None, 0) for i in AXES},
    **{f"robot.axis{i}.current": (None, None, 8, None, 2) for i in AXES},
    **{f"robot.axis{i}.temperature": (None, None, 65, 75, 0) for i in AXES},
    "robot.tcp.x": (None, 100, 800, None, 0),
    "robot.tcp.y": (None, -500, 500, None, 0),
    "robot.tcp.z": (None, 20, 800, None, 0),
    "robot.speed_override": (None, None, 50, None, 0),
    "robot.payload": (None, None, 5, None, 0),
    "robot.cycle_time": (None, None, 25, None, 0),
}
CRITICAL_LIMITS = {"robot.tcp.x", "robot.tcp.y", "robot.tcp.z", "robot.payload"}

# channel: alarm id, severity, latching
ALARMS = {
    "robot.emergency_stop": ("emergency_stop", "critical", True),
    "robot.protective_stop": ("protective_stop", "high", False),
    "robot.tcp.speed": ("remote_overspeed", "high", False),
    "robot.program_state": ("program_error", "high", False),
    "robot.gripper.part": ("part_lost", "high", False),
    "cell.guard_closed": ("guard_open_in_motion", "critical", False),
    "cell.presence": ("presence_in_motion", "critical", False),
    "cell.light_curtain": ("curtain_in_motion", "critical", False),
}

STANDARD_NAMES = {
    "robot.operational_mode": "OperationalMode",
    "robot.emergency_stop": "EmergencyStop",
    "robot.protective_stop": "ProtectiveStop",
    **{f"robot.axis{i}.position": "ActualPosition" for i in AXES},
    **{f"robot.axis{i}.speed": "ActualSpeed" for i in AXES},
    "robot.speed_override": "SpeedOverride",
    "robot.in_control": "InControl",
    "robot.on_path": "OnPath",
    "robot.program_name": "TaskProgramName",
    "robot.program_loaded": "TaskProgramLoaded",
    "robot.execution_mode": "ExecutionMode",
}

RANGES = {
    "robot.axis1.position": ("deg", -175, 175),
    "robot.axis2.speed": ("deg/s", -180, 180),
    "robot.axis3.current": ("A", 0, 10),
    "robot.axis4.temperature": ("degC", 0, 100),
    "robot.tcp.rz": ("deg", -180, 180),
    "robot.tcp.speed": ("mm/s", 0, 1000),
    "robot.speed_override": ("%", 0, 100),
}


def test_the_channels_are_those_of_the_table() -> None:
    assert {channel.id: channel.kind.value for channel in MODEL.channels} == KINDS


def test_the_limits_are_those_of_the_table() -> None:
    found = {
        c.id: (c.limits.lo_lo, c.limits.lo, c.limits.hi, c.limits.hi_hi, c.limits.on_delay_s)
        for c in MODEL.channels
        if c.limits is not None
    }
    assert found == LIMITS
    assert {c.id for c in MODEL.channels if c.limits and c.limits.severity is Severity.CRITICAL} == CRITICAL_LIMITS


def test_the_alarms_are_those_of_the_table() -> None:
    found = {c.id: (a.id, a.severity.value, a.latching) for c in MODEL.channels for a in c.alarms}
    assert found == ALARMS
    speed = MODEL.channel_by_id["robot.tcp.speed"].alarms[0].condition
    assert (speed.op, speed.value, speed.only_while[0].value) == ("gt", 250, "AUTOMATIC_EXTERNAL")


def test_names_of_the_companion_standard_stand_where_it_has_one() -> None:
    assert {c.id: c.standard_name for c in MODEL.channels if c.standard_name} == STANDARD_NAMES


@pytest.mark.parametrize("channel_id", RANGES)
def test_units_and_ranges_are_those_of_the_table(channel_id: str) -> None:
    channel = MODEL.channel_by_id[channel_id]
    assert (channel.unit, channel.min, channel.max) == RANGES[channel_id]


@pytest.mark.parametrize(("signals", "edge", "view"), [("axis1.position", 10, 2), ("tcp.x", 10, 5), ("tcp.rx", 10, 2)])
def test_rates_at_edge_and_hub_are_those_of_the_table(signals: str, edge: float, view: float) -> None:
    channel = MODEL.channel_by_id[f"robot.{signals}"]
    assert (channel.rate_hz, channel.view_rate_hz) == (edge, view)


def test_axes_and_tool_point_travel_as_frames() -> None:
    assert {stream.id: len(stream.channels) for stream in MODEL.streams} == {"axes": 18, "tcp": 7}
    assert all(MODEL.channel_by_id[c].rate_hz == stream.rate_hz for stream in MODEL.streams for c in stream.channels)


def test_only_the_automatic_external_mode_lets_a_command_through() -> None:
    for command in MODEL.commands:
        modes = [term.value for term in command.requires if term.channel == "robot.operational_mode"]
        assert modes == ([] if command.verb in ("stop", "pause") else ["AUTOMATIC_EXTERNAL"]), command.verb


def test_the_commands_and_their_limits_are_those_of_the_table() -> None:
    commands = {command.verb: command for command in MODEL.commands}
    assert set(commands) == {
        "select_program",
        "start_program",
        "pause",
        "resume",
        "stop",
        "set_speed_override",
        "move_to_home",
        "set_digital_output",
        "gripper_open",
        "gripper_close",
        "jog_joint_step",
        "jog_linear_step",
    }
    start = commands["start_program"]
    assert (start.motion, start.warning_s, start.confirm_on_site_s) == (True, 3, 600)
    terms = {term.channel: term.value for term in start.requires}
    assert terms["cell.guard_closed"] is True
    assert terms["cell.presence"] is False
    assert terms["robot.on_path"] is True
    assert "draw_square" in terms["robot.program_name"]  # type: ignore[operator]
    assert [c.verb for c in MODEL.commands if c.always] == ["stop"]
    assert [c.verb for c in MODEL.commands if not c.enabled] == ["jog_joint_step", "jog_linear_step"]
    ranges = {(c.verb, a.name): (a.min, a.max) for c in MODEL.commands for a in c.arguments if a.max is not None}
    assert ranges == {
        ("set_speed_override", "override"): (5, 50),
        ("move_to_home", "speed"): (5, 100),
        ("jog_joint_step", "joint"): (1, 6),
        ("jog_joint_step", "angle"): (-5, 5),
        ("jog_joint_step", "speed"): (1, 50),
        ("jog_linear_step", "distance"): (-20, 20),
        ("jog_linear_step", "speed"): (1, 50),
    }
    for verb in ("gripper_open", "gripper_close"):
        carrying = next(term for term in commands[verb].requires if term.channel == "robot.gripper.part")
        assert carrying.value is False
        assert {term.channel for term in carrying.unless} == {"robot.tcp.x", "robot.tcp.y", "robot.tcp.z"}


def test_what_is_never_remote_is_listed() -> None:
    listed = {label.en for label in MODEL.never_remote}
    assert listed == {
        "Brake release",
        "Safety reset",
        "Payload settings",
        "TCP settings",
        "Safety settings",
        "Free-form script",
        "Mode change",
    }


def test_the_safe_state_comes_with_the_heartbeat_of_a_robot() -> None:
    assert MODEL.heartbeat.safe_s == 1.5
    actions = " / ".join(action.en for action in MODEL.safe_state.actions)
    for part in ("paused, then stopped", "Gripper keeps its state", "Brakes on", "10 %"):
        assert part in actions


def test_the_tasks_have_the_numbers_of_the_table() -> None:
    found = {task.id: {c.id: (c.op, c.limit, c.unit) for c in task.criteria} for task in MODEL.tasks}
    assert found == {
        "B1": {"returns": ("ge", 10, None), "repeatability": ("le", 0.10, "mm")},
        "B2": {
            "parts_placed": ("ge", 8, None),
            "mean_cycle": ("le", 20, "s"),
            "protective_stops": ("eq", 0, None),
            "dropped_parts": ("eq", 0, None),
            "peak_current": ("le", 8, "A"),
            "override": ("le", 50, "%"),
        },
        "B3": {
            "path_deviation": ("le", 2.0, "mm"),
            "corner_overshoot": ("le", 3.0, "mm"),
            "tcp_speed": ("le", 250, "mm/s"),
            "cell_box": ("eq", 0, None),
            "ends_at_home": ("le", 0.5, "deg"),
        },
    }
    assert "not an outside measurement" in MODEL.tasks[0].reports[0].en


def test_safety_signals_are_read_only_for_ever() -> None:
    assert {c.id for c in MODEL.channels if c.safety} == {
        "robot.operational_mode",
        "robot.emergency_stop",
        "robot.protective_stop",
        "cell.guard_closed",
        "cell.presence",
        "cell.light_curtain",
    }


@pytest.mark.parametrize("channel", MODEL.channels, ids=lambda channel: channel.id)
def test_every_address_can_be_read_by_the_edge(channel: Channel) -> None:
    assert channel.connection == "cell"
    Address.model_validate(channel.address)


def test_a_unit_needs_to_name_broker_and_prefix_only() -> None:
    shared = MODEL.connection_by_id["cell"].settings
    Settings.model_validate({**shared, "url": "mqtt://127.0.0.1:1883", "prefix": "cells/robot-1"})


def test_channels_of_a_stream_stand_on_one_topic() -> None:
    for stream in MODEL.streams:
        assert len({MODEL.channel_by_id[c].address["topic"] for c in stream.channels}) == 1


def test_every_label_is_in_three_different_languages() -> None:
    """A label left in English in the Chinese or Russian pages would look like a fault."""
    labels: list[Label] = [MODEL.label, MODEL.description, *MODEL.never_remote, *MODEL.safe_state.actions]
    labels += [c.label for c in MODEL.channels] + [v.label for c in MODEL.channels for v in c.values]
    labels += [a.label for c in MODEL.channels for a in c.alarms] + [c.label for c in MODEL.commands]
    labels += [c.label for t in MODEL.tasks for c in t.criteria]
    for label in labels:
        assert len({label.text(language) for language in LANGUAGES}) == 3, label
        assert any("\u4e00" <= sign <= "\u9fff" for sign in label.zh), label
        assert any("\u0400" <= sign <= "\u04ff" for sign in label.ru), label


def test_home_in_the_task_is_home_of_the_simulated_robot() -> None:
    from simulators.robot_programs import HOME

    criterion = next(c for t in MODEL.tasks if t.id == "B3" for c in t.criteria if c.id == "ends_at_home")
    assert criterion.parameters["target"] == tuple(HOME.tolist())


def test_state_channel_is_an_enum() -> None:
    assert MODEL.channel_by_id[MODEL.state_channel].kind is ValueKind.ENUM
