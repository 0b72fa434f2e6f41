"""Which alarms of a kit are active: receives samples in data time, hands on the active alarms. Pure: no clock, no I/O.

Everything is judged by the time of the samples, so that a replay gives the same alarms as the lesson did, and so that a
kit whose data has stopped keeps its last alarms instead of inventing new ones. Data time goes on with every sample of
the kit: a delay or a standstill runs out although the channel itself says nothing more.

States follow ISA-18.2 (on-delay, off-delay, deadband, latching); shelving and acknowledgement come with control.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hub.store.base import SECOND
from lab_contract.kit import Alarm, Channel, Condition, KitModel, Severity, Term
from lab_contract.kit import Value as Wanted

RANK = {Severity.CRITICAL: 0, Severity.HIGH: 1, Severity.WARNING: 2}
OUTER = {"lo": "lo_lo", "hi": "hi_hi"}
"""A value beyond the outer limit is beyond the inner one too: only the worse is shown."""

Sample = tuple[float | None, str | None]
"""A channel's value and text."""


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


class _Rule:
    """One alarm with its delays; `truth` says whether its condition is true now, None where that is unknown."""

    def __init__(
        self, channel: str, name: str, severity: Severity, on_s: float, off_s: float, latching: bool, inputs: set[str]
    ) -> None:
        self.channel = channel
        self.name = name
        self.severity = severity
        self.inputs = inputs
        self._on_ns = round(on_s * SECOND)
        self._off_ns = round(off_s * SECOND)
        self._latching = latching
        self.true = False
        self._turned_ns = 0
        self._active = False
        self.latched = False
        self.since_ns = 0

    @property
    def shown(self) -> bool:
        return self._active or self.latched

    @property
    def holds(self) -> bool:
        return self._active

    def truth(self, now: Mapping[str, Sample]) -> bool | None:
        raise NotImplementedError

    def sample(self, t: int, now: Mapping[str, Sample]) -> None:
        """A channel among the inputs has a new sample at `t`."""
        truth = self.truth(now)
        if truth is not None:
            self.turn(truth, t)

    def turn(self, true: bool, t: int) -> None:
        # Two connections of a kit may be a little out of step: time never runs back for one alarm.
        t = max(t, self._turned_ns)
        self.run_out(t)
        if true != self.true:
            self.true = true
            self._turned_ns = t
            self.run_out(t)

    def run_out(self, t: int) -> None:
        """Data time is `t` now: let the delays that have passed take effect."""
        if self.true and not self._active and t - self._turned_ns >= self._on_ns:
            if not self.latched:
                self.since_ns = self._turned_ns + self._on_ns
            self._active = True
        elif not self.true and self._active and t - self._turned_ns >= self._off_ns:
            self._active = False
            self.latched = self._latching

    def frame(self, t: NDArray[np.int64], values: NDArray[np.float32], now: dict[str, Sample], channel: str) -> None:
        """A whole frame of `channel`; `now` is changed on the way."""
        for at, value in zip(t.tolist(), values.tolist(), strict=True):
            if value == value:
                now[channel] = (value, None)
                self.sample(at, now)


class _Limit(_Rule):
    def __init__(self, channel: Channel, name: str, limit: float) -> None:
        assert channel.limits is not None  # noqa: S101 - made from limits only
        limits = channel.limits
        severity = limits.severity or (Severity.HIGH if name in OUTER.values() else Severity.WARNING)
        super().__init__(
            channel.id, name, severity, limits.on_delay_s, limits.off_delay_s, limits.latching, {channel.id}
        )
        self._upward = name.startswith("hi")
        self._limit = limit
        self._deadband = limits.deadband

    def truth(self, now: Mapping[str, Sample]) -> bool | None:
        value = now[self.channel][0]
        if value is None:
            return None
        if self._upward:
            return value > (self._limit - self._deadband if self.true else self._limit)
        return value < (self._limit + self._deadband if self.true else self._limit)

    def frame(self, t: NDArray[np.int64], values: NDArray[np.float32], now: dict[str, Sample], channel: str) -> None:
        # 250 samples a second that change nothing are told from their extremes.
        extreme = (values.min() if self.true else values.max()) if self._upward else None
        if extreme is None:
            extreme = values.max() if self.true else values.min()
        if extreme == extreme and self.truth({channel: (float(extreme), None)}) is self.true:
            return
        super().frame(t, values, now, channel)


class _Compare(_Rule):
    def __init__(self, channel: str, alarm: Alarm) -> None:
        terms = alarm.condition.only_while
        inputs = {channel, *(term.channel for term in terms)}
        super().__init__(channel, alarm.id, alarm.severity, alarm.on_delay_s, alarm.off_delay_s, alarm.latching, inputs)
        self._condition = alarm.condition

    def truth(self, now: Mapping[str, Sample]) -> bool | None:
        allowed = _all_hold(self._condition.only_while, now)
        if not allowed:
            return allowed
        return compare(now.get(self.channel), self._condition.op, self._condition.value)


