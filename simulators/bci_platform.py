"""The simulated BCI mobility platform as two serial ports: an OpenBCI Cyton and the kit's own controller.

It runs by itself: a person drives the course by looking at flickering targets, rests with eyes open and closed; see
rider.py, eeg_model.py, drive_model.py, cyton_board.py and kit_controller.py for what each part models and what it does
not. Both ports are pseudo-terminals (Linux, macOS), at a symbolic link where one is given, or TCP ports on 127.0.0.1.
Everything is decided by the seed and the number of ticks of 20 ms; commands and faults come from outside.

Not modelled: the radio between board and dongle with its own losses, baud rates, and the start-up time of the board.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from simulators.cyton_board import CytonBoard
from simulators.eeg_model import EegModel
from simulators.kit_controller import KitController
from simulators.rider import SAMPLES_PER_TICK, TICKS_PER_S
from simulators.serial_port import Port, PtyPort, TcpPort

LATE_TICKS = 5 * TICKS_PER_S
"""Behind by more than 5 s (the computer slept), samples are lost, as on the real board, and not sent later."""


class BciPlatformSimulator:
    """An async context manager; inside it both ports are there and the kit runs.

    `test_amplitudes_uv` turns the EEG into exact 10 Hz sines of these amplitudes, one for each channel.
    """

    def __init__(
        self,
        eeg: Port,
        drive: Port,
        *,
        seed: int = 1,
        test_amplitudes_uv: Sequence[float] | None = None,
        attended: bool = True,
    ) -> None:
        self.eeg = eeg
        self.drive = drive
        self.board = CytonBoard()
        self.controller = KitController(seed, attended)
        self.model = EegModel(seed, test_amplitudes_uv)
        self.late_samples = 0
        self._ticks = 0
        self._running: asyncio.Task[None] | None = None
        eeg.on_data = lambda data: eeg.write(self.board.receive(data))
        drive.on_data = lambda data: drive.write(self.controller.receive(data))

    async def __aenter__(self) -> BciPlatformSimulator:
        await self.eeg.plug()
        try:
            await self.drive.plug()
        except BaseException:
            await self.eeg.unplug()
            raise
        self._running = asyncio.create_task(self._run(), name="bci platform")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
        await self.eeg.unplug()
        await self.drive.unplug()

    async def wait(self) -> None:
        """Until the simulation fails or is cancelled."""
        if self._running is not None:
            await asyncio.shield(self._running)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            # Every tick has its own moment, counted from the beginning, so that nothing adds up to a drift.
            await asyncio.sleep(max(0.0, began + (self._ticks + 1) / TICKS_PER_S - loop.time()))
            behind = math.floor((loop.time() - began) * TICKS_PER_S) - self._ticks
            for _ in range(max(0, behind - LATE_TICKS)):
                self._tick(lost=True)
            while self._ticks < math.floor((loop.time() - began) * TICKS_PER_S):
                self._tick()
                # A host in the same loop gets to read before the terminal is full.
                await asyncio.sleep(0)

    def _tick(self, lost: bool = False) -> None:
        first = self._ticks * SAMPLES_PER_TICK
        self._ticks += 1
        frames = self.controller.step()
        if lost:
            self.late_samples += SAMPLES_PER_TICK
            self.board.skip(SAMPLES_PER_TICK)
            return
        if frames:
            self.drive.write(frames)
        if not self.board.streaming:
            return
        rider = self.controller.rider
        self.model.targets_hz = self.controller.targets_hz
        if rider.lost_electrode is None:
            self.model.lost.clear()
        else:
            self.model.lost = {rider.lost_electrode}
        eeg = self.model.samples(first, SAMPLES_PER_TICK, rider.now, rider.before)
        # Never an exact 0 along X: BrainFlow takes an X of 0 for "no acceleration in this packet".
        tilt = math.radians(self.controller.drive.tilt + 1.0)
        self.eeg.write(self.board.packets(eeg, (math.sin(tilt), -0.01, math.cos(tilt))))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `epip-sim bci-platform` beside the common ones."""
    parser.add_argument("--eeg-port", type=Path, metavar="PATH", help="symbolic link to make for the EEG's port")
    parser.add_argument("--drive-port", type=Path, metavar="PATH", help="symbolic link to make for the drive's port")
    parser.add_argument(
        "--tcp",
        type=int,
        nargs=2,
        metavar=("EEGPORT", "DRIVEPORT"),
        help="TCP ports on 127.0.0.1 in place of pseudo-terminals; 0 takes a free one",
    )
    parser.add_argument(
        "--amplitudes", type=float, nargs=8, metavar="UV", help="test mode: a 10 Hz sine of each amplitude in uV"
    )


async def run(options: argparse.Namespace) -> None:
    """Simulate until cancelled; prints `ready eeg <port> drive <port>` once both ports are there. Raises OSError."""
    eeg: Port
    drive: Port
    if options.tcp:
        eeg, drive = TcpPort(options.tcp[0]), TcpPort(options.tcp[1])
    else:
        eeg, drive = PtyPort(options.eeg_port), PtyPort(options.drive_port)
    async with BciPlatformSimulator(eeg, drive, seed=options.seed, test_amplitudes_uv=options.amplitudes) as simulator:
        print(f"ready eeg {eeg.url} drive {drive.url}", flush=True)
        await simulator.wait()
