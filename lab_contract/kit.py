"""The kit model: WHAT a training kit is (channels, streams, commands, limits, safe state, tasks), as versioned data.

WHERE one kit stands (endpoint, port, changed addresses) is in the edge's settings; credentials never are in either.
The JSON Schema in `schemas/kit_model.schema.json` is generated from these classes (`python -m lab_contract.kit`) and
committed; each YAML file names it in its first line so that editors check while one types.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lab_contract.errors import KitModelInvalid, Problem

SCHEMA = "kit-model/1"
SCHEMA_FILE = "schemas/kit_model.schema.json"
LANGUAGES = ("en", "zh", "ru")

ModelId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}[a-z0-9]$")]
StreamId = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9_-]{0,30}[a-z0-9])?$")]
ChannelId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(\.[a-z0-9_]+)+$", max_length=64)]
Value = bool | int | float | str


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Label(_Part):
    """One text in the three languages of the pages."""

    en: str = Field(min_length=1)
    zh: str = Field(min_length=1)
    ru: str = Field(min_length=1)

    def text(self, language: str) -> str:
        """The text in `language`, in English where that language is none of ours."""
        return {"zh": self.zh, "ru": self.ru}.get(language, self.en)


class Severity(StrEnum):
    """How urgent an alarm is (three of the levels of ISA-18.2)."""

    CRITICAL = "critical"
    HIGH = "high"
    WARNING = "warning"


class ValueKind(StrEnum):
    """What a channel's or argument's values are."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    ENUM = "enum"
    TEXT = "text"


class EnumValue(_Part):
    """One state of an enum: the number on the wire, the name that is stored, the label that is shown."""

    value: int
    id: str = Field(pattern=r"^[A-Za-z0-9_]+$")
    label: Label


class Term(_Part):
    """A comparison of one channel with a value; `in` compares with each of a list. An enum is compared by state id."""

    channel: ChannelId
    op: Literal["eq", "ne", "gt", "ge", "lt", "le", "in"] = "eq"
    value: Value | tuple[Value, ...]

    @model_validator(mode="after")
    def _list_goes_with_in(self) -> Self:
        if (self.op == "in") != isinstance(self.value, tuple):
            raise ValueError("expected a list of values with op in, and with no other op")
        return self


class Requirement(Term):
    """A term that must be true before a command, unless every term of `unless` is true."""

    unless: tuple[Term, ...] = ()


class Condition(_Part):
    """When an alarm is true.

    `eq` to `le` compare the channel with `value` (of an enum: the name of the state); `unchanged` is true when the
    channel has moved by no more than its deadband for `value` seconds; `share_gt` is true when this counter grew by
    more than the share `value` of its own and `against`'s growth over the last `window` counts. Every term of
    `only_while` must be true too.
    """

    op: Literal["eq", "ne", "gt", "ge", "lt", "le", "unchanged", "share_gt"]
    value: Value
    only_while: tuple[Term, ...] = ()
    against: ChannelId | None = None
    window: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _share_is_whole(self) -> Self:
        if (self.op == "share_gt") != (self.against is not None and self.window is not None):
            raise ValueError("expected `against` and `window` with op share_gt, and with no other op")
        return self


class Alarm(_Part):
    """An alarm on a channel beyond its limits: a state, a jam, a code."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    label: Label
    severity: Severity
    condition: Condition
    on_delay_s: float = Field(default=0.0, ge=0)
    off_delay_s: float = Field(default=0.0, ge=0)
    latching: bool = False


class Limits(_Part):
    """Alarm limits in the channel's unit; `lo`/`hi` warn, `lo_lo`/`hi_hi` are high, unless `severity` is given."""

    lo_lo: float | None = None
    lo: float | None = None
    hi: float | None = None
    hi_hi: float | None = None
    on_delay_s: float = Field(default=0.0, ge=0)
    off_delay_s: float = Field(default=0.0, ge=0)
    deadband: float = Field(default=0.0, ge=0)
    severity: Severity | None = None
    latching: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        given = [limit for limit in (self.lo_lo, self.lo, self.hi, self.hi_hi) if limit is not None]
        if not given:
            raise ValueError("expected at least one of lo_lo, lo, hi, hi_hi")
        if given != sorted(set(given)):
            raise ValueError("expected lo_lo < lo < hi < hi_hi")
        return self


