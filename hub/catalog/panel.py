"""Beside the line: what the workshop and kit pages show of a kit. Pure: receives the kit and its live view, hands on
rows, bars, ages and the JSON that the islands start from, in the reader's language.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hub.catalog.service import Kit, Workshop
from hub.live.state import AGENT, KitView, Wrong
from hub.web import formats
from hub.web.words import Words
from lab_contract.kit import Channel, KitModel, Limits, Severity, Stream, ValueKind

NS_PER_S = 1_000_000_000
LEAST_AGE_SHOWN_S = 1.0
"""Batching alone makes fast values up to this old."""
SERIES_COLOURS = 8
FIRST_TRENDS = 3
LEAST_STRIP_HZ = 50
"""A slower stream reads better as values and trends."""
LIMITS = ("lo_lo", "lo", "hi", "hi_hi")
LEAST_UNITS, LEAST_SIGNALS = 3, 2
LABEL_WORDS = re.compile(r"[A-Za-z]+[0-9]*|[0-9]+|.")
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
    """Text: it takes the place of the bar too."""


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
            text = texts["stale"] if wrong.subject == self.kit.id else f"{connection}: {texts['stale']}"
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
                Column(label, formats.unit_text(channel.unit))
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
        age: float | None = None
        if latest is not None and channel.rate_hz is not None:
            seconds = (self.view.now_ns - latest.t) / NS_PER_S
            age = seconds if seconds > max(2 * period_s(channel), LEAST_AGE_SHOWN_S) else None
        return Row(
            id=channel.id,
            label=channel.label.text(self.language),
            text=self._text(channel),
            unit=formats.unit_text(channel.unit),
            age_s=age,
            severity=self._worst.get(channel.id),
            old=latest is None or channel.id in self.view.stale_channels,
            bar=bar_of(channel, None if latest is None else latest.value),
            wide=channel.kind is ValueKind.TEXT,
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


def alike_units(channels: Sequence[Channel]) -> list[list[Channel]]:
    """The largest set of units (`station.unit.signal`) that have the same signals: a list of channels for each unit.

    Empty where fewer than three units with two signals are alike, or where their labels do not show it.
    """
    units: dict[str, dict[str, Channel]] = {}
    for channel in channels:
        parts = channel.id.split(".")
        if len(parts) == 3:
            units.setdefault(parts[1], {})[parts[2]] = channel
    sets: dict[tuple[str, ...], list[list[Channel]]] = {}
    for signals in units.values():
        names = tuple(sorted(signals))
        first = sets.get(names)
        order = [c.id.split(".")[2] for c in first[0]] if first else list(signals)
        sets.setdefault(names, []).append([signals[name] for name in order])
    lines = max(sets.values(), key=lambda found: len(found) * len(found[0]), default=[])
    if len(lines) < LEAST_UNITS or len(lines[0]) < LEAST_SIGNALS:
        return []
    for column in zip(*lines, strict=True):
        if not all(common_label([channel.label.text(code) for channel in column])[0] for code in formats.LANGUAGES):
            return []
    return lines


def common_label(labels: Sequence[str]) -> tuple[str, list[str]]:
    """What labels share, and in what each differs: "Joint 1 speed", "Joint 2 speed" are "Joint speed", ["1", "2"].

    The shared part is empty where they differ in more than one word.
    """
    split = [LABEL_WORDS.findall(label) for label in labels]
    if len({len(words) for words in split}) != 1:
        return "", list(labels)
    differing = [i for i, column in enumerate(zip(*split, strict=True)) if len(set(column)) > 1]
    if len(differing) != 1:
        return "", list(labels)
    at = differing[0]
    shared = "".join(split[0][:at] + split[0][at + 1 :])
    return re.sub(r"\s+", " ", shared).replace(" )", ")").strip(" ,:"), [words[at] for words in split]


def shown_state(view: KitView) -> str:
    """One of STATES: a kit that has never sent anything is not stale but empty."""
    return "empty" if view.data_t is None and view.state == "stale" else view.state


def is_state(channel: Channel, model: KitModel) -> bool:
    """Whether a channel belongs among the states at the top of the kit page."""
    return channel.id == model.state_channel or channel.kind is ValueKind.ENUM or channel.safety


def strips(model: KitModel) -> list[Stream]:
    """The streams that are drawn as strip charts: fast, and of one unit so that the lanes compare."""
    return [
        stream
        for stream in model.streams
        if stream.rate_hz >= LEAST_STRIP_HZ and len({model.channel_by_id[name].unit for name in stream.channels}) == 1
    ]


def period_s(channel: Channel) -> float:
    """Seconds between two values on a live page; infinite for a channel that speaks only on change."""
    rates = [rate for rate in (channel.rate_hz, channel.view_rate_hz) if rate is not None]
    return 1 / min(rates) if rates else float("inf")


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


def limits_of(limits: Limits | None) -> list[tuple[str, float]]:
    """The limits that are set, by name."""
    found = [(name, getattr(limits, name, None)) for name in LIMITS]
    return [(name, value) for name, value in found if value is not None]


def alarm_labels(model: KitModel, language: str, words: Words) -> dict[str, str]:
    """What each alarm of a kit model is called, by `channel/alarm`; a limit's is made from the channel's label."""
    labels: dict[str, str] = {}
    for channel in model.channels:
        label = channel.label.text(language)
        for name, limit in limits_of(channel.limits):
            amount = (
                f"{formats.number_text(limit, channel.decimals, language)} {formats.unit_text(channel.unit)}".strip()
            )
            labels[f"{channel.id}/{name}"] = f"{label}: {words['limit'][name]} ({amount})"
        for alarm in channel.alarms:
            labels[f"{channel.id}/{alarm.id}"] = alarm.label.text(language)
    return labels


def state_labels(channel: Channel, language: str) -> dict[str, str] | None:
    """An enum's labels by number as JSON writes it, None for other kinds."""
    return {str(value.value): value.label.text(language) for value in channel.values} or None


