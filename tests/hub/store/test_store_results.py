"""What every telemetry store must do with the results of tasks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hub.store.base import Result, StoreRefused, TelemetryStore
from tests.small_kit import KIT, NOW
from tests.stores import Place

GOOD = Result(KIT, "workshop-1", "sort-20", "plc_line", NOW, 0.875, True, 612.5, {"good": 19.0, "cycle_s": 2.25})


def test_results_come_back_as_they_were_after_a_restart(store: TelemetryStore, place: Place) -> None:
    """A trainee's mark is worth more than any sample."""
    other = replace(GOOD, task='任务 "1" = a,b', t=NOW - 5, score=0.0, passed=False, measures={})
    store.put_results([GOOD, other])
    store.close()
    again = place.open()
    assert again.results(KIT, NOW - 5, NOW + 1) == [other, GOOD]
    assert again.results(KIT, NOW - 5, NOW) == [other]
    assert again.results("kit-9", 0, 2**62) == []
    again.close()


def test_the_same_result_again_replaces_the_former(store: TelemetryStore) -> None:
    """A mark that was put right must not stand beside the wrong one."""
    store.put_results([GOOD])
    better = replace(GOOD, score=1.0, measures={"good": 20.0})
    store.put_results([better, replace(GOOD, task="other")])
    assert store.results(KIT, NOW, NOW + 1) == [replace(GOOD, task="other"), better]
    store.put_results([])


@pytest.mark.parametrize("wrong", [{"score": float("nan")}, {"measures": {"good": float("inf")}}])
def test_a_result_that_is_no_number_is_refused(store: TelemetryStore, wrong: dict[str, object]) -> None:
    """An engine would keep it as it likes, and a course's mean would be no number any more."""
    with pytest.raises(StoreRefused):
        store.put_results([GOOD, replace(GOOD, task="other", **wrong)])
    assert store.results(KIT, 0, 2**62) == []
