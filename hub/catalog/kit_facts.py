"""Beside the line: what pages and islands need of a kit model, whatever the kit does now. Pure: receives a kit model,
hands on labels, the JSON that the islands start from, and how its channels are laid out, in the reader's language.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hub.live.state import AGENT
from hub.web import formats
from hub.web.words import Words
from lab_contract.batch import EVENT_STREAM
from lab_contract.kit import Channel, KitModel, Limits, Stream, ValueKind

SERIES_COLOURS = 8
FIRST_TRENDS = 4
LEAST_STRIP_HZ = 50
"""A slower stream reads better as values and trends."""
LIMITS = ("lo_lo", "lo", "hi", "hi_hi")
LEAST_UNITS, LEAST_SIGNALS = 3, 2
LABEL_WORDS = re.compile(r"[A-Za-z]+[0-9]*|[0-9]+|.")


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


def limits_of(limits: Limits | None) -> list[tuple[str, float]]:
    """The limits that are set, by name."""
    found = [(name, getattr(limits, name, None)) for name in LIMITS]
    return [(name, value) for name, value in found if value is not None]


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


def alarm_labels(model: KitModel, language: str, words: Words) -> dict[str, str]:
    """What each alarm of a kit model is called, by `channel/alarm`; a limit's is made from the channel's label."""
    labels: dict[str, str] = {}
    for channel in model.channels:
        label = channel.label.text(language)
        for name, limit in limits_of(channel.limits):
            amount = formats.number_text(limit, channel.decimals, language)
            unit = formats.unit_text(channel.unit, language)
            labels[f"{channel.id}/{name}"] = f"{label}: {words['limit'][name]} ({f'{amount} {unit}'.strip()})"
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


def _period_ms(model: KitModel, channel: Channel) -> int | None:
    period_s = model.period_s(channel)
    return None if period_s is None else round(1000 * period_s)


def channel_data(model: KitModel, language: str) -> dict[str, dict[str, Any]]:
    """What the islands must know of each channel to show its values."""
    stream_of = {channel: stream.id for stream in model.streams for channel in stream.channels}
    return {
        channel.id: {
            "label": channel.label.text(language),
            "unit": formats.unit_text(channel.unit, language),
            "decimals": channel.decimals,
            "kind": channel.kind.value,
            "period_ms": _period_ms(model, channel),
            "min": channel.min,
            "max": channel.max,
            "states": state_labels(channel, language),
            "limits": limits_of(channel.limits),
            "series": index % SERIES_COLOURS,
            "connection": channel.connection,
            "stream": stream_of.get(channel.id, EVENT_STREAM),
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
                    "unit": formats.unit_text(model.channel_by_id[name].unit, language),
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
        unit, scales = formats.unit_text(channels[0].unit, language), scales_of(channels)
        found.append(
            {
                "id": stream.id,
                "index": data[stream.id]["index"],
                "label": stream.label.text(language),
                "rate": f"{stream.rate_hz:g}",
                "scales": [{"value": f"{scale:g}", "text": f"±{scale:g} {unit}".strip()} for scale in scales],
                "scale": f"{scales[len(scales) // 2]:g}",
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
