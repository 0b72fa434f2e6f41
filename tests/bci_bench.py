"""What the tests of the BCI platform share: a source's context from the kit model, and waiting for a condition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edge_agent.clock import Clock, SystemClock
from edge_agent.source import BoundChannel, Source, SourceContext
from lab_contract.kit import KitModel, find_kit_model
from simulators.bci_platform import BciPlatformSimulator


def model() -> KitModel:
    return find_kit_model("bci_platform", Path())


def context(source: type[Source], connection: str, clock: Clock | None = None, **settings: Any) -> SourceContext:
    """As the edge makes it of the kit model and `settings` of one unit."""
    kit = model()
    link = kit.connection_by_id[connection]
    bound = (
        BoundChannel(channel, source.Address.model_validate(channel.address))
        for channel in kit.channels
        if channel.connection == connection
    )
    return SourceContext(
        kit="bci-1",
        model=kit,
        connection=link,
        settings=source.Settings.model_validate({**link.settings, **settings}),
        channels=tuple(bound),
        streams=tuple(stream for stream in kit.streams if stream.connection == connection),
        clock=clock or SystemClock(),
        base=Path(),
        agent=SimpleNamespace(),
    )


async def until(true: Callable[[], bool], within_s: float = 10.0) -> None:
    """Waits until the condition holds. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110 - the condition is not ours to signal
            await asyncio.sleep(0.005)


def starved(simulator: BciPlatformSimulator) -> bool:
    """Whether the machine was so busy that the simulator itself could not send everything."""
    return bool(simulator.late_samples or simulator.eeg.dropped_bytes or simulator.drive.dropped_bytes)
