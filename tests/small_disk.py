"""A disk that is soon full: a small tmpfs where it can be mounted, else a limit to the size of this process's files."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MB = 1 << 20


@dataclass(frozen=True)
class SmallDisk:
    """`folder` takes a few megabytes until `make_room()`; `kind` says how it was made."""

    folder: Path
    make_room: Callable[[], None]
    kind: str


@contextmanager
def small_tmpfs(folder: Path, megabytes: int) -> Iterator[SmallDisk | None]:
    """A file system of this size, None where this account may not mount one."""
    folder.mkdir(exist_ok=True)

    def mount(*options: str) -> bool:
        command = ["mount", *options, "-t", "tmpfs", "tmpfs", str(folder)]
        return sys.platform == "linux" and subprocess.run(command, capture_output=True).returncode == 0

    if not mount("-o", f"size={megabytes}m"):
        yield None
        return
    try:
        yield SmallDisk(folder, lambda: _must(mount("-o", f"remount,size={megabytes * 8}m")), "tmpfs")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def small_files(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Files of this process end at this size: writing fails as it does where a quota is used up."""
    import resource

    folder.mkdir(exist_ok=True)
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def lift() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)

    resource.setrlimit(resource.RLIMIT_FSIZE, (megabytes * MB, former[1]))
    try:
        yield SmallDisk(folder, lift, "file size limit")
    finally:
        lift()
        signal.signal(signal.SIGXFSZ, handler)


def _must(done: bool) -> None:
    if not done:
        raise RuntimeError("the small disk could not be made larger")
