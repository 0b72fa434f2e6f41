"""The supervisor over real processes: a part that fails is started again or named, and none is ever left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from simulators.supervisor import FAILURES_AT_START, Child, ChildFailed, Patience, Supervisor

pytestmark = pytest.mark.real

SOON_S = 20.0
NO_PAUSE = Patience(first_pause_s=0, most_pause_s=0, steady_s=3600, grace_s=SOON_S, force_s=SOON_S)

OBEDIENT = """
import asyncio, os
from simulators.parent import until_parent_ends

async def work():
    print("ready", os.getpid(), flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("in order", flush=True)

asyncio.run(until_parent_ends(work()))
"""
FAILS = 'import sys; print("asked for the impossible", file=sys.stderr); sys.exit(3)'
READY_THEN_FAILS = 'import sys; print("ready", flush=True); sys.exit(4)'
STUBBORN = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) > 1:
    grandchild = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
    grandchild.stdout.readline()
    print("ready", os.getpid(), grandchild.pid, flush=True)
else:
    print("ready", os.getpid(), flush=True)
while True:
    signal.pause()
"""
LOADS = "import signal; print('loading', flush=True); signal.pause()"
LEAVES_A_GRANDCHILD = STUBBORN.replace("signal.SIG_IGN", "lambda *_: sys.exit(0)", 1)
SUPERVISES = f"""
import asyncio, pathlib, sys
from simulators.supervisor import Supervisor

async def main():
    async with Supervisor(print) as supervisor:
        children = [supervisor.start(str(n), ["-c", {OBEDIENT!r}], pathlib.Path(sys.argv[1]) / f"{{n}}.log")
                    for n in range(2)]
        for child in children:
            await child.ready.wait()
        print(*(child.process.pid for child in children), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


class Said:
    """What the supervisor says, and a way to wait for it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._more = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, text: str) -> None:
        self.lines.append(text)
        task = asyncio.ensure_future(self._tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self) -> None:
        async with self._more:
            self._more.notify_all()

    async def wait_for(self, condition: Callable[[list[str]], bool]) -> None:
        async with asyncio.timeout(SOON_S), self._more:
            await self._more.wait_for(lambda: condition(self.lines))


@pytest.fixture
def said() -> Said:
    return Said()


@contextlib.asynccontextmanager
async def ready(supervisor: Supervisor, tmp_path: Path, program: str, *arguments: str) -> AsyncIterator[Child]:
    child = supervisor.start("part", ["-c", program, *arguments], tmp_path / "part.log")
    await soon(child.ready.wait())
    yield child


async def soon(work: Awaitable[object]) -> None:
    async with asyncio.timeout(SOON_S):
        await work


def said_by(child: Child) -> str:
    return child.log.read_text("utf-8")


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and that nobody has asked after does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def arguments_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended
        return []


async def gone(*pids: int) -> None:
    async with asyncio.timeout(SOON_S):
        while any(alive(pid) for pid in pids):  # noqa: ASYNC110 - processes of others tell nobody that they end
            await asyncio.sleep(0.02)


async def test_a_part_that_ends_unasked_is_started_again(said: Said, tmp_path: Path) -> None:
    """One crash of a simulator would end the lesson."""
    async with Supervisor(said, NO_PAUSE) as supervisor, ready(supervisor, tmp_path, OBEDIENT) as child:
        first = child.process
        assert first is not None
        first.kill()
        await said.wait_for(lambda lines: len(lines) == 1)
        await soon(child.ready.wait())
        assert child.process is not None
        assert child.process.pid != first.pid
        assert child.restarts == 1
    assert said.lines == [f"part ended (exit code -9), starting it again; see {child.log}"]


async def test_a_part_that_was_ready_is_started_again_for_ever(said: Said, tmp_path: Path) -> None:
    """A flaky part would end the whole workshop in the middle of a lesson."""
    async with Supervisor(said, NO_PAUSE) as supervisor:
        child = supervisor.start("part", ["-c", READY_THEN_FAILS], tmp_path / "part.log")
        await said.wait_for(lambda lines: len(lines) > FAILURES_AT_START)
        assert child.restarts > FAILURES_AT_START


async def test_a_part_that_ran_steadily_is_started_again_for_ever(said: Said, tmp_path: Path) -> None:
    """The same for a part that never says that it is ready."""
    async with Supervisor(said, Patience(first_pause_s=0, most_pause_s=0, steady_s=0)) as supervisor:
        supervisor.start("part", ["-c", FAILS], tmp_path / "part.log")
        await said.wait_for(lambda lines: len(lines) > FAILURES_AT_START)


