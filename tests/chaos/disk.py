"""A small disk for one part: a tmpfs of its own where this account may mount one, else a limit on the size of files.

The stand-in is RLIMIT_FSIZE of the running process (Linux): no file of it can grow, each try fails as a write, so that
what must hold on a full disk is asked for where mounting is not allowed as well.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BALLAST = "ballast"
FULL_FILE_BYTES = 1024


class Disk:
    """The folder of a part, full from `fill` to `free`. `pids` are asked for the processes that write there."""

    def __init__(self, folder: Path, *, mounted: bool, pids: Callable[[], list[int]]) -> None:
        self.folder = folder
        self.mounted = mounted
        self.is_full = False
        self._pids = pids

    def fill(self) -> None:
        """No byte more can be written, but for what is written into the room that files have already."""
        self.is_full = True
        if not self.mounted:
            self.limit()
            return
        with (self.folder / BALLAST).open("wb", buffering=0) as ballast:
            step = 1 << 20
            while step:
                try:
                    while True:
                        os.posix_fallocate(ballast.fileno(), ballast.seek(0, os.SEEK_END), step)
                except OSError:
                    step >>= 4

    def free(self) -> None:
        """As before."""
        self.is_full = False
        if self.mounted:
            (self.folder / BALLAST).unlink(missing_ok=True)
        else:
            self.limit()

    def limit(self) -> None:
        """Put the stand-in's limit on every process there is now; a part started meanwhile needs it again."""
        if self.mounted:
            return
        soft = FULL_FILE_BYTES if self.is_full else resource.RLIM_INFINITY
        for pid in self._pids():
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))


@contextmanager
def small_disk(folder: Path, megabytes: int, pids: Callable[[], list[int]], *, mount: bool = True) -> Iterator[Disk]:
    """The disk in `folder`, which is made; whoever writes there must have ended before this is left."""
    folder.mkdir(parents=True)
    mounted = mount and _mount(folder, megabytes)
    try:
        yield Disk(folder, mounted=mounted, pids=pids)
    finally:
        if mounted:
            # Lazily, as somebody may still look into it: nothing of ours stays mounted.
            subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=True)


def _mount(folder: Path, megabytes: int) -> bool:
    if os.name != "posix" or os.geteuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
