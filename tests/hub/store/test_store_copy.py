"""What every telemetry store must give and take, so that a hub can move from one to another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from hub.store.base import DAY, Outcome, Record, Result, StoreRefused, StoreUnavailable, TelemetryStore
from hub.store.records import SCHEMAS
from lab_contract.batch import Gap, GapReason
from tests.small_kit import KIT, NOW, SECOND
from tests.stores import Place, events, frame, gaps, values

DAY_0 = NOW // DAY * DAY


def fill(store: TelemetryStore) -> None:
    t = NOW + np.arange(500) * 4_000_000
    store.append([frame(1, t[:300], np.vstack([np.arange(300), np.zeros(300)]), clock=(7, 1))])
    store.append(
        [
            frame(2, t[300:], np.vstack([np.arange(200), np.full(200, np.nan)]), clock=(7, 1)),
            events(3, [(NOW + DAY, "line.state", 1, "Execute"), (NOW + DAY, "line.program", None, "一号")]),
            gaps(4, Gap("eeg", NOW - 1, NOW, GapReason.STOPPED), Gap("eeg", NOW + 1, NOW + 2, GapReason.DISK, 9)),
        ]
    )
    store.put_results([Result(KIT, "w", "task", "model", NOW, 0.5, True, 60.0, {"good": 19.0})])


def rows_of(store: TelemetryStore, record: Record) -> list[dict[str, object]]:
    reader = store.copy_out(record, KIT, 0, 2**62)
    assert reader.schema == SCHEMAS[record]
    return reader.read_all().to_pylist()


def test_days_count_what_a_copy_has_to_bring(store: TelemetryStore) -> None:
    """A copy is believed whole because these numbers agree."""
    fill(store)
    assert store.days(Record.SAMPLES, KIT) == {DAY_0: 1000, DAY_0 + DAY: 2}
    # Two seconds of one channel, of which the other has no number in the last 200.
    assert store.days(Record.ROLLUP, KIT) == {DAY_0: 4, DAY_0 + DAY: 1}
    assert store.days(Record.GAPS, KIT) == {DAY_0: 2}
    assert store.days(Record.RESULTS, KIT) == {DAY_0: 1}
    assert store.days(Record.LEDGER, KIT) == {DAY_0: 4}
    assert sum(store.days(Record.CLOCK, KIT).values()) == 2
    for record in Record:
        assert sum(store.days(record, KIT).values()) == len(rows_of(store, record))
        assert store.days(record, "kit-9") == {}


def test_samples_come_out_by_channel_and_time_of_a_half_open_window(store: TelemetryStore) -> None:
    fill(store)
    table = store.copy_out(Record.SAMPLES, KIT, NOW, NOW + DAY).read_all()
    assert table.num_rows == 1000
    assert table["channel"].to_pylist() == ["eeg.a"] * 500 + ["eeg.b"] * 500
    assert np.all(np.diff(table["t"].to_numpy()[:500]) == 4_000_000)
    assert store.copy_out(Record.SAMPLES, KIT, NOW + DAY, NOW + 2 * DAY).read_all().num_rows == 2


def test_a_copy_answers_every_question_like_the_first_store(store: TelemetryStore, place: Place) -> None:
    """What a lesson has shown is shown by the new store too, and a batch that is sent again stays a duplicate."""
    fill(store)
    kept = {record: rows_of(store, record) for record in Record}
    before = store.latest(KIT), store.statistics(KIT, ["eeg.a", "eeg.b"], NOW, NOW + SECOND)
    store.close()
    other = place.empty().open()
    for record, rows in kept.items():
        table = pa.Table.from_pylist(rows, SCHEMAS[record])
        assert other.copy_in(record, KIT, f"{record}-1", table.to_reader())
    assert {record: rows_of(other, record) for record in Record} == kept
    assert (other.latest(KIT), other.statistics(KIT, ["eeg.a", "eeg.b"], NOW, NOW + SECOND)) == before
    assert other.kits() == [KIT]
    assert other.append([frame(1, NOW + np.arange(300) * 4_000_000, np.vstack([np.arange(300), np.zeros(300)]))]) == [
        Outcome.DUPLICATE
    ]
    assert other.append([events(9, [(NOW + DAY, "line.good", 1)])]) == [Outcome.STORED]
    assert other.store_id != store.store_id
    other.adopt(store.store_id)
    assert other.store_id == store.store_id
    other.close()


def test_a_part_is_taken_once(store: TelemetryStore) -> None:
    """A copy that was interrupted goes on where it was, and never brings a sample twice."""
    fill(store)
    rows = store.copy_out(Record.SAMPLES, KIT, NOW + DAY, NOW + 2 * DAY).read_all()
    moved = rows.set_column(1, SCHEMAS[Record.SAMPLES].field("t"), pa.array([NOW + 2 * DAY] * 2))
    assert not store.has_part("part-1")
    assert store.copy_in(Record.SAMPLES, KIT, "part-1", moved.to_reader())
    assert store.has_part("part-1")
    assert not store.copy_in(Record.SAMPLES, KIT, "part-1", moved.to_reader())
    assert values(store, "line.state", NOW + 2 * DAY) == [(NOW + 2 * DAY, 1.0)]
    assert store.latest(KIT)["line.state"].t == NOW + 2 * DAY


def test_ledger_rows_and_results_that_are_there_are_kept(store: TelemetryStore) -> None:
    """An older copy must not put back a mark that was corrected since, nor the number of a batch."""
    fill(store)
    for record in (Record.LEDGER, Record.RESULTS):
        table = store.copy_out(record, KIT, 0, 2**62).read_all()
        kept = table.to_pylist()
        name = "crc" if record is Record.LEDGER else "score"
        place = table.schema.get_field_index(name)
        other = table.set_column(place, table.schema.field(place), pa.array([1] * len(kept), table.schema.types[place]))
        assert store.copy_in(record, KIT, f"older-{record}", other.to_reader())
        assert rows_of(store, record) == kept


def test_rows_with_other_columns_are_refused(store: TelemetryStore) -> None:
    """A folder of another version must not be half taken in."""
    wrong = pa.table({"channel": ["a"], "t": [1]})
    with pytest.raises(StoreRefused, match="columns"):
        store.copy_in(Record.SAMPLES, KIT, "part-1", wrong.to_reader())
    fill(store)
    rows = store.copy_out(Record.SAMPLES, KIT, NOW + DAY, NOW + 2 * DAY).read_all()
    # Nor is the part taken for one that was taken.
    assert store.copy_in(Record.SAMPLES, KIT, "part-1", rows.to_reader())


def test_rows_whose_source_goes_away_leave_nothing(store: TelemetryStore) -> None:
    """The other store's server may fall in the middle of a part: that part is brought again, whole."""
    fill(store)
    schema = SCHEMAS[Record.GAPS]
    rows = store.copy_out(Record.GAPS, KIT, 0, 2**62).read_all().to_batches()

    def cut_off() -> Iterator[pa.RecordBatch]:
        yield from rows
        raise StoreUnavailable("the server is away")

    with pytest.raises(StoreUnavailable):
        store.copy_in(Record.GAPS, "kit-2", "part-1", pa.RecordBatchReader.from_batches(schema, cut_off()))
    assert not store.has_part("part-1")
    assert store.copy_in(Record.GAPS, "kit-2", "part-1", pa.RecordBatchReader.from_batches(schema, iter(rows)))
    assert len(store.gaps("kit-2", 0, 2**62)) == 2
    assert store.append([events(30, [(NOW, "line.good", 1)])]) == [Outcome.STORED]