class Channel(_Part):
    """One signal. `rate_hz` is the rate at the edge (None: on change); a safety channel is read-only for ever."""

    id: ChannelId
    label: Label
    kind: ValueKind
    unit: str | None = Field(default=None, description="UCUM-like: s, 1/min, mm, deg, A, degC, MPa, %, uV, kOhm")
    min: float | None = None
    max: float | None = None
    decimals: int = Field(default=0, ge=0, le=6, description="digits after the point that the value deserves")
    rate_hz: float | None = Field(default=None, gt=0, description="rate at the edge; left out: on change")
    view_rate_hz: float | None = Field(default=None, gt=0, description="rate for live pages, where lower than rate_hz")
    deadband: float | None = Field(default=None, ge=0)
    values: tuple[EnumValue, ...] = ()
    limits: Limits | None = None
    limits_when: dict[str, Limits] = Field(
        default_factory=dict, description="limits in place of `limits` for another fitting, by its name: dry electrodes"
    )
    alarms: tuple[Alarm, ...] = ()
    safety: bool = False
    optional: bool = Field(default=False, description="only some kits of the model have it; no data is no fault")
    note: Label | None = Field(default=None, description="what one must know to read the value rightly")
    standard_name: str | None = Field(default=None, description="the name in a companion standard, e.g. OPC 40010-1")
    connection: str
    address: dict[str, Any] = Field(default_factory=dict, description="given meaning by the connection's protocol")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.kind is ValueKind.ENUM) != bool(self.values):
            raise ValueError("expected `values` for kind enum, and for no other kind")
        if len({v.value for v in self.values}) != len(self.values) or len({v.id for v in self.values}) != len(
            self.values
        ):
            raise ValueError("expected each value and each id of `values` once")
        if self.min is not None and self.max is not None and self.min >= self.max:
            raise ValueError(f"expected min < max, found {self.min} and {self.max}")
        if (self.limits is not None or self.limits_when) and self.kind not in (ValueKind.INT, ValueKind.FLOAT):
            raise ValueError("expected limits on kind int or float only")
        return self

    @property
    def station(self) -> str:
        """The station that the channel belongs to: the first part of its id."""
        return self.id.split(".", 1)[0]

    def state_name(self, number: int) -> str | None:
        """The stored name of an enum's number, None where the kit model does not list it."""
        return next((value.id for value in self.values if value.value == number), None)


class Station(_Part):
    """A part of the kit (an ISA-95 work unit); channels belong to it by the first part of their id."""

    id: str = Field(pattern=r"^[a-z][a-z0-9]*$")
    label: Label


class Connection(_Part):
    """One link to the equipment and the protocol on it; `settings` hold what all kits of the model share."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    protocol: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    label: Label
    settings: dict[str, Any] = Field(default_factory=dict)


class Stream(_Part):
    """Channels sampled together at one rate, sent as frames."""

    id: StreamId
    label: Label
    connection: str
    rate_hz: float = Field(gt=0)
    channels: tuple[ChannelId, ...] = Field(min_length=1)


class Argument(_Part):
    """One argument of a command with its type and range; `step_max` bounds the change from the present value."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    label: Label
    kind: ValueKind
    unit: str | None = None
    min: float | None = None
    max: float | None = None
    step_max: float | None = Field(default=None, gt=0)
    min_items: int | None = Field(default=None, ge=1, description="with max_items: a list of that many values")
    max_items: int | None = Field(default=None, ge=1)
    values: tuple[str, ...] = ()
    allowed: tuple[float, ...] = Field(default=(), description="the numbers that may be chosen; left out: any in range")
    apart_min: float | None = Field(default=None, gt=0, description="least difference between any two of a list")
    no_multiples: bool = Field(default=False, description="no item of a list is a whole multiple of another")


