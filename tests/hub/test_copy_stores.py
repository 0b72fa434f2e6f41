"""Copying all telemetry from one store to another through a folder, as a program, cut off anywhere."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hub.cli import main
from hub.progress import Progress
from hub.store import copy
from hub.store.base import DAY, Outcome, Record, Result, TelemetryStore
from lab_contract.batch import Gap, GapReason
from tests.small_kit import KIT, NOW, SECOND
from tests.stores import PLACES, Place, events, frame, gaps

DAYS = 12


def fill(store: TelemetryStore, *, days: int = DAYS, rows: int = 50) -> None:
    for n in range(days):
        t0 = NOW - n * DAY
        wave = np.random.default_rng(n).normal(size=(2, rows))
        store.append(
            [
                frame(10 * n, t0 + np.arange(rows) * 4_000_000, wave, clock=(n, 1), received_ns=t0),
                events(10 * n + 1, [(t0, "line.state", n % 3, f"状态 {n}")], received_ns=t0, clock=(n, 1)),
                gaps(10 * n + 2, Gap("eeg", t0 - SECOND, t0, GapReason.DISCONNECTED, n)),
            ]
        )
    store.append([events(9, [(NOW, "line.good", 1)], kit="kit-2", epoch=7)])
    store.put_results([Result(KIT, "w", "task", "model", NOW, 0.5, True, 60.0, {"good": 19.0})])


def content(store: TelemetryStore) -> dict[tuple[str, Record], list[dict[str, object]]]:
    """All that is held, in an order of ours: that of results and ledger rows is the store's."""
    return {
        (kit, record): sorted(store.copy_out(record, kit, 0, 2**62).read_all().to_pylist(), key=repr)
        for kit in store.kits()
        for record in Record
    }


def settings_for(place: Place, folder: Path) -> Path:
    """A hub.toml whose store is this one."""
    folder.mkdir(exist_ok=True)
    # Beside a server the ledger lies in the data folder.
    lines = [f'store = "{place.url}"', f'data = "{place.options.get("data", folder / "data")}"']
    options = {name: value for name, value in place.options.items() if name != "data" and value is not None}
    if options:
        lines += ["[influx]", *(f"{name} = {json.dumps(value)}" for name, value in options.items())]
    file = folder / "hub.toml"
    file.write_text("\n".join(lines), "utf-8")
    return file


@contextmanager
def opened(place: Place) -> Iterator[TelemetryStore]:
    store = place.open()
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def duckdb(tmp_path: Path) -> Place:
    return PLACES["duckdb"](tmp_path)


