"""Samples that meet at one nanosecond or come again are kept once each, with Debian's real server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.store.base import Outcome
from hub.store.influx import InfluxStore
from tests.influx import Influx
from tests.influx_store import opened
from tests.small_kit import KIT, NOW, SECOND
from tests.stores import events, frame, values

pytestmark = pytest.mark.real

T = NOW + np.arange(250) * 4_000_000


def test_several_samples_of_one_nanosecond_are_all_kept(server: Influx, tmp_path: Path) -> None:
    """A PLC stamps all changes of a cycle alike; InfluxDB would keep the last of them only."""
    store = opened(server.url, tmp_path)
    store.append([events(1, [(NOW, "line.good", 1), (NOW, "line.good", 1), (NOW, "line.good", 2)])])
    store.append([events(2, [(NOW, "line.good", 3), (NOW + 1, "line.good", 4)])])
    assert sorted(values(store, "line.good")) == [(NOW, 1.0), (NOW, 1.0), (NOW, 2.0), (NOW, 3.0), (NOW + 1, 4.0)]
    assert store.statistics(KIT, ["line.good"], NOW, NOW + SECOND)["line.good"].n == 5
    # What two batches say in every detail alike is one point: nothing tells it from a batch that came again.
    store.append([events(3, [(NOW + 1, "line.good", 4)])])
    assert len(values(store, "line.good")) == 5
    assert "1 points written again" in store.facts().detail
    store.close()


def test_the_samples_of_a_database_in_use_are_what_the_paper_says(server: Influx, tmp_path: Path) -> None:
    """Dashboards of the workshop's own are built on these names."""
    store = opened(server.url, tmp_path)
    store.append([replace(frame(1, [NOW]), values=np.array([[1.5], [np.nan]], dtype=np.float32))])
    found = server.ask('SELECT * FROM "sample"', db=store._session.server.database)[0]
    assert found["columns"] == ["time", "channel", "kit", "q", "v"]
    assert found["values"] == [[NOW, "eeg.a", KIT, None, 1.5], [NOW, "eeg.b", KIT, 0, None]]
    store.close()


# Written again.

Rows = list[tuple[int, float | None, str | None]]


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Rows], list[list[int]]]:
    """Batches of changes of few times and values, and in which order and company they come, again and again."""
    change = st.tuples(
        st.sampled_from([0, 1, SECOND - 1, SECOND, SECOND + 1, 3 * SECOND]),
        st.sampled_from([0.5, -2.0, None]),
        st.sampled_from([None, "a", 'b,=" \\']),
    )
    batches = draw(st.lists(st.lists(change, min_size=1, max_size=5), min_size=1, max_size=4))
    order = list(range(len(batches)))
    rounds = [draw(st.permutations(order)) for _ in range(draw(st.integers(2, 3)))]
    bursts = [part for one in rounds for cut in [draw(st.integers(0, len(one)))] for part in (one[:cut], one[cut:])]
    return batches, [burst for burst in bursts if burst]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(delivery=deliveries())
def test_whatever_comes_again_without_a_ledger_row_is_written_onto_itself(
    lone: InfluxStore, new_kit: Callable[[], str], delivery: tuple[list[Rows], list[list[int]]]
) -> None:
    """After a crash between server and ledger edges send again, in another order and company; every sample must be
    there, none twice, and the roll-up must count each once."""
    batches, bursts = delivery
    kit = new_kit()
    made = [
        events(seq, [(NOW + t, "eeg.a", value, text) for t, value, text in rows], kit=kit)
        for seq, rows in enumerate(batches)
    ]
    for burst in bursts:
        with lone._session.ledger().transaction() as ledger:
            ledger.execute("DELETE FROM ledger")
        assert set(lone.append([made[n] for n in burst])) == {Outcome.STORED}
    # Of two batches what is alike in everything is one sample; within one batch all are.
    expected: Counter[tuple[int, float | None, str | None]] = Counter()
    for rows in batches:
        expected |= Counter((NOW + t, value, text) for t, value, text in rows)
    table = lone.raw(kit, ["eeg.a"], 0, 2**62).read_all()
    found = Counter(zip(table["t"].to_pylist(), table["value"].to_pylist(), table["text"].to_pylist(), strict=True))
    assert found == expected
    numbers = [value for _, value, _ in expected.elements() if value is not None]
    told = lone.statistics(kit, ["eeg.a"], NOW, NOW + 4 * SECOND)
    assert set(told) == ({"eeg.a"} if numbers else set())
    if numbers:
        one = told["eeg.a"]
        assert (one.n, one.lo, one.hi) == (len(numbers), min(numbers), max(numbers))
        assert one.mean == pytest.approx(sum(numbers) / len(numbers))


@pytest.fixture(scope="module")
def lone(server: Influx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxStore]:
    store = opened(server.url, tmp_path_factory.mktemp("lone"))
    yield store
    store.close()