class Command(_Part):
    """A verb that a person may send, with its limits and the states in which it is allowed."""

    verb: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    label: Label
    effect: Label
    arguments: tuple[Argument, ...] = ()
    allowed_in: tuple[str, ...] | None = Field(default=None, description="states of `state_channel`; left out: any")
    requires: tuple[Requirement, ...] = ()
    refused_by_alarm: Severity | None = Field(
        default=None, description="refused while an alarm of this severity or a graver one is active"
    )
    motion: bool = False
    always: bool = Field(default=False, description="needs no lease and skips every queue: stop and disarm only")
    warning_s: float = Field(default=0.0, ge=0, description="light and sound before motion")
    confirm_on_site_s: float | None = Field(default=None, gt=0, description="the bench confirms within this time")
    rate_limit_s: float = Field(default=0.0, ge=0, description="least time between two of them")
    enabled: bool = Field(default=True, description="false: off unless the technician turns it on at the edge")
    connection: str | None = None
    address: dict[str, Any] = Field(default_factory=dict)


class SafeState(_Part):
    """What the kit does when control is uncertain, how fast, and what brings it there."""

    description: Label
    reached_within_s: float = Field(gt=0)
    actions: tuple[Label, ...] = Field(min_length=1)
    triggers: tuple[Label, ...] = Field(min_length=1)
    kept_open_s: float = Field(default=0.0, ge=0, description="how long the session stays open for take-up again")


class Heartbeat(_Part):
    """Seconds without a heartbeat until the kit holds, and until it goes to its safe state."""

    hold_s: float | None = Field(default=None, gt=0)
    safe_s: float = Field(gt=0)
    connection: str | None = Field(default=None, description="the link on which the equipment itself hears it")
    address: dict[str, Any] = Field(default_factory=dict)


