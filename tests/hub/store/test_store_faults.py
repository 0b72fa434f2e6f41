"""What every telemetry store must bear: a restart, a kill, readers beside the writer."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from hub.store.base import Outcome, Quarantine, Record, StoreUnavailable, TelemetryStore
from lab_contract.batch import Gap, GapReason
from tests.small_kit import EEG, KIT, NOW, SECOND
from tests.stores import Place, events, frame, gaps, values


def test_everything_is_there_after_a_restart(place: Place) -> None:
    store = place.open()
    batch = events(1, [(NOW, "line.state", 1, "Execute")], clock=(7, 1))
    lost = Gap("eeg", NOW, NOW + 1, GapReason.DISK)
    store.append([batch, gaps(3, lost)])
    store.quarantine([Quarantine("edge-1", "checksum", "no", b"junk", NOW)])
    identity = store.store_id
    store.close()
    store.close()
    with pytest.raises(StoreUnavailable):
        store.append([batch])
    with pytest.raises(StoreUnavailable):
        store.stats()
    again = place.open()
    assert again.store_id == identity
    assert again.append([batch]) == [Outcome.DUPLICATE]
    assert again.latest(KIT)["line.state"].text == "Execute"
    assert again.gaps(KIT, NOW, NOW + 1) == [lost]
    assert again.append([frame(2, [NOW + 1], clock=(7, 1))]) == [Outcome.STORED]
    # The same offset goes on: a fact of its own would say that the clock was set.
    assert len(again.clock(KIT, 0, 2**62)) == 1
    assert again.quarantine_counts() == {"checksum": 1}
    again.close()


def test_facts_say_what_the_engine_is(store: TelemetryStore) -> None:
    """Who mends a hub must know what it writes to, and whether it may."""
    facts = store.facts()
    for text in (facts.engine, facts.version, facts.write_path, facts.permissions, facts.retention):
        assert text.strip() == text != ""


def test_questions_are_answered_from_other_threads_while_appending(store: TelemetryStore) -> None:
    """An open trend must not stop the line, nor the line the trend."""
    store.append([frame(0, [NOW])])
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(20):
                assert store.raw(KIT, EEG, NOW, NOW + SECOND).read_all().num_rows >= 2
                store.overview(KIT, EEG, NOW, NOW + 10 * SECOND, 5)
                store.statistics(KIT, EEG, NOW, NOW + 10 * SECOND)
                store.states(KIT, "line.state", NOW, NOW + SECOND)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for seq in range(1, 20):
        store.append([frame(seq, NOW + seq * SECOND + np.arange(250) * 4_000_000)])
    for thread in threads:
        thread.join()
    assert not failures


def test_writing_calls_from_several_threads_come_in_one_after_the_other(store: TelemetryStore) -> None:
    """The hourly retention and a copy run beside ingest; none of them may break the other's transaction."""
    failures: list[BaseException] = []

    def keep_deleting() -> None:
        try:
            for n in range(10):
                store.apply_retention(NOW + n * SECOND)
                store.quarantine([Quarantine("edge-1", "checksum", "", bytes([n]), NOW)])
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    thread = threading.Thread(target=keep_deleting)
    thread.start()
    for seq in range(40):
        store.append([frame(seq, NOW + seq * SECOND + np.arange(250) * 4_000_000)])
    thread.join()
    assert not failures
    assert len(values(store, "eeg.a", NOW + 10 * SECOND)) == 30 * 250
    assert store.missing("edge-1", 1, 0, 39) == []
    assert store.quarantine_counts() == {"checksum": 10}


WRITER = """
import sys
from tests.small_kit import NOW, SECOND
from tests.stores import frame, open_spec
import numpy as np
store = open_spec(sys.argv[1])
for seq in range(100_000):
    store.append([frame(seq, NOW + seq * SECOND + np.arange(250) * 4_000_000, clock=(seq // 10, 1))])
    print(seq, flush=True)
"""


@pytest.mark.real
def test_what_was_acknowledged_survives_a_kill(place: Place) -> None:
    """The edge deletes what is acknowledged: a killed hub must still have it, once, with its roll-up and clock."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, place.spec], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    acknowledged = -1
    for line in writer.stdout:
        acknowledged = int(line)
        if acknowledged == 40:
            break
    writer.kill()
    rest = writer.stdout.read().split()
    writer.stdout.close()
    writer.wait()
    acknowledged = int(rest[-1]) if rest else acknowledged
    store = place.open()
    # One more may have been committed without being said.
    more = store.missing("edge-1", 1, 0, acknowledged + 1)
    assert more in ([], [(acknowledged + 1, acknowledged + 1)])
    # The edge sends again what it has no word of, and of that a part may be there already.
    said, unsaid = (
        frame(seq, NOW + seq * SECOND + np.arange(250) * 4_000_000, clock=(seq // 10, 1))
        for seq in (acknowledged, acknowledged + 1)
    )
    assert store.append([said, unsaid]) == [Outcome.DUPLICATE, Outcome.STORED if more else Outcome.DUPLICATE]
    stored = acknowledged + 2
    found = values(store, "eeg.a")
    assert len(found) == len(set(found)) == stored * 250
    assert len(store.clock(KIT, 0, 2**62)) == (stored + 9) // 10
    assert store.days(Record.ROLLUP, KIT) != {}
    assert store.statistics(KIT, ["eeg.a"], NOW, NOW + stored * SECOND)["eeg.a"].n == stored * 250
    store.close()
