"""`epip-sim` as a program: it says when it is ready and where, and leaves with its parent."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from urllib.parse import urlsplit

import pytest

from simulators import cli

pytestmark = pytest.mark.real


async def started(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "simulators.cli", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ready(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        line = (await process.stdout.readline()).decode()
    assert line.startswith("ready "), line
    return line.removeprefix("ready ").strip()


async def test_plc_line_serves_and_leaves_with_its_parent() -> None:
    """A simulator left behind keeps the port, and the next demo does not start."""
    process = await started("plc-line", "--port", "0", "--exit-with-parent", "--fault", "air_low")
    where = urlsplit(await ready(process))
    _, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.close()
    assert process.stdin is not None
    process.stdin.close()
    async with asyncio.timeout(10):
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")


async def test_sigterm_ends_it_in_order() -> None:
    process = await started("plc-line", "--port", "0")
    await ready(process)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")


async def test_a_taken_port_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = await started("plc-line", "--port", str(taken.getsockname()[1]))
        try:
            async with asyncio.timeout(100):
                _, errors = await process.communicate()
        finally:
            # The port is free again in a moment: what has not ended by then would stay.
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 1
    assert errors.decode().startswith("epip-sim plc-line: ")
    assert errors.count(b"\n") == 1


@pytest.mark.parametrize("arguments", [[], ["coffee-machine"], ["plc-line", "--fault", "rust"]])
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "usage: epip-sim" in capsys.readouterr().err


@pytest.mark.parametrize("kit", cli.KITS)
def test_every_kit_tells_its_options(kit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([kit, "--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert "--seed" in told
    assert "--exit-with-parent" in told