class Criterion(_Part):
    """One measured criterion: a measure over telemetry compared with a limit."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    label: Label
    measure: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    channels: tuple[ChannelId, ...] = ()
    parameters: dict[str, Value | tuple[Value, ...]] = Field(default_factory=dict)
    op: Literal["eq", "le", "lt", "ge", "gt"]
    limit: float
    unit: str | None = None
    good: float | None = Field(default=None, description="a stricter limit that earns the mark 'good'")


class Task(_Part):
    """A work task of the EPIP sequence with its pass criteria."""

    id: str = Field(pattern=r"^[A-Z][0-9]+$")
    version: int = Field(ge=1)
    stage: Literal["engineering", "practice", "innovation"]
    label: Label
    brief: Label
    criteria: tuple[Criterion, ...] = Field(min_length=1)
    reports: tuple[Label, ...] = Field(default=(), description="what the result shows beside the criteria")


class KitModel(_Part):
    """A model of training kit, loaded from one YAML file."""

    schema_: Literal["kit-model/1"] = Field(alias="schema")
    id: ModelId
    family: Literal["plc", "robot", "bci", "energy", "iot"]
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    label: Label
    description: Label
    state_channel: ChannelId = Field(description="the channel whose value is the kit's state at a glance")
    stations: tuple[Station, ...] = Field(min_length=1)
    connections: tuple[Connection, ...] = Field(min_length=1)
    channels: tuple[Channel, ...] = Field(min_length=1)
    streams: tuple[Stream, ...] = ()
    commands: tuple[Command, ...] = ()
    never_remote: tuple[Label, ...] = ()
    safe_state: SafeState
    heartbeat: Heartbeat
    tasks: tuple[Task, ...] = ()

    @cached_property
    def channel_by_id(self) -> dict[str, Channel]:
        """The channels by id."""
        return {channel.id: channel for channel in self.channels}

    @cached_property
    def connection_by_id(self) -> dict[str, Connection]:
        """The connections by id."""
        return {connection.id: connection for connection in self.connections}

    @cached_property
    def stream_by_id(self) -> dict[str, Stream]:
        """The streams by id."""
        return {stream.id: stream for stream in self.streams}

    @cached_property
    def stream_channels(self) -> frozenset[str]:
        """Ids of the channels that travel in frames, not as events."""
        return frozenset(channel for stream in self.streams for channel in stream.channels)

    def period_s(self, channel: Channel) -> float | None:
        """Seconds between two values of a channel; None where it is sent on change, so that silence means "as before".

        That is so for a channel without a rate and for a sampled one with a deadband, unless it travels in a stream.
        """
        if channel.rate_hz is None or (channel.deadband is not None and channel.id not in self.stream_channels):
            return None
        return 1 / min(channel.rate_hz, channel.view_rate_hz or channel.rate_hz)

    @cached_property
    def digest(self) -> str:
        """16 hex digits that change whenever the model does; edge and hub compare it."""
        return hashlib.sha256(self.model_dump_json(by_alias=True).encode()).hexdigest()[:16]

    @model_validator(mode="after")
    def _refers_to_what_exists(self) -> Self:
        faults: list[str] = []
        _once("stations", (s.id for s in self.stations), faults)
        _once("connections", (c.id for c in self.connections), faults)
        _once("channels", (c.id for c in self.channels), faults)
        _once("streams", (s.id for s in self.streams), faults)
        _once("commands", (c.verb for c in self.commands), faults)
        _once("tasks", (t.id for t in self.tasks), faults)
        stations = {station.id for station in self.stations}
        connections = {connection.id for connection in self.connections}
        channels = {channel.id for channel in self.channels}
        for i, channel in enumerate(self.channels):
            _known(f"channels[{i}].id", channel.station, stations, "station", faults)
            _known(f"channels[{i}].connection", channel.connection, connections, "connection", faults)
            for j, alarm in enumerate(channel.alarms):
                place = f"channels[{i}].alarms[{j}].condition"
                if alarm.condition.against is not None:
                    _known(f"{place}.against", alarm.condition.against, channels, "channel", faults)
                for k, term in enumerate(alarm.condition.only_while):
                    _known(f"{place}.only_while[{k}].channel", term.channel, channels, "channel", faults)
        _known("state_channel", self.state_channel, channels, "channel", faults)
        for i, stream in enumerate(self.streams):
            _known(f"streams[{i}].connection", stream.connection, connections, "connection", faults)
            for j, channel_id in enumerate(stream.channels):
                _known(f"streams[{i}].channels[{j}]", channel_id, channels, "channel", faults)
        states = {value.id for channel in self.channels if channel.id == self.state_channel for value in channel.values}
        for i, command in enumerate(self.commands):
            if command.connection is not None:
                _known(f"commands[{i}].connection", command.connection, connections, "connection", faults)
            for j, term in enumerate(command.requires):
                _known(f"commands[{i}].requires[{j}].channel", term.channel, channels, "channel", faults)
                for k, other in enumerate(term.unless):
                    place = f"commands[{i}].requires[{j}].unless[{k}].channel"
                    _known(place, other.channel, channels, "channel", faults)
            for j, state in enumerate(command.allowed_in or ()):
                _known(f"commands[{i}].allowed_in[{j}]", state, states, f"state of {self.state_channel}", faults)
        if self.heartbeat.connection is not None:
            _known("heartbeat.connection", self.heartbeat.connection, connections, "connection", faults)
        for i, task in enumerate(self.tasks):
            for j, criterion in enumerate(task.criteria):
                for k, channel_id in enumerate(criterion.channels):
                    _known(f"tasks[{i}].criteria[{j}].channels[{k}]", channel_id, channels, "channel", faults)
        if faults:
            raise ValueError("\n".join(faults))
        return self


def _once(place: str, ids: Iterable[str], faults: list[str]) -> None:
    seen: set[str] = set()
    for i, name in enumerate(ids):
        if name in seen:
            faults.append(f"{place}[{i}]: expected each id once, found {name!r} again")
        seen.add(name)


def _known(place: str, name: str, known: set[str], what: str, faults: list[str]) -> None:
    if name not in known:
        faults.append(f"{place}: expected a {what} of this kit model, found {name!r}")


# The same loader in C is seven times as fast: the built-in models load in 0.1 s instead of 0.75 s at each start.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeyLoader(_Loader):
    """SafeLoader that refuses a key written twice, which YAML would silently let win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key: Any = self.construct_object(key_node, deep=True)  # pyright: ignore[reportUnknownMemberType]
            if key in seen:
                mark = key_node.start_mark
                raise yaml.MarkedYAMLError(problem=f"expected the key {key!r} once", problem_mark=mark)
            seen.add(key)
        parent: Any = super()
        return cast("dict[Any, Any]", parent.construct_mapping(node, deep))


