"""What every telemetry store must write into a file for spreadsheets and notebooks."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hub.store.base import ExportFormat, TelemetryStore
from tests.small_kit import KIT, NOW, SECOND
from tests.stores import Place, events, frame, values


def fill(store: TelemetryStore) -> None:
    store.append(
        [
            frame(1, [NOW, NOW + 4_000_001], np.array([[1.5, np.nan], [0, 0]])),
            events(
                2, [(NOW + 1, "line.program", None, '=HYPERLINK("x")', 0x80AE0000), (NOW + 2, "line.state", 1, "a,b")]
            ),
        ]
    )


def test_csv_is_what_a_spreadsheet_reads(store: TelemetryStore, tmp_path: Path) -> None:
    """Times to the nanosecond, an empty cell for no value, and no text that a spreadsheet would run as a formula."""
    fill(store)
    file = tmp_path / "out.csv"
    assert store.export(KIT, ["eeg.a", "line.program", "line.state"], NOW, NOW + SECOND, ExportFormat.CSV, file) == 4
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))
    assert rows == [
        ["time_utc", "channel", "value", "text", "quality"],
        ["2025-10-09T08:53:20.000000000Z", "eeg.a", "1.5", "", "0"],
        ["2025-10-09T08:53:20.000000001Z", "line.program", "", '\'=HYPERLINK("x")', str(0x80AE0000)],
        ["2025-10-09T08:53:20.000000002Z", "line.state", "1", "a,b", "0"],
        ["2025-10-09T08:53:20.004000001Z", "eeg.a", "", "", "0"],
    ]


def test_parquet_has_the_columns_of_raw(store: TelemetryStore, tmp_path: Path) -> None:
    """A notebook gets the same numbers as the pages, text unchanged."""
    fill(store)
    file = tmp_path / "out.parquet"
    channels = ["eeg.a", "line.program"]
    assert store.export(KIT, channels, NOW, NOW + SECOND, ExportFormat.PARQUET, file) == 3
    table = pq.read_table(file)
    assert table.to_pylist() == store.raw(KIT, channels, NOW, NOW + SECOND).read_all().to_pylist()
    assert table.schema.names == ["t", "channel", "value", "text", "quality"]


@pytest.mark.parametrize("kind", list(ExportFormat))
def test_an_empty_window_is_a_file_with_a_head(store: TelemetryStore, tmp_path: Path, kind: ExportFormat) -> None:
    """A script that reads exports must not fail for a quiet night."""
    file = tmp_path / "out"
    assert store.export(KIT, ["eeg.a"], NOW, NOW + 1, kind, file) == 0
    if kind is ExportFormat.PARQUET:
        assert pq.read_table(file).num_rows == 0
    else:
        assert file.read_text("utf-8").splitlines() == ["time_utc,channel,value,text,quality"]


def test_a_file_that_cannot_be_written_leaves_the_former_as_it_was(store: TelemetryStore, tmp_path: Path) -> None:
    """Half an export under the name of a whole one would be marked as it is."""
    fill(store)
    with pytest.raises(FileNotFoundError):
        store.export(KIT, ["eeg.a"], NOW, NOW + SECOND, ExportFormat.CSV, tmp_path / "no" / "out.csv")
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises((IsADirectoryError, PermissionError)):
        store.export(KIT, ["eeg.a"], NOW, NOW + SECOND, ExportFormat.CSV, folder)
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []
    assert len(values(store, "eeg.a")) == 2


EXPORTER = """
import sys
from pathlib import Path
import pyarrow as pa
from hub.store.base import ExportFormat
from tests.small_kit import EEG, KIT
from tests.stores import open_spec
store = open_spec(sys.argv[1])
rows = [store.export(KIT, EEG, 0, 2**62, kind, Path(sys.argv[2], kind)) for kind in ExportFormat]
store.close()
print(*rows, pa.default_memory_pool().max_memory() >> 20)
"""


@pytest.mark.real
def test_a_long_export_does_not_fill_the_memory(place: Place, tmp_path: Path) -> None:
    """An hour of EEG asked for during a lesson must not end the hub of the lesson."""
    store = place.open()
    # All of it at once would be more than 60 MB of columns, and more again as text. A server takes a fifth meanwhile.
    n, most = (250_000, 40) if place.url.startswith("duckdb:") else (50_000, 8)
    for seq in range(3):
        t = NOW + (seq * n + np.arange(n)) * 4_000_000
        store.append([frame(seq, t, np.random.default_rng(seq).normal(size=(2, n)), received_ns=int(t[-1]))])
    store.close()
    exporter = subprocess.run(
        [sys.executable, "-c", EXPORTER, place.spec, str(tmp_path)], capture_output=True, text=True, check=True
    )
    *rows, megabytes = map(int, exporter.stdout.split())
    assert rows == [3 * 2 * n] * 2
    assert megabytes < most
