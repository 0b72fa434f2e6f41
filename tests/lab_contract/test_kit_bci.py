"""The BCI platform's kit model holds the whole domain table; a lost limit would be an alarm that never comes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from edge_agent.sources import load_source
from firmware_bridge import kit_link
from lab_contract.kit import SCHEMA_FILE, KitModel, Severity, ValueKind, find_kit_model, json_schema

ROOT = Path(__file__).parents[2]
ELECTRODES = ("fp1", "c3", "cz", "c4", "o1", "oz", "o2", "pz")
BANDS = ("delta", "theta", "alpha", "beta", "gamma")


@pytest.fixture(scope="module")
def kit() -> KitModel:
    return find_kit_model("bci_platform", Path())


def expected_channels() -> set[str]:
    each = ("", ".impedance", ".quality", *(f".{band}" for band in BANDS))
    return {
        *(f"eeg.{electrode}{part}" for electrode in ELECTRODES for part in each),
        *(f"eeg.{name}" for name in ("poor_signal", "line_noise", "attention", "meditation", "lost_samples")),
        *(f"bci.ssvep.score_f{i}" for i in (1, 2, 3, 4)),
        *(f"bci.{name}" for name in ("mode", "intent", "confidence", "latency")),
        *(f"drive.{name}" for name in ("speed", "turn_rate", "heading", "x", "y", "bumper", "battery_v")),
        *(f"drive.obstacle_{side}" for side in ("front", "left", "right", "rear")),
        *(f"drive.{name}" for name in ("battery_pct", "motor_current_l", "motor_current_r")),
        *(f"drive.{name}" for name in ("estop", "enable_switch", "seat", "tilt")),
    }


# channel: unit, min, max, rate at the edge, rate for pages, (lo_lo, lo, hi, hi_hi), on delay
NUMBERS = {
    "eeg.oz": ("uV", -200, 200, 250, None, (None, -150, 150, None), 1),
    "eeg.oz.impedance": ("kOhm", 0, 1000, 0.1, None, (None, None, 5, 10), 0),
    "eeg.oz.quality": ("%", 0, 100, 1, None, (None, 60, None, None), 0),
    "eeg.oz.alpha": ("uV^2", 0, 10000, 2, 1, None, 0),
    "eeg.poor_signal": (None, 0, 200, 1, None, (None, None, 50, None), 0),
    "eeg.line_noise": (None, 0, 10, 1, None, (None, None, 3, None), 0),
    "eeg.attention": (None, 0, 100, 1, None, None, 0),
    "eeg.lost_samples": ("%", 0, 100, 1, None, (None, None, 1, None), 0),
    "bci.ssvep.score_f1": (None, 0, 1, 2, None, None, 0),
    "bci.confidence": (None, 0, 1, 2, None, None, 0),
    "bci.latency": ("ms", 0, 5000, None, None, (None, None, 3000, None), 0),
    "drive.speed": ("m/s", -0.3, 0.8, 10, 5, (None, None, None, 0.5), 0),
    "drive.turn_rate": ("deg/s", -45, 45, 10, 5, (None, -40, 40, None), 0),
    "drive.heading": ("deg", 0, 360, 10, 5, None, 0),
    "drive.x": ("m", 0, 8, 10, 5, (0, None, None, 8), 0),
    "drive.obstacle_rear": ("m", 0.05, 4, 10, 5, (0.4, 0.8, None, None), 0),
    "drive.battery_v": ("V", 20, 29, 0.2, None, (None, 23, None, None), 0),
    "drive.battery_pct": ("%", 0, 100, 0.2, None, (20, 30, None, None), 0),
    "drive.motor_current_l": ("A", 0, 30, 5, 1, (None, None, 20, None), 2),
    "drive.tilt": ("deg", 0, 30, 5, 1, (None, None, None, 8), 0),
}


def test_every_channel_is_there(kit: KitModel) -> None:
    assert set(kit.channel_by_id) == expected_channels()


@pytest.mark.parametrize("channel", NUMBERS)
def test_units_ranges_rates_and_limits_are_those_of_the_table(kit: KitModel, channel: str) -> None:
    unit, low, high, rate, view_rate, limits, delay = NUMBERS[channel]
    found = kit.channel_by_id[channel]
    assert (found.unit, found.min, found.max, found.rate_hz, found.view_rate_hz) == (unit, low, high, rate, view_rate)
    held = found.limits
    assert (held and (held.lo_lo, held.lo, held.hi, held.hi_hi)) == limits
    assert held is None or held.on_delay_s == delay


def test_all_eight_electrodes_are_alike(kit: KitModel) -> None:
    for electrode in ELECTRODES:
        for part in ("", ".impedance", ".quality", *(f".{band}" for band in BANDS)):
            mine, oz = kit.channel_by_id[f"eeg.{electrode}{part}"], kit.channel_by_id[f"eeg.oz{part}"]
            assert mine.limits == oz.limits
            assert (mine.unit, mine.rate_hz, mine.deadband) == (oz.unit, oz.rate_hz, oz.deadband)
        dry = kit.channel_by_id[f"eeg.{electrode}.impedance"].limits_when["dry"]
        assert (dry.hi, dry.hi_hi) == (50, 200)
        (flat,) = kit.channel_by_id[f"eeg.{electrode}"].alarms
        assert (flat.condition.op, flat.condition.value) == ("unchanged", 2)
        assert kit.channel_by_id[f"eeg.{electrode}"].deadband == 0.5


def test_states_and_their_alarms_are_those_of_the_table(kit: KitModel) -> None:
    channels = kit.channel_by_id
    assert [v.id for v in channels["bci.mode"].values] == ["off", "ssvep", "mi", "blink"]
    assert [v.id for v in channels["bci.intent"].values] == ["none", "forward", "left", "right", "back", "stop"]
    alarms = {
        channel.id: (alarm.condition.value, alarm.severity, alarm.latching)
        for channel in kit.channels
        for alarm in channel.alarms
        if channel.kind is ValueKind.BOOL
    }
    assert alarms == {
        "drive.bumper": (True, Severity.CRITICAL, False),
        "drive.estop": (True, Severity.CRITICAL, True),
        "drive.enable_switch": (False, Severity.WARNING, False),
    }
    assert channels["drive.x"].limits == channels["drive.y"].limits.model_copy(update={"hi_hi": 8})  # type: ignore[union-attr]
    assert channels["drive.x"].limits.severity is Severity.CRITICAL  # type: ignore[union-attr]
    (off_head,) = channels["eeg.poor_signal"].alarms
    assert off_head.condition.value == 200
    (low,) = channels["bci.confidence"].alarms
    assert (low.condition.op, low.condition.value) == ("lt", 0.5)


def test_what_only_a_thinkgear_head_reports_is_marked_so(kit: KitModel) -> None:
    optional = {channel.id for channel in kit.channels if channel.optional}
    assert optional == {"eeg.poor_signal", "eeg.attention", "eeg.meditation"}
    assert all("ThinkGear" in (kit.channel_by_id[channel].note or kit.label).en for channel in optional)


def test_everything_the_platform_does_for_safety_is_read_only(kit: KitModel) -> None:
    safety = {channel.id for channel in kit.channels if channel.safety}
    assert {"drive.bumper", "drive.estop", "drive.enable_switch", "drive.seat", "drive.tilt"} <= safety


def test_commands_have_the_limits_of_the_table(kit: KitModel) -> None:
    commands = {command.verb: command for command in kit.commands}
    assert set(commands) == set(kit_link.VERBS)
    ranges = {
        command.verb: (command.arguments[0].min, command.arguments[0].max)
        for command in kit.commands
        if command.arguments
    }
    assert ranges == {
        "start_trial_block": (1, 40),
        "set_targets": (6, 15),
        "set_window": (1, 5),
        "set_confidence_threshold": (0.4, 0.95),
        "set_speed_limit": (0.05, 0.30),
    }
    (targets,) = commands["set_targets"].arguments
    assert (targets.min_items, targets.max_items, targets.apart_min, targets.no_multiples) == (4, 4, 0.5, True)
    assert all(6 <= hz <= 15 for hz in targets.allowed)
    assert all(b - a >= 0.4 for a, b in pairwise(targets.allowed))
    assert {c.verb for c in kit.commands if c.always} == {"stop", "disarm_drive"}
    needed = {term.channel: (term.op, term.value) for term in commands["arm_drive"].requires}
    assert needed["drive.enable_switch"] == ("eq", True)
    assert needed["drive.battery_pct"] == ("ge", 20)
    assert {f"drive.obstacle_{side}" for side in ("front", "left", "right", "rear")} <= set(needed)
    assert commands["arm_drive"].motion
    assert [label.en for label in kit.never_remote] == [
        "Direct drive vectors with a person seated",
        "Obstacle override",
        "Reset of the emergency stop",
    ]


def test_safe_state_and_heartbeat_are_those_of_the_table(kit: KitModel) -> None:
    assert kit.safe_state.reached_within_s == 0.5
    assert len(kit.safe_state.actions) == 5
    assert len(kit.safe_state.triggers) == 5
    assert kit.heartbeat.safe_s == 1.5


def test_the_three_tasks_have_their_criteria(kit: KitModel) -> None:
    criteria = {
        task.id: {criterion.id: (criterion.op, criterion.limit, criterion.unit) for criterion in task.criteria}
        for task in kit.tasks
    }
    assert criteria == {
        "C1": {
            "impedance": ("le", 10, "kOhm"),
            "lost_samples": ("lt", 1, "%"),
            "alpha_ratio": ("ge", 1.5, None),
        },
        "C2": {
            "accuracy": ("ge", 0.8, None),
            "itr": ("ge", 14, "bit/min"),
            "accuracy_mi": ("ge", 0.7, None),
        },
        "C3": {
            "time": ("le", 180, "s"),
            "collisions": ("le", 1, None),
            "path_efficiency": ("ge", 0.6, None),
            "unwanted_commands": ("le", 1, "1/min"),
            "no_estop": ("eq", 0, None),
        },
    }
    parameters = {c.id: c.parameters for task in kit.tasks for c in task.criteria}
    assert parameters["impedance"] == {"window_s": 60}
    assert parameters["alpha_ratio"]["phase_s"] == parameters["alpha_ratio"]["against_s"] == 30
    assert (parameters["accuracy"]["targets"], parameters["accuracy"]["trials"]) == (4, 20)
    assert (parameters["accuracy_mi"]["targets"], parameters["accuracy_mi"]["trials"]) == (2, 40)
    assert parameters["collisions"] == {"hold_off_s": 2}


def test_every_address_is_one_its_source_understands(kit: KitModel) -> None:
    """Found at the desk, not on the day of the class."""
    for channel in kit.channels:
        source = load_source(kit.connection_by_id[channel.connection].protocol)
        source.Address.model_validate(channel.address)
    for connection in kit.connections:
        load_source(connection.protocol).Settings.model_validate({**connection.settings, "port": "/dev/ttyUSB0"})
    addresses = [json.dumps(channel.address, sort_keys=True) + channel.connection for channel in kit.channels]
    assert len(set(addresses)) == len(addresses)


def test_the_stream_holds_the_raw_channels_in_the_board_s_order(kit: KitModel) -> None:
    (stream,) = kit.streams
    assert (stream.id, stream.rate_hz) == ("eeg", 250)
    assert [kit.channel_by_id[c].address for c in stream.channels] == [{"index": i} for i in range(8)]


def test_labels_are_three_languages_and_not_one_three_times(kit: KitModel) -> None:
    for channel in kit.channels:
        label = channel.label
        assert any("\u4e00" <= letter <= "\u9fff" for letter in label.zh), channel.id
        assert any("а" <= letter.lower() <= "я" for letter in label.ru), channel.id


def test_editors_check_the_file_against_the_committed_schema() -> None:
    folder = ROOT / "lab_contract"
    first = (folder / "kits" / "bci_platform.yaml").read_text("utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=../schemas/kit_model.schema.json"
    assert (folder / SCHEMA_FILE).read_text("utf-8") == json_schema()