def programme(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hub.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("source", "target"), [("duckdb", "duckdb"), *permutations(sorted(PLACES), 2)])
def test_a_store_moves_to_another_whole(
    source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A workshop that grows from the file to a server keeps its history, marks and the edges' trust."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    old, new = PLACES[source](tmp_path / "a"), PLACES[target](tmp_path / "b")
    with opened(old) as store:
        fill(store, days=3)
        before, identity = content(store), store.store_id
    assert main(["export", str(settings_for(old, tmp_path / "a")), str(tmp_path / "copy")]) == 0
    told = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert told == {record: str(sum(len(before[kit, record]) for kit in (KIT, "kit-2"))) for record in Record}
    assert main(["import", str(settings_for(new, tmp_path / "b")), str(tmp_path / "copy"), "--take-over"]) == 0
    assert dict(line.split("\t") for line in capsys.readouterr().out.splitlines()) == told
    with opened(new) as store:
        assert content(store) == before
        assert store.store_id == identity
        again = events(9, [(NOW, "line.good", 1)], kit="kit-2", epoch=7)
        assert store.append([again]) == [Outcome.DUPLICATE]


def cut_off(process: subprocess.Popen[str], after: str, by: signal.Signals = signal.SIGKILL) -> str:
    """End it once its progress says so; what it said then."""
    assert process.stderr is not None
    assert any(line.startswith(after) for line in process.stderr)
    process.send_signal(by)
    _, said = process.communicate()
    assert process.returncode != 0
    return said


@pytest.mark.real
def test_a_copy_that_is_cut_off_goes_on_where_it_was(
    duckdb: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A power cut in the night of the move must cost the night, not the data; nor may anything be there twice."""
    with opened(duckdb) as store:
        fill(store, days=15)
        before = content(store)
    settings, folder = settings_for(duckdb, tmp_path / "old"), tmp_path / "copy"
    assert "run the same command again" in cut_off(programme("export", settings, folder), " 3", signal.SIGINT)
    assert not (folder / "manifest.json").exists()
    kept = {file: file.stat().st_mtime_ns for file in folder.rglob("*.parquet")}
    assert 0 < len(kept) < 6 * 15
    target = duckdb.empty()
    into = settings_for(target, tmp_path / "new")
    assert main(["import", str(into), str(folder)]) == 1
    assert "run it again" in capsys.readouterr().err
    assert main(["export", str(settings), str(folder)]) == 0
    assert {file: file.stat().st_mtime_ns for file in kept} == kept

    cut_off(programme("import", into, folder), " 1")
    cut_off(programme("import", into, folder), " 6")
    # The second time it does nothing.
    for _ in range(2):
        assert main(["import", str(into), str(folder)]) == 0
        with opened(target) as store:
            assert content(store) == before


@pytest.fixture
def exported(duckdb: Place, tmp_path: Path) -> Callable[..., Path]:
    """The folder of an export of a small store."""

    def make(**more: int) -> Path:
        with opened(duckdb) as store:
            fill(store, days=2, **more)
        assert main(["export", str(settings_for(duckdb, tmp_path / "old")), str(tmp_path / "copy")]) == 0
        return tmp_path / "copy"

    return make


def test_a_large_day_is_cut_into_parts(
    exported: Callable[..., Path], duckdb: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is cut off is done again from the beginning of its part: a day of EEG must not be one."""
    monkeypatch.setattr(copy, "PART_ROWS", 30)
    folder = exported()
    assert len(list(folder.glob(f"samples/{KIT}/*of4.parquet"))) == 8
    target = duckdb.empty()
    assert main(["import", str(settings_for(target, tmp_path / "new")), str(folder)]) == 0
    with opened(duckdb) as old, opened(target) as new:
        assert content(new) == content(old)
        assert new.store_id != old.store_id


def test_a_file_that_was_changed_or_lost_is_found(
    exported: Callable[..., Path], duckdb: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worn memory stick must not change a trainee's samples without a word."""
    folder = exported()
    file = next(folder.glob(f"samples/{KIT}/*.parquet"))
    whole = file.read_bytes()
    settings = settings_for(duckdb.empty(), tmp_path / "new")
    for wrong in (whole[:-1], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]):
        file.write_bytes(wrong)
        assert main(["import", str(settings), str(folder)]) == 1
        assert "changed since the export" in capsys.readouterr().err
    file.unlink()
    assert main(["import", str(settings), str(folder)]) == 1
    assert file.name in capsys.readouterr().err
    file.write_bytes(whole)
    assert main(["import", str(settings), str(folder)]) == 0


def test_samples_that_are_there_are_never_doubled(
    exported: Callable[..., Path], duckdb: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An export taken into the store it came from would double every mean and sum."""
    folder = exported()
    settings = settings_for(duckdb, tmp_path / "old")
    assert main(["import", str(settings), str(folder)]) == 1
    assert "twice" in capsys.readouterr().err
    assert main(["export", str(settings), str(folder)]) == 1
    assert "another folder" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    assert main(["export", str(settings), str(tmp_path / "full")]) == 1
    assert "empty folder" in capsys.readouterr().err
    assert main(["import", str(settings), str(tmp_path / "full")]) == 1
    assert "expected an export" in capsys.readouterr().err


def test_only_an_empty_store_can_take_over(
    exported: Callable[..., Path], duckdb: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Edges that know the store by its own id would send to it for ever and never let go of a batch."""
    folder = exported()
    target = duckdb.empty()
    with opened(target) as store:
        store.append([events(9, [(NOW, "line.good", 1)], kit="kit-3")])
        identity = store.store_id
    assert main(["import", str(settings_for(target, tmp_path / "new")), str(folder), "--take-over"]) == 1
    assert "empty" in capsys.readouterr().err
    with opened(target) as store:
        assert store.store_id == identity
        assert store.kits() == [KIT, "kit-2", "kit-3"]


def test_the_ledger_comes_last(
    exported: Callable[..., Path], duckdb: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch whose samples are not there yet must not be taken for a duplicate and let go of by its edge."""
    folder = exported()
    target = duckdb.empty()
    manifest = copy.read_manifest(folder)
    done: list[Record] = []
    with opened(target) as store:
        copy.import_from(store, folder, manifest, lambda record, _: done.append(record))
    assert done == sorted(done, key=list(Record).index)
    assert list(Record)[-1] is Record.LEDGER


def test_what_retention_deleted_is_still_shown_after_a_move(duckdb: Place, tmp_path: Path) -> None:
    """Last year's trend is in the roll-up alone; the new store must know that and draw it from there."""
    with opened(duckdb) as store:
        fill(store, days=3)
        store.apply_retention(NOW - DAY // 2)
        before = store.facts().samples_from_ns, content(store)
    folder, target = tmp_path / "copy", duckdb.empty()
    assert main(["export", str(settings_for(duckdb, tmp_path / "old")), str(folder)]) == 0
    assert main(["import", str(settings_for(target, tmp_path / "new")), str(folder)]) == 0
    with opened(target) as store:
        assert (store.facts().samples_from_ns, content(store)) == before
        assert store.overview(KIT, ["eeg.a"], NOW - DAY, NOW - DAY + SECOND, 1000).from_rollup


def test_a_store_that_changes_while_it_is_exported_is_noticed(duckdb: Place, tmp_path: Path) -> None:
    """Half of today in the copy and nobody knows: the numbers at the end must be those of the store."""
    with opened(duckdb) as store:
        fill(store, days=2)
        original = store.copy_out

        def and_more(record: Record, kit: str, t0: int, t1: int) -> pa.RecordBatchReader:
            if record is Record.SAMPLES and kit == "kit-2":
                store.append([events(77, [(NOW + 1, "line.good", 2)], kit="kit-2")])
            return original(record, kit, t0, t1)

        store.copy_out = and_more  # type: ignore[method-assign]
        with pytest.raises(copy.CopyIncomplete, match="changed meanwhile"):
            copy.export_to(store, tmp_path / "copy", lambda *_: None)
        copy.export_to(store, tmp_path / "copy", lambda *_: None)
    assert pq.read_table(next((tmp_path / "copy").glob("samples/kit-2/*"))).num_rows == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal_and_lines_in_a_log() -> None:
    """A move takes minutes: whoever waits must see that it goes on, and a log must not fill up with bars."""
    terminal, log = Terminal(), io.StringIO()
    for stream in (terminal, log):
        progress = Progress(stream, 2000, "rows")
        for _ in range(2000):
            progress.add(1)
        progress.end()
    assert terminal.getvalue().count("\r") == 1000
    assert "[###############...............]  50 %  1,000 of 2,000 rows" in terminal.getvalue()
    assert terminal.getvalue().endswith("100 %  2,000 of 2,000 rows\033[K\n")
    assert log.getvalue().splitlines()[0] == " 10 %  200 of 2,000 rows"
    assert len(log.getvalue().splitlines()) == 10


@pytest.mark.real
def test_a_running_hub_has_the_file_to_itself(duckdb: Place, tmp_path: Path) -> None:
    """Two programs that write one file would ruin it; the refusal must say what to do."""
    with opened(duckdb) as store:
        fill(store, days=1)
        process = programme("export", settings_for(duckdb, tmp_path / "old"), tmp_path / "copy")
        _, err = process.communicate()
    assert process.returncode == 1
    assert "store:" in err
    assert "Traceback" not in err
