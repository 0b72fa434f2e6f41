"""The judge: what was made, what was committed and what is stored, compared value by value and time by time.

* lost: committed in the edge's spool, or acknowledged as stored, and not in the store;
* duplicated: more often in the store than in the spool;
* altered: another value, text or quality than in the spool or than the producer made, or a time that was never made;
* unsaid: made, not stored, and no gap record of its stream covers its time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lab_contract.batch import EVENT_STREAM, Gap
from tests.chaos.made import STREAM, Made, Value, values_of

Sample = tuple[str, int, Value]
DELAY_NS = 250_000_000
"""Gaps of events are in the edge's time, from the last sign of life to the next; changes are dated by the equipment.
What was on its way when the edge was killed is older than the last sign of life by at most the delay of that way."""
NAMED_MOST = 20


@dataclass
class Verdict:
    """The figures, and the first differences in words. `tolerated`: unsaid but for the delay of the equipment's way."""

    made: int = 0
    committed: int = 0
    stored: int = 0
    gaps: int = 0
    lost: int = 0
    duplicated: int = 0
    altered: int = 0
    unsaid: int = 0
    said: int = 0
    """Values made that were lost before the spool, as gap records say."""
    tolerated: int = 0
    first: list[str] = field(default_factory=list[str])

    @property
    def differences(self) -> int:
        """0 where every promise was kept."""
        return self.lost + self.duplicated + self.altered + self.unsaid

    def note(self, kind: str, number: int, what: str) -> None:
        """Count a difference and name it, if it is among the first."""
        setattr(self, kind, getattr(self, kind) + number)
        if len(self.first) < NAMED_MOST:
            self.first.append(f"{kind}: {what}")


def judge(
    made: Iterable[Made],
    committed: Sequence[Sample],
    committed_gaps: Sequence[Gap],
    stored: Sequence[Sample],
    stored_gaps: Sequence[Gap],
) -> Verdict:
    """Compare. Of equal gap records the store may keep one."""
    verdict = Verdict(committed=len(committed), stored=len(stored), gaps=len(stored_gaps))
    _compare(verdict, committed, stored)
    for gap in set(committed_gaps) - set(stored_gaps):
        verdict.note("lost", 1, f"gap record {gap}")
    for gap, count in (Counter(stored_gaps) - Counter(committed_gaps)).items():
        verdict.note("duplicated", count, f"gap record {gap}")
    _compare_with_made(verdict, made, stored, stored_gaps, committed)
    return verdict


def _compare(verdict: Verdict, committed: Sequence[Sample], stored: Sequence[Sample]) -> None:
    """As multisets: a value may stand in the store as often as it was committed."""
    spooled, kept = Counter(committed), Counter(stored)
    if spooled == kept:
        return
    times = Counter((channel, t) for channel, t, _ in committed)
    found = Counter((channel, t) for channel, t, _ in stored)
    of_spool = {(channel, t): value for channel, t, value in committed}
    for key, count in (times - found).items():
        verdict.note("lost", count, f"{key[0]} at {key[1]}: {of_spool[key]}")
    for key, count in (found - times).items():
        kind = "duplicated" if key in times else "altered"
        verdict.note(kind, count, f"{key[0]} at {key[1]}, {times[key]} times in the spool, {found[key]} in the store")
    for (channel, t, value), count in (kept - spooled).items():
        if times[channel, t] and times[channel, t] == found[channel, t]:
            verdict.note("altered", count, f"{channel} at {t}: stored {value}, in the spool {of_spool[channel, t]}")


def _compare_with_made(
    verdict: Verdict, made: Iterable[Made], stored: Sequence[Sample], gaps: Sequence[Gap], committed: Sequence[Sample]
) -> None:
    """Everything stored was made so, and what was made is stored or said to be lost."""
    here = {(channel, t): value for channel, t, value in stored}
    truth: dict[tuple[str, int], Value] = {}
    # Before the edge had read anything it cannot know that something is missing.
    begin = min((t for _, t, _ in committed), default=0)
    holes = {stream: _Holes(gap for gap in gaps if gap.stream == stream) for stream in (STREAM, EVENT_STREAM)}
    for one in made:
        stream = STREAM if one.topic == "wave" else EVENT_STREAM
        for channel, value in values_of(one.topic, one.counter).items():
            truth[channel, one.t] = value
            if one.t < begin:
                continue
            verdict.made += 1
            if (channel, one.t) in here:
                continue
            if holes[stream].covers(one.t):
                verdict.said += 1
            elif stream == EVENT_STREAM and holes[stream].covers(one.t, DELAY_NS):
                verdict.tolerated += 1
            else:
                verdict.note("unsaid", 1, f"{channel} at {one.t}, counter {one.counter}{holes[stream].near(one.t)}")
    for (channel, t), value in here.items():
        if (channel, t) not in truth:
            verdict.note("altered", 1, f"{channel} at {t}: nobody made a value then")
        elif truth[channel, t] != value:
            verdict.note("altered", 1, f"{channel} at {t}: stored {value}, made {truth[channel, t]}")


class _Holes:
    """Gap records of one stream, joined where they overlap."""

    def __init__(self, gaps: Iterable[Gap]) -> None:
        self._spans: list[tuple[int, int]] = []
        for gap in sorted(gaps, key=lambda gap: gap.t_from):
            if self._spans and gap.t_from <= self._spans[-1][1]:
                self._spans[-1] = (self._spans[-1][0], max(self._spans[-1][1], gap.t_to))
            else:
                self._spans.append((gap.t_from, gap.t_to))
        self._begins = [begin for begin, _ in self._spans]

    def covers(self, t: int, slack: int = 0) -> bool:
        """Whether a gap, widened by `slack` ns on both sides, holds the time."""
        place = bisect_right(self._begins, t + slack) - 1
        return place >= 0 and t <= self._spans[place][1] + slack

    def near(self, t: int) -> str:
        """In words: how far the neighbouring gaps are."""
        place = bisect_right(self._begins, t) - 1
        before = f"; a gap ended {(t - self._spans[place][1]) / 1e6:.1f} ms before" if place >= 0 else ""
        after = ""
        if place + 1 < len(self._spans):
            after = f"; the next begins {(self._spans[place + 1][0] - t) / 1e6:.1f} ms after"
        return before + after