def links_data(model: KitModel, language: str) -> dict[str, dict[str, Any]]:
    """Each connection's label, and whether it reaches equipment: the edge's own figures prove nothing about that."""
    return {
        connection.id: {"label": connection.label.text(language), "equipment": connection.protocol != AGENT}
        for connection in model.connections
    }


def channel_data(model: KitModel, language: str) -> dict[str, dict[str, Any]]:
    """What the islands must know of each channel to show its values."""
    return {
        channel.id: {
            "label": channel.label.text(language),
            "unit": formats.unit_text(channel.unit),
            "decimals": channel.decimals,
            "kind": channel.kind.value,
            "period_ms": None if channel.rate_hz is None else round(1000 * period_s(channel)),
            "min": channel.min,
            "max": channel.max,
            "states": state_labels(channel, language),
            "limits": limits_of(channel.limits),
            "series": index % SERIES_COLOURS,
            "connection": channel.connection,
        }
        for index, channel in enumerate(model.channels)
    }


def stream_data(model: KitModel, language: str) -> list[dict[str, Any]]:
    """What the islands must know of each stream to read its frames; `index` is its place in the kit model."""
    order = {channel.id: index for index, channel in enumerate(model.channels)}
    return [
        {
            "index": index,
            "rate": stream.rate_hz,
            "channels": [
                {
                    "id": name,
                    "label": short_label(model.channel_by_id[name]),
                    "unit": formats.unit_text(model.channel_by_id[name].unit),
                    "series": order[name] % SERIES_COLOURS,
                }
                for name in stream.channels
            ],
        }
        for index, stream in enumerate(model.streams)
    ]


def strip_charts(model: KitModel, language: str) -> list[dict[str, Any]]:
    """The strip charts for the template, with the scales to choose from: half a lane's height in the channels' unit."""
    data = {stream.id: facts for stream, facts in zip(model.streams, stream_data(model, language), strict=True)}
    found: list[dict[str, Any]] = []
    for stream in strips(model):
        channels = [model.channel_by_id[name] for name in stream.channels]
        unit, scales = formats.unit_text(channels[0].unit), scales_of(channels)
        found.append(
            {
                "id": stream.id,
                "index": data[stream.id]["index"],
                "label": stream.label.text(language),
                "rate": f"{stream.rate_hz:g}",
                "scales": [{"value": scale, "text": f"±{scale:g} {unit}".strip()} for scale in scales],
                "scale": scales[len(scales) // 2],
                "channels": data[stream.id]["channels"],
            }
        )
    return found


def scales_of(channels: Sequence[Channel]) -> list[float]:
    """Round numbers from a twentieth of the channels' greatest range to all of it: 10, 20, 50, 100, 200 for 200."""
    ends = [abs(end) for channel in channels for end in (channel.min, channel.max) if end is not None]
    full = max(ends, default=0.0) or 1.0
    return [round(full * share, 6) for share in (0.05, 0.1, 0.25, 0.5, 1.0)]


def short_label(channel: Channel) -> str:
    """The electrode of an EEG channel as it is written everywhere (Fp1, Oz); else the last part of the id."""
    name = channel.id.rsplit(".", 1)[-1]
    return name[:1].upper() + name[1:] if channel.unit == "uV" else name


def first_trends(model: KitModel) -> list[str]:
    """The channels whose trends are shown at first: with limits, of different signals, of different stations."""
    drawn = {name for stream in strips(model) for name in stream.channels}
    numeric = [
        channel
        for channel in model.channels
        if channel.kind in (ValueKind.INT, ValueKind.FLOAT) and channel.rate_hz is not None and channel.id not in drawn
    ]
    turns: Counter[str] = Counter()
    ranked: list[tuple[bool, int, int, int, str]] = []
    for index, channel in enumerate(sorted(numeric, key=lambda c: c.limits is None)):
        signal = channel.id.rsplit(".", 1)[-1]
        turns[signal] += 1
        if turns[signal] == 1:
            turns[f"{channel.station}."] += 1
        ranked.append((channel.limits is None, turns[signal], turns[f"{channel.station}."], index, channel.id))
    return [name for *_, name in sorted(ranked)[:FIRST_TRENDS]]


def trend_choice(model: KitModel, language: str) -> list[dict[str, Any]]:
    """Every channel that can be drawn as a trend, by station."""
    found: list[dict[str, Any]] = []
    for station in model.stations:
        channels = [c for c in model.channels if c.station == station.id and c.kind is not ValueKind.TEXT]
        if channels:
            entries = [{"id": c.id, "label": c.label.text(language)} for c in channels]
            found.append({"label": station.label.text(language), "channels": entries})
    return found


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