async def test_a_part_that_fails_at_its_start_is_given_up_with_the_reason(said: Said, tmp_path: Path) -> None:
    """A wrong installation would show as a page that never comes, without a word."""
    async with Supervisor(said, NO_PAUSE) as supervisor, ready(supervisor, tmp_path, OBEDIENT) as neighbour:
        log = tmp_path / "broken.log"
        log.write_text("".join(f"line {n} of the run before\n" for n in range(5000)))
        supervisor.start("broken", ["-c", FAILS], log)
        with pytest.raises(ChildFailed) as failed:
            await soon(supervisor.wait_failed())
        first, second, *tail = str(failed.value).splitlines()
        assert first == "broken ends at its start (exit code 3)."
        assert second == f"{log} says:"
        assert len(tail) == 15
        assert tail[-FAILURES_AT_START - 1 :] == [
            "  line 4999 of the run before",
            *["  asked for the impossible"] * FAILURES_AT_START,
        ]
        assert len(said.lines) == FAILURES_AT_START - 1
    assert neighbour.process is not None
    assert neighbour.process.returncode == 0


async def test_a_log_that_cannot_be_written_ends_the_workshop_with_the_reason(said: Said, tmp_path: Path) -> None:
    """The part would not run, and nobody would learn of it."""
    async with Supervisor(said, NO_PAUSE) as supervisor:
        supervisor.start("part", ["-c", OBEDIENT], tmp_path / "no such folder" / "part.log")
        with pytest.raises(FileNotFoundError, match="no such folder"):
            await soon(supervisor.wait_failed())


async def test_a_part_that_says_too_much_at_once_is_still_heard(said: Said, tmp_path: Path) -> None:
    """A line without end would stop the log, and soon the part, which waits for a reader."""
    talks = 'import sys; print("x" * 300_000, flush=True); print("ready", flush=True); sys.stdin.read()'
    async with Supervisor(said, NO_PAUSE) as supervisor, ready(supervisor, tmp_path, talks) as child:
        pass
    assert said_by(child) == "x" * 300_000 + "\nready\n"


async def test_parts_end_in_order(said: Said, tmp_path: Path) -> None:
    """A part that is cut off could lose the last samples."""
    async with Supervisor(said, NO_PAUSE) as supervisor, ready(supervisor, tmp_path, OBEDIENT) as child:
        pass
    assert child.process is not None
    assert child.process.returncode == 0
    assert said_by(child).endswith("in order\n")
    assert said.lines == []


@pytest.mark.parametrize(("program", "force_s"), [(STUBBORN, 0), (LEAVES_A_GRANDCHILD, SOON_S)])
async def test_a_part_that_does_not_leave_is_ended_with_what_it_started(
    said: Said, tmp_path: Path, program: str, force_s: float
) -> None:
    """A stuck part, or what it leaves behind, would hold its port against the next start."""
    impatient = Patience(steady_s=3600, grace_s=0, force_s=force_s)
    async with Supervisor(said, impatient) as supervisor, ready(supervisor, tmp_path, program, STUBBORN) as child:
        pids = [int(word) for word in said_by(child).split()[1:]]
        assert len(pids) == 2
        assert all(map(alive, pids))
    await gone(*pids)
    assert said.lines == ["part does not end by itself; ending it"]


async def test_a_part_that_is_just_being_started_is_ended_too(said: Said, tmp_path: Path) -> None:
    """Ctrl-C in the first second would leave a process behind."""
    async with Supervisor(said, NO_PAUSE) as supervisor:
        child = supervisor.start("part", ["-c", STUBBORN], tmp_path / "part.log")
        # One turn: the program is being started, and the supervisor does not hold its process yet.
        await asyncio.sleep(0)
        assert child.process is None
    await gone(*(process.pid for process in psutil.Process().children() if STUBBORN in arguments_of(process)))
    assert said.lines == []


async def test_a_part_that_is_still_loading_ends_at_once(said: Said, tmp_path: Path) -> None:
    """Ctrl-C during the start would take as long as the start."""
    async with Supervisor(said, NO_PAUSE) as supervisor:
        child = supervisor.start("part", ["-c", LOADS], tmp_path / "part.log")
        async with asyncio.timeout(SOON_S):
            while not child.log.exists() or not said_by(child):  # noqa: ASYNC110 - a file tells nobody that it grows
                await asyncio.sleep(0.02)
    assert child.process is not None
    assert child.process.returncode == -signal.SIGTERM
    assert said.lines == []


async def test_stopping_does_not_wait_for_a_pause(said: Said, tmp_path: Path) -> None:
    """Ctrl-C would seem to do nothing while a part waits for its next start."""
    patience = Patience(first_pause_s=3600, most_pause_s=3600, steady_s=0)
    async with asyncio.timeout(SOON_S), Supervisor(said, patience) as supervisor:
        supervisor.start("part", ["-c", FAILS], tmp_path / "part.log")
        await said.wait_for(lambda lines: len(lines) == 1)


async def test_parts_leave_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    """Whoever kills the demo would find its parts still running, and the ports taken."""
    supervisor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SUPERVISES, str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    assert supervisor.stdout is not None
    async with asyncio.timeout(SOON_S):
        pids = [int(word) for word in (await supervisor.stdout.readline()).split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    os.kill(supervisor.pid, signal.SIGKILL)
    await soon(supervisor.wait())
    await gone(*pids)
