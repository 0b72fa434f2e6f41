"""`epip-hub export` and `epip-hub import`: all telemetry into a folder and back; a part of `cli.py`.

Counts go to standard output when all is done, progress to standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub.errors import CannotRun
from hub.progress import Progress
from hub.settings import load_settings

if TYPE_CHECKING:
    from hub.store.base import Record, TelemetryStore

Add = Callable[..., argparse.ArgumentParser]


def add_commands(groups: Any, add: Add) -> None:
    """Put the commands into the program's; `add` makes one."""
    export = add(groups, "export", "copy all telemetry into a folder; run again to go on where it was cut off", _export)
    export.add_argument("folder", type=Path, help="a new or empty folder")
    take_in = add(groups, "import", "copy all telemetry of an exported folder into the store of the settings", _import)
    take_in.add_argument("folder", type=Path, help="the folder of a finished export")
    take_in.add_argument(
        "--take-over", action="store_true", help="edges go on with this store in place of the exported one"
    )


def _export(arguments: argparse.Namespace) -> int:
    from hub.store import copy

    with _store(arguments) as store:
        with _progress(copy.total_rows(store)) as told:
            manifest = copy.export_to(store, arguments.folder, told)
        _tell(manifest.rows())
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from hub.store import copy

    with _store(arguments) as store:
        manifest = copy.read_manifest(arguments.folder)
        with _progress(sum(manifest.rows().values())) as told:
            copy.import_from(store, arguments.folder, manifest, told)
        if arguments.take_over:
            copy.take_over(store, manifest)
        _tell(manifest.rows())
    return 0


def _tell(rows: dict[Record, int]) -> None:
    for record, count in rows.items():
        print(f"{record}\t{count}")


@contextmanager
def _store(arguments: argparse.Namespace) -> Iterator[TelemetryStore]:
    """The settings' store; what it raises becomes one line, and so does Ctrl-C."""
    from hub.store import open_store
    from hub.store.base import StoreError

    settings = load_settings(arguments.settings)
    try:
        store = open_store(settings.store_url, **settings.store_options)
        try:
            yield store
        finally:
            store.close()
    except StoreError as error:
        raise CannotRun(f"store: {error}") from error
    except OSError as error:
        raise CannotRun(f"{error.filename or arguments.folder}: {error.strerror or error}") from error
    except KeyboardInterrupt:
        raise CannotRun("stopped; run the same command again to go on") from None


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Record, int], None]]:
    progress = Progress(sys.stderr, total, "rows")
    try:
        yield lambda _record, count: progress.add(count)
    finally:
        progress.end()
