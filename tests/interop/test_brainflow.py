"""BrainFlow's own Cyton driver reads the simulator: what we take for the protocol is what others take for it too."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import brainflow
import numpy as np
import pytest
from brainflow.board_shim import BoardIds, BoardShim, BrainFlowInputParams, LogLevels
from numpy.typing import NDArray

from simulators.bci_platform import BciPlatformSimulator
from simulators.serial_port import PtyPort
from tests.bci_bench import until

AMPLITUDES = (50.0, 100.0, 150.0, 200.0, 250.0, 300.0, 350.0, 400.0)
SECONDS = 4
BOARD = BoardIds.CYTON_BOARD.value


@pytest.fixture(autouse=True)
def where_the_driver_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Python 3.12 BrainFlow finds its driver through pkg_resources, which setuptools no longer has."""
    stand_in = ModuleType("pkg_resources")
    stand_in.resource_filename = lambda _module, name: str(Path(brainflow.__file__).parent / name)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pkg_resources", stand_in)


@pytest.fixture
async def port() -> AsyncIterator[PtyPort]:
    made = PtyPort()
    async with BciPlatformSimulator(made, PtyPort(), test_amplitudes_uv=AMPLITUDES):
        yield made


class Reader:
    """BrainFlow's calls block; each runs on a thread while the simulator goes on."""

    def __init__(self, port: str) -> None:
        BoardShim.set_log_level(LogLevels.LEVEL_OFF.value)
        parameters = BrainFlowInputParams()
        parameters.serial_port = port
        self.shim = BoardShim(BOARD, parameters)

    async def __aenter__(self) -> BoardShim:
        await asyncio.to_thread(self.shim.prepare_session)
        return self.shim

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.shim.release_session)


async def stream(shim: BoardShim) -> NDArray[np.float64]:
    await asyncio.to_thread(shim.start_stream)
    await until(lambda: shim.get_board_data_count() >= 250 * SECONDS, 20)
    await asyncio.to_thread(shim.stop_stream)
    data: NDArray[np.float64] = shim.get_board_data()
    return data


async def test_brainflow_reads_250_hz_without_gaps_and_the_amplitudes_that_were_set(port: PtyPort) -> None:
    async with Reader(port.url) as shim:
        answer = await asyncio.to_thread(shim.config_board, "x1060110X")
        assert answer == "Success: Channel set for 1$$$"
        data = await stream(shim)
    numbers = data[BoardShim.get_package_num_channel(BOARD)].astype(int)
    assert set(np.diff(numbers) % 256) == {1}
    stamps = data[BoardShim.get_timestamp_channel(BOARD)]
    rate = (len(stamps) - 1) / (stamps[-1] - stamps[0])
    assert rate == pytest.approx(250, rel=0.02)
    eeg = data[BoardShim.get_eeg_channels(BOARD)]
    # Whole periods of the 10 Hz sine: its amplitude is exact in the spectrum.
    whole = eeg[:, : 25 * (eeg.shape[1] // 25)]
    amplitudes = 2 * np.abs(np.fft.rfft(whole, axis=1)[:, whole.shape[1] // 25]) / whole.shape[1]
    assert amplitudes == pytest.approx(AMPLITUDES, rel=1e-3)
    accel = data[BoardShim.get_accel_channels(BOARD)]
    assert np.linalg.norm(accel[:, -1]) == pytest.approx(1, abs=0.02)


async def test_brainflow_follows_a_gain_that_was_changed(port: PtyPort) -> None:
    async with Reader(port.url) as shim:
        assert "Success" in await asyncio.to_thread(shim.config_board, "x2020110X")
        data = await stream(shim)
    eeg = data[BoardShim.get_eeg_channels(BOARD)]
    assert np.ptp(eeg[:2], axis=1) / 2 == pytest.approx(AMPLITUDES[:2], rel=0.01)