class _Unchanged(_Compare):
    """True once the channel has stayed within its deadband for `value` seconds while the terms hold."""

    def __init__(self, channel: Channel, alarm: Alarm) -> None:
        super().__init__(channel.id, alarm)
        self._tolerance = channel.deadband or 0.0
        self._for_ns = round(float(alarm.condition.value) * SECOND)
        self._anchor: Sample | None = None
        self._still_since: int | None = None

    def sample(self, t: int, now: Mapping[str, Sample]) -> None:
        self.run_out(t)
        here = now.get(self.channel)
        if here is not None and here != (None, None) and self._moved(here):
            self._anchor = here
            self._still_since = None
            self.turn(False, t)
        allowed = _all_hold(self._condition.only_while, now)
        if not allowed:
            self._still_since = None
            if allowed is False:
                self.turn(False, t)
        elif self._still_since is None and self._anchor is not None:
            self._still_since = t

    def frame(self, t: NDArray[np.int64], values: NDArray[np.float32], now: dict[str, Sample], channel: str) -> None:
        # As `sample` one by one, for a channel that keeps moving: eight of them at 250 Hz would else be most of what a
        # hub does. Whatever is more than that begins anew with the samples one by one.
        anchor = self._anchor[0] if self._anchor is not None else None
        since = self._still_since
        if anchor is None or since is None or self.true or self._condition.only_while:
            super().frame(t, values, now, channel)
            return
        last = since
        for at, value in zip(t.tolist(), values.tolist(), strict=True):
            if value != value:
                continue
            last = at
            if at - since >= self._for_ns:
                super().frame(t, values, now, channel)
                return
            if abs(value - anchor) > self._tolerance:
                anchor, since = value, at
        self._anchor, self._still_since = (anchor, None), since
        self.run_out(last)

    def _moved(self, here: Sample) -> bool:
        if self._anchor is None:
            return True
        before, after = self._anchor[0], here[0]
        if before is None or after is None:
            return here != self._anchor
        return abs(after - before) > self._tolerance

    def run_out(self, t: int) -> None:
        if not self.true and self._still_since is not None and t - self._still_since >= self._for_ns:
            self.true = True
            self._turned_ns = max(self._turned_ns, self._still_since + self._for_ns)
        super().run_out(t)


class _Share(_Compare):
    """True while this counter's share of the growth of both counters over the last `window` counts is too great."""

    def __init__(self, channel: str, alarm: Alarm) -> None:
        super().__init__(channel, alarm)
        condition = alarm.condition
        assert condition.against is not None  # noqa: S101 - the kit model has checked it
        assert condition.window is not None  # noqa: S101
        self._against = condition.against
        self._window = condition.window
        self.inputs.add(self._against)
        self._history: deque[tuple[float, float]] = deque()

    def truth(self, now: Mapping[str, Sample]) -> bool | None:
        own, other = now.get(self.channel, (None, None))[0], now.get(self._against, (None, None))[0]
        if own is None or other is None:
            return None
        history = self._history
        if history and (own < history[-1][0] or other < history[-1][1]):
            history.clear()  # The counters were reset.
        if not history or history[-1] != (own, other):
            history.append((own, other))
        while len(history) > 1 and own + other - sum(history[1]) >= self._window:
            history.popleft()
        first = history[0]
        # Fewer counts than the window are judged as if the rest were good: one reject in three parts is no alarm yet.
        counts = max(self._window, own + other - sum(first))
        allowed = _all_hold(self._condition.only_while, now)
        return (own - first[0]) / counts > float(self._condition.value) if allowed else allowed


def compare(sample: Sample | None, op: str, wanted: Wanted | tuple[Wanted, ...]) -> bool | None:
    """Whether a sample fulfils a comparison of the kit model; None where it is unknown.

    A text is compared with the sample's text (an enum's state name), anything else with its number; `in` with each of
    a list.
    """
    if sample is None or sample == (None, None):
        return None
    if isinstance(wanted, tuple):
        return any(compare(sample, "eq", one) for one in wanted)
    value, text = sample
    if isinstance(wanted, str):
        return {"eq": text == wanted, "ne": text != wanted}.get(op)
    if value is None:
        return None
    number = float(wanted)
    results = {
        "eq": value == number,
        "ne": value != number,
        "gt": value > number,
        "ge": value >= number,
        "lt": value < number,
        "le": value <= number,
    }
    return results.get(op)


def _all_hold(terms: Iterable[Term], now: Mapping[str, Sample]) -> bool | None:
    truths = [compare(now.get(term.channel), term.op, term.value) for term in terms]
    if False in truths:
        return False
    return None if None in truths else True


def _rules(model: KitModel) -> list[_Rule]:
    rules: list[_Rule] = []
    for channel in model.channels:
        limits = channel.limits
        if limits is not None:
            named = {"lo_lo": limits.lo_lo, "lo": limits.lo, "hi": limits.hi, "hi_hi": limits.hi_hi}
            rules += [_Limit(channel, name, limit) for name, limit in named.items() if limit is not None]
        for alarm in channel.alarms:
            rules.append(_rule(channel, alarm, alarm.condition))
    return rules


def _rule(channel: Channel, alarm: Alarm, condition: Condition) -> _Rule:
    if condition.op == "unchanged":
        return _Unchanged(channel, alarm)
    if condition.op == "share_gt":
        return _Share(channel.id, alarm)
    return _Compare(channel.id, alarm)


class KitAlarms:
    """The alarms of one kit, from its first sample on."""

    def __init__(self, model: KitModel) -> None:
        self._rules = _rules(model)
        self._by_input: defaultdict[str, list[_Rule]] = defaultdict(list)
        for rule in self._rules:
            for channel in rule.inputs:
                self._by_input[channel].append(rule)
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

    def frame(self, channel: str, t: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Samples of one channel in order of time; NaN is no value."""
        if not len(t) or int(t[-1]) < self._seen.get(channel, 0):
            return
        self._seen[channel] = int(t[-1])
        for rule in self._by_input.get(channel, ()):
            rule.frame(t, values, self._now, channel)
        known = np.flatnonzero(~np.isnan(values))
        if len(known):
            self._now[channel] = (float(values[known[-1]]), None)

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
            if not (isinstance(rule, _Limit) and (channel, OUTER.get(name, "")) in shown)
        ]
        return tuple(sorted(found, key=lambda alarm: (RANK[alarm.severity], -alarm.since_ns, alarm.channel)))
