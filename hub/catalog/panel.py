"""Beside the line: what the workshop and kit pages show of a kit. Pure: receives the kit and its live view, hands on
rows, bars and ages, in the reader's language.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hub.catalog.kit_facts import alarm_labels, alike_units, common_label, is_state, limits_of, strips
from hub.catalog.service import Kit, Workshop
from hub.live.state import KitView, Wrong
from hub.web import formats
from hub.web.words import Words
from lab_contract.kit import Channel, Severity, ValueKind

NS_PER_S = 1_000_000_000
LEAST_AGE_SHOWN_S = 1.0
"""Batching alone makes fast values up to this old."""
TROUBLE_ICONS = {"edge_offline": "offline", "connection": "offline", "stale": "stale"}
STATES = ("ready", "empty", "warning", "stale", "offline", "alarm")
"""What a kit can be at a glance, least urgent first."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong, as shown; `icon` tells alarms, links and old data apart."""

    severity: str
    icon: str
    word: str
    text: str
    since_ns: int | None
    clear: tuple[str, str] | None = None
    """Channel and alarm of a latched alarm that may be let go of."""


@dataclass(frozen=True, slots=True)
class Card:
    """A kit on the page of its workshop."""

    id: str
    label: str
    model: str
    state: str
    state_label: str
    state_text: str
    age_s: float | None
    old: bool
    troubles: tuple[Trouble, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """A value against its range, in percent of the range: where the fill begins, its width, where the limits stand."""

    x: float
    width: float
    limits: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One channel as shown."""

    id: str
    label: str
    text: str
    unit: str
    age_s: float | None
    severity: str | None
    old: bool
    bar: Bar | None
    wide: bool
    """Words in place of a number: neither a unit nor a bar stands beside them."""
    never: bool
    """The channel has never had a value: nothing is old, and nothing is known."""


@dataclass(frozen=True, slots=True)
class StationRows:
    """The channels of one station."""

    id: str
    label: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """One signal that all units of a matrix have."""

    label: str
    unit: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """Units of a station that are alike (joints, electrodes) with their signals: a row a unit, a column a signal."""

    id: str
    label: str
    columns: tuple[Column, ...]
    lines: tuple[tuple[str, tuple[Row, ...]], ...]


class Panel:
    """A kit at this moment in one language."""

    def __init__(self, kit: Kit, view: KitView, language: str, words: Words) -> None:
        self.kit, self.model, self.view = kit, kit.model, view
        self.language, self.words = language, words
        self._drawn = {name for stream in strips(kit.model) for name in stream.channels}
        self._alarms = alarm_labels(kit.model, language, words)
        self._latched = {(alarm.channel, alarm.id) for alarm in view.alarms if not alarm.holds}
        # The view has them worst first.
        self._worst = {alarm.channel: alarm.severity.value for alarm in reversed(view.alarms)}

    def card(self) -> Card:
        """The kit at a glance."""
        return Card(
            id=self.kit.id,
            label=self.kit.name.text(self.language),
            model=self.model.label.text(self.language),
            state=shown_state(self.view),
            state_label=self.model.channel_by_id[self.model.state_channel].label.text(self.language),
            state_text=self._text(self.model.channel_by_id[self.model.state_channel]),
            age_s=None if self.view.age_ns is None else self.view.age_ns / NS_PER_S,
            old=not self.view.fresh,
            troubles=tuple(self._trouble(wrong) for wrong in self.view.wrong),
        )

    def _trouble(self, wrong: Wrong) -> Trouble:
        texts = self.words["wrong"]
        link = self.model.connection_by_id.get(wrong.subject)
        connection = wrong.subject if link is None else link.label.text(self.language)
        if wrong.kind == "alarm":
            text = self._alarms.get(f"{wrong.subject}/{wrong.code}", wrong.code)
            if (wrong.subject, wrong.code) in self._latched:
                text += f" ({texts['latched']})"
        elif wrong.kind == "edge_offline":
            text = texts["edge_offline"].replace("{name}", wrong.subject)
        elif wrong.kind == "connection":
            word = self.words["connection"].get(wrong.code, wrong.code)
            text = f"{connection}: {word}" + (f" ({wrong.detail})" if wrong.detail else "")
        elif wrong.kind == "stale":
            text = texts["stale_kit"] if wrong.subject == self.kit.id else f"{connection}: {texts['stale']}"
        else:
            text = f"{texts.get(wrong.kind, wrong.kind)} ({wrong.detail})"
        severity = wrong.severity.value
        icon = TROUBLE_ICONS.get(wrong.kind, "warning" if wrong.severity is Severity.WARNING else "alarm")
        word = self.words["severity"][severity] if wrong.kind == "alarm" else ""
        clear = (wrong.subject, wrong.code) if (wrong.subject, wrong.code) in self._latched else None
        return Trouble(severity, icon, word, text, wrong.since_ns, clear)

    def states(self) -> list[Row]:
        """What a person asks first: the kit's state, its other states, and what concerns safety."""
        return [self._row(channel) for channel in self.model.channels if is_state(channel, self.model)]

    def stations(self) -> list[StationRows]:
        """The other channels by station, without those that stand in a matrix or are drawn as a strip chart."""
        found: list[StationRows] = []
        for station in self.model.stations:
            channels = self._listed(station.id)
            alike = {channel.id for line in alike_units(channels) for channel in line}
            rows = tuple(self._row(channel) for channel in channels if channel.id not in alike)
            if rows:
                found.append(StationRows(station.id, station.label.text(self.language), rows))
        return found

    def matrices(self) -> list[Matrix]:
        """The units of each station that are alike."""
        found: list[Matrix] = []
        for station in self.model.stations:
            lines = alike_units(self._listed(station.id))
            if not lines:
                continue
            split = [common_label([line[i].label.text(self.language) for line in lines]) for i in range(len(lines[0]))]
            columns = tuple(
                Column(label, formats.unit_text(channel.unit, self.language))
                for (label, _), channel in zip(split, lines[0], strict=True)
            )
            rows = tuple(
                (split[0][1][number], tuple(self._row(channel) for channel in line))
                for number, line in enumerate(lines)
            )
            found.append(Matrix(station.id, station.label.text(self.language), columns, rows))
        return found

    def _listed(self, station: str) -> list[Channel]:
        return [
            channel
            for channel in self.model.channels
            if channel.station == station and not is_state(channel, self.model) and channel.id not in self._drawn
        ]

    def _row(self, channel: Channel) -> Row:
        latest = self.view.values.get(channel.id)
        never = latest is None
        period_s = self.model.period_s(channel)
        age: float | None = None
        if latest is not None and period_s is not None:
            seconds = (self.view.now_ns - latest.t) / NS_PER_S
            age = seconds if seconds > max(2 * period_s, LEAST_AGE_SHOWN_S) else None
        return Row(
            id=channel.id,
            label=channel.label.text(self.language),
            text=self.words["value"]["never"] if never else self._text(channel),
            unit=formats.unit_text(channel.unit, self.language),
            age_s=age,
            severity=self._worst.get(channel.id),
            old=not never and channel.id in self.view.stale_channels,
            bar=bar_of(channel, None if latest is None else latest.value),
            wide=latest is None or latest.value is None or channel.kind is ValueKind.TEXT,
            never=never,
        )

    def _text(self, channel: Channel) -> str:
        latest = self.view.values.get(channel.id)
        if latest is None:
            return "\N{EN DASH}"
        value, none = latest.value, self.words["value"]["none"]
        if channel.kind is ValueKind.TEXT:
            return latest.text if latest.text is not None else none
        if value is None:
            return f"{none} (0x{latest.quality:08X})" if latest.quality else none
        if channel.kind is ValueKind.BOOL:
            return self.words["bool"]["1" if value else "0"]
        if channel.kind is ValueKind.ENUM:
            return next(
                (state.label.text(self.language) for state in channel.values if state.value == value),
                self.words["value"]["unknown"].replace("{n}", f"{value:g}"),
            )
        return formats.number_text(value, channel.decimals, self.language)


def shown_state(view: KitView) -> str:
    """One of STATES: a kit that has never sent anything is not stale but empty."""
    return "empty" if view.data_t is None and view.state == "stale" else view.state


def bar_of(channel: Channel, value: float | None) -> Bar | None:
    """A value against its channel's range, None where it has none. The fill grows from zero or the nearer end."""
    low, high = channel.min, channel.max
    if low is None or high is None or channel.kind not in (ValueKind.INT, ValueKind.FLOAT):
        return None

    def place(amount: float) -> float:
        return round(100 * (min(max(amount, low), high) - low) / (high - low), 1)

    limits = tuple(place(limit) for _, limit in limits_of(channel.limits) if low <= limit <= high)
    if value is None or value != value:
        return Bar(0.0, 0.0, limits)
    start, end = sorted((place(0.0), place(value)))
    return Bar(start, round(end - start, 1), limits)


def worst_state(states: Iterable[str]) -> str:
    """The state that asks most urgently to be looked at, `empty` where there is none."""
    return max(states, key=STATES.index, default="empty")


def workshop_facts(workshop: Workshop, language: str) -> dict[str, Any]:
    """A workshop for the templates."""
    return {
        "id": workshop.id,
        "label": workshop.name.text(language),
        "city": workshop.city.text(language),
        "zone": workshop.zone,
    }