def parse_kit_model(text: str, file: str) -> KitModel:
    """The kit model in a YAML text; `file` is named in errors. Raises KitModelInvalid with every fault found."""
    try:
        document = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise KitModelInvalid(file, [Problem(place, f"expected YAML: {error.problem}")]) from None
    except yaml.YAMLError as error:
        raise KitModelInvalid(file, [Problem("", f"expected YAML: {error}")]) from None
    if not isinstance(document, dict):
        raise KitModelInvalid(file, [Problem("", "expected a mapping with the keys of a kit model")])
    try:
        return KitModel.model_validate(document)
    except ValidationError as error:
        raise KitModelInvalid(file, list(problems_of(error))) from None


_PLAIN = {"missing": "expected this key, it is missing", "extra_forbidden": "expected no such key"}


def problems_of(error: ValidationError) -> Iterable[Problem]:
    """Each fault of a pydantic error, with a place such as `channels[3].unit` and the expected value."""
    for fault in error.errors(include_url=False):
        place = ""
        for part in fault["loc"]:
            place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
        message = fault["msg"].removeprefix("Value error, ")
        if not place and fault["type"] == "value_error":
            for line in message.splitlines():
                inner, _, expected = line.partition(": ")
                yield Problem(inner, expected) if expected else Problem("", line)
            continue
        if fault["type"] in _PLAIN:
            yield Problem(place, _PLAIN[fault["type"]])
            continue
        found = fault.get("input")
        shown = "" if isinstance(found, Mapping | list) else f", found {found!r:.80}"
        yield Problem(place, message[:1].lower() + message[1:] + ("" if "found" in message else shown))


def load_kit_model(path: Path) -> KitModel:
    """The kit model in a file. Raises KitModelInvalid, also where the file cannot be read."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KitModelInvalid(str(path), [Problem("", f"expected a readable UTF-8 file: {error}")]) from None
    return parse_kit_model(text, str(path))


def builtin_kit_models() -> dict[str, KitModel]:
    """The kit models that ship with the package, by id."""
    models: dict[str, KitModel] = {}
    for entry in sorted(resources.files("lab_contract").joinpath("kits").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            model = parse_kit_model(entry.read_text("utf-8"), f"lab_contract/kits/{entry.name}")
            models[model.id] = model
    return models


def find_kit_model(name: str, base: Path) -> KitModel:
    """A kit model by the id of a built-in one, or by the path of a YAML file relative to `base`.

    Raises KitModelInvalid where neither exists or the file has faults.
    """
    if not name.endswith((".yaml", ".yml")):
        entry = resources.files("lab_contract").joinpath("kits", f"{name}.yaml")
        if entry.is_file():
            return parse_kit_model(entry.read_text("utf-8"), f"lab_contract/kits/{name}.yaml")
        known = ", ".join(sorted(builtin_kit_models()))
        raise KitModelInvalid(name, [Problem("", f"expected one of {known}, or the path of a .yaml file")])
    return load_kit_model(base / name)


def json_schema() -> str:
    """The JSON Schema of a kit model as committed."""
    schema = KitModel.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / SCHEMA_FILE).write_text(json_schema(), "utf-8")
