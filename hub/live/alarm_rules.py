"""One alarm's rule each: receives a channel's samples in data time, tells whether its condition holds and for how long.

`KitAlarms` hands them on as what is active. Pure: no clock, no I/O. Each rule has a way for samples one by one and a
short way for many at once, which comes to the same.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.store.base import SECOND
from lab_contract.kit import Alarm, Channel, Condition, KitModel, Severity, Term
from lab_contract.kit import Value as Wanted

OUTER = {"lo": "lo_lo", "hi": "hi_hi"}
"""A value beyond the outer limit is beyond the inner one too: only the worse is shown."""

Sample = tuple[float | None, str | None]
"""A channel's value and text."""


@dataclass(slots=True)
class Run:
    """Samples of one channel in order of time, none without a number: times, values, the least and the greatest."""

    channel: str
    t: NDArray[np.int64]
    values: NDArray[np.floating[Any]]
    low: float
    high: float

    @property
    def last(self) -> float:
        """The newest value."""
        return float(self.values[-1])


class Rule(ABC):
    """One alarm with its delays.

    `inputs` are the channels that it looks at; those of `terms` only allow it or not. `quick`: `run` is quicker than
    sample by sample, and right as long as the terms stay what they are.
    """

    quick = True
    terms: tuple[Term, ...] = ()

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
        """Whether the alarm is active, or latched since it was."""
        return self._active or self.latched

    @property
    def holds(self) -> bool:
        """Whether its cause is there still."""
        return self._active

    @abstractmethod
    def truth(self, now: Mapping[str, Sample]) -> bool | None:
        """Whether the condition is true with these newest samples; None where that is unknown."""

    def sample(self, t: int, now: Mapping[str, Sample]) -> None:
        """A channel among the inputs has a new sample at `t`."""
        truth = self.truth(now)
        if truth is not None:
            self.turn(truth, t)

    def turn(self, true: bool, t: int) -> None:
        """From `t` on the condition is true, or not."""
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

    def run(self, run: Run, now: dict[str, Sample]) -> None:
        """Many samples at once; `now` is changed on the way."""
        for at, value in zip(run.t.tolist(), run.values.tolist(), strict=True):
            now[run.channel] = (value, None)
            self.sample(at, now)


class LimitRule(Rule):
    """A value beyond a limit, until it is back behind the deadband."""

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
        """See Rule.truth."""
        value = now[self.channel][0]
        return None if value is None else self._beyond(value)

    def _beyond(self, value: float) -> bool:
        if self._upward:
            return value > (self._limit - self._deadband if self.true else self._limit)
        return value < (self._limit + self._deadband if self.true else self._limit)

    def run(self, run: Run, now: dict[str, Sample]) -> None:
        """See Rule.run."""
        # 250 samples a second that change nothing are told from their extremes.
        if self._beyond(run.low if self.true is self._upward else run.high) is not self.true:
            super().run(run, now)


class _Compare(Rule):
    def __init__(self, channel: str, alarm: Alarm) -> None:
        terms = alarm.condition.only_while
        inputs = {channel, *(term.channel for term in terms)}
        super().__init__(channel, alarm.id, alarm.severity, alarm.on_delay_s, alarm.off_delay_s, alarm.latching, inputs)
        self._condition = alarm.condition
        self.terms = terms

    def truth(self, now: Mapping[str, Sample]) -> bool | None:
        allowed = _all_hold(self.terms, now)
        if not allowed:
            return allowed
        return compare(now.get(self.channel), self._condition.op, self._condition.value)

    def run(self, run: Run, now: dict[str, Sample]) -> None:
        wanted, compared = self._condition.value, COMPARED.get(self._condition.op)
        if compared is None or not isinstance(wanted, bool | int | float) or not _all_hold(self.terms, now):
            Rule.run(self, run, now)
            return
        # Only where the truth changes is there anything to do.
        truths = compared(run.values, float(wanted))
        changes = np.flatnonzero(truths[1:] != truths[:-1]) + 1
        for place in (0, *changes.tolist()):
            self.turn(bool(truths[place]), int(run.t[place]))


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
        allowed = _all_hold(self.terms, now)
        if not allowed:
            self._still_since = None
            if allowed is False:
                self.turn(False, t)
        elif self._still_since is None and self._anchor is not None:
            self._still_since = t

    def run(self, run: Run, now: dict[str, Sample]) -> None:
        # As `sample` one by one, for a channel that keeps moving: eight of them at 250 Hz would else be most of what a
        # hub does. Whatever is more than that is told from the samples one by one.
        anchor, since = (
            (float(run.values[0]), int(run.t[0])) if self._anchor is None else (self._anchor[0], self._still_since)
        )
        last = int(run.t[-1])
        if anchor is None or since is None or self.true or not _all_hold(self.terms, now):
            Rule.run(self, run, now)
            return
        # A sample more than two tolerances from the one before it has moved, wherever the anchor was: what came before
        # the last such is of no account. The margin covers the rounding of float32 differences.
        moved = np.flatnonzero(np.abs(run.values[1:] - run.values[:-1]) > 2.001 * self._tolerance + 1e-9) + 1
        stops = np.concatenate(([since], run.t[moved], [last]))
        if (stops[1:] - stops[:-1]).max() >= self._for_ns:
            Rule.run(self, run, now)
            return
        start = 0
        if len(moved):
            start = int(moved[-1])
            anchor, since = float(run.values[start]), int(run.t[start])
        for place, value in enumerate(run.values[start:].tolist(), start):
            if abs(value - anchor) > self._tolerance:
                anchor, since = value, int(run.t[place])
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
        self.quick = False
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
        allowed = _all_hold(self.terms, now)
        return (own - first[0]) / counts > float(self._condition.value) if allowed else allowed


COMPARED: Mapping[str, Callable[[Any, float], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
}


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
    return bool(COMPARED[op](value, float(wanted))) if op in COMPARED else None


def _all_hold(terms: Iterable[Term], now: Mapping[str, Sample]) -> bool | None:
    truths = [compare(now.get(term.channel), term.op, term.value) for term in terms]
    if False in truths:
        return False
    return None if None in truths else True


def rules_of(model: KitModel) -> list[Rule]:
    """A rule for each limit and alarm of the kit model, in its order."""
    rules: list[Rule] = []
    for channel in model.channels:
        limits = channel.limits
        if limits is not None:
            named = {"lo_lo": limits.lo_lo, "lo": limits.lo, "hi": limits.hi, "hi_hi": limits.hi_hi}
            rules += [LimitRule(channel, name, limit) for name, limit in named.items() if limit is not None]
        for alarm in channel.alarms:
            rules.append(_rule(channel, alarm, alarm.condition))
    return rules


def _rule(channel: Channel, alarm: Alarm, condition: Condition) -> Rule:
    if condition.op == "unchanged":
        return _Unchanged(channel, alarm)
    if condition.op == "share_gt":
        return _Share(channel.id, alarm)
    return _Compare(channel.id, alarm)
