"""Which alarms of a kit are active: receives samples in data time, hands on the active alarms. Pure: no clock, no I/O.

Everything is judged by the time of the samples, so that a replay gives the same alarms as the lesson did, and so that a
kit whose data has stopped keeps its last alarms instead of inventing new ones. Data time goes on with every sample of
the kit: a delay or a standstill runs out although the channel itself says nothing more.

States follow ISA-18.2 (on-delay, off-delay, deadband, latching); shelving and acknowledgement come with control.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.live.alarm_rules import COMPARED, OUTER, LimitRule, Rule, Run, Sample, compare, rules_of
from lab_contract.kit import KitModel, Severity, Term, ValueKind

RANK = {Severity.CRITICAL: 0, Severity.HIGH: 1, Severity.WARNING: 2}


@dataclass(frozen=True, slots=True)
class ActiveAlarm:
    """An alarm that is active: `id` is the kit model's, or the limit's name (lo_lo, lo, hi, hi_hi).

    `since_ns` is the data time (UTC ns) at which it became active. `holds` is False for a latched alarm whose cause has
    gone: it stays until somebody clears it.
    """

    channel: str
    id: str
    severity: Severity
    since_ns: int
    holds: bool


class KitAlarms:
    """The alarms of one kit, from its first sample on."""

    def __init__(self, model: KitModel) -> None:
        self._rules = rules_of(model)
        self._by_input: defaultdict[str, list[Rule]] = defaultdict(list)
        for rule in self._rules:
            for channel in rule.inputs:
                self._by_input[channel].append(rule)
        self._joint = [rule for rule in self._rules if len(rule.inputs) > 1]
        self._numbers = {c.id for c in model.channels if c.kind in (ValueKind.INT, ValueKind.FLOAT, ValueKind.BOOL)}
        self._now: dict[str, Sample] = {}
        self._seen: dict[str, int] = {}
        self._time_ns = 0

    def sample(self, channel: str, t: int, value: float | None, text: str | None) -> None:
        """One sample at data time `t` (UTC ns). Ignored are one older than its channel's last (a backlog), and one
        without value and text (bad quality): what is unknown neither raises nor clears an alarm.
        """
        if t < self._seen.get(channel, 0):
            return
        self._seen[channel] = t
        if value is None and text is None:
            return
        self._now[channel] = (value, text)
        for rule in self._by_input.get(channel, ()):
            rule.sample(t, self._now)

    def frame(self, channel: str, t: NDArray[np.int64], values: NDArray[np.floating[Any]]) -> None:
        """Samples of one channel in order of time; NaN is no value."""
        self.frames((channel,), t, values[np.newaxis])

    def frames(self, channels: Sequence[str], t: NDArray[np.int64], values: NDArray[np.floating[Any]]) -> None:
        """Samples of channels that were sampled together, in order of time: `values` (channels, n), NaN is no value."""
        if not len(t):
            return
        end = int(t[-1])
        lows, highs = np.fmin.reduce(values, axis=1).tolist(), np.fmax.reduce(values, axis=1).tolist()
        whole = not np.isnan(values).any()
        for place, channel in enumerate(channels):
            if end < self._seen.get(channel, 0):
                continue
            self._seen[channel] = end
            low, high = lows[place], highs[place]
            if low != low:
                continue  # Not one number among them.
            known = slice(None) if whole else ~np.isnan(values[place])
            self._run(Run(channel, t[known], values[place][known], low, high))

    def events(
        self,
        channels: Sequence[str],
        index: NDArray[np.int32],
        t: NDArray[np.int64],
        values: NDArray[np.float64],
        text: Sequence[str | None],
    ) -> None:
        """Changes in order of time: `index` points into `channels`; NaN is no value. As `sample` one by one."""
        rows_of = {
            channel: np.flatnonzero((index == place) & (t >= self._seen.get(channel, 0)))
            for place, channel in enumerate(channels)
            if channel in self._by_input
        }
        one_by_one = self._unsettled({channel: values[rows] for channel, rows in rows_of.items()})
        single: list[NDArray[np.intp]] = []
        for channel, rows in rows_of.items():
            if channel in one_by_one:
                single.append(rows)
            elif len(rows):
                self._seen[channel] = int(t[rows[-1]])
                rows = rows[~np.isnan(values[rows])]
                if len(rows):
                    own = values[rows]
                    self._run(Run(channel, t[rows], own, float(own.min()), float(own.max())))
        for row in np.sort(np.concatenate(single)).tolist() if single else ():
            value = float(values[row])
            self.sample(channels[index[row]], int(t[row]), None if value != value else value, text[row])

    def _unsettled(self, values_of: Mapping[str, NDArray[np.float64]]) -> set[str]:
        """The channels whose samples must be judged one by one, in order with those of others.

        These are channels with texts, and those of an alarm that looks at several channels, unless the others only
        allow it or not, and go on doing so with all of these values.
        """
        found = {channel for channel in values_of if channel not in self._numbers}
        for rule in self._joint:
            if not rule.inputs.isdisjoint(values_of) and not (
                rule.quick and all(self._stays(term, values_of.get(term.channel)) for term in rule.terms)
            ):
                found |= rule.inputs
        return found

    def _stays(self, term: Term, values: NDArray[np.float64] | None) -> bool:
        before = compare(self._now.get(term.channel), term.op, term.value)
        if values is None or before is None:
            return values is None
        compared = COMPARED.get(term.op)
        if compared is None or not isinstance(term.value, bool | int | float):
            return False
        known = values[~np.isnan(values)]
        return bool((compared(known, float(term.value)) == before).all())

    def _run(self, run: Run) -> None:
        for rule in self._by_input.get(run.channel, ()):
            rule.run(run, self._now)
        self._now[run.channel] = (run.last, None)

    def advance(self, t: int) -> None:
        """Data time of the kit is at least `t`: delays and standstills run out."""
        self._time_ns = max(self._time_ns, t)
        for rule in self._rules:
            rule.run_out(self._time_ns)

    def clear(self, channel: str, name: str) -> bool:
        """Let go of a latched alarm whose cause has gone; False where there is none."""
        for rule in self._rules:
            if rule.channel == channel and rule.name == name and rule.latched and not rule.holds:
                rule.latched = False
                return True
        return False

    def active(self) -> tuple[ActiveAlarm, ...]:
        """The active alarms, worst and then newest first."""
        shown = {(rule.channel, rule.name): rule for rule in self._rules if rule.shown}
        found = [
            ActiveAlarm(rule.channel, rule.name, rule.severity, rule.since_ns, rule.holds)
            for (channel, name), rule in shown.items()
            if not (isinstance(rule, LimitRule) and (channel, OUTER.get(name, "")) in shown)
        ]
        return tuple(sorted(found, key=lambda alarm: (RANK[alarm.severity], -alarm.since_ns, alarm.channel)))
