"""`epip-sim plc-line | robot-cell | bci-platform`: one simulated kit as a program, which says `ready <endpoint>`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from simulators.parent import until_parent_ends

KITS = {
    "plc-line": ("simulators.plc_line", "a PLC line as an OPC UA server"),
    "robot-cell": ("simulators.robot_cell", "a six-axis robot cell over MQTT"),
    "bci-platform": ("simulators.bci_platform", "a brain-computer platform over serial"),
}
"""Kit to its module, which has `add_arguments(parser)` and `async run(options)`, and its help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one kit until Ctrl-C, SIGTERM or, with `--exit-with-parent`, the end of standard input."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    top = argparse.ArgumentParser(prog="epip-sim", description="Simulated training kits.")
    kits = top.add_subparsers(dest="kit", required=True, metavar="KIT")
    for name, (module, text) in KITS.items():
        parser = kits.add_parser(
            name, help=text, description=f"Simulates {text}; prints `ready <endpoint>` when ready."
        )
        parser.add_argument("--seed", type=int, default=0, help="same seed, same behaviour (default: 0)")
        parser.add_argument("--exit-with-parent", action="store_true", help="leave when standard input ends")
        if name in arguments[:1]:
            # Only the kit that runs is imported: who simulates a robot needs no OPC UA.
            import_module(module).add_arguments(parser)
    options = top.parse_args(arguments)
    try:
        asyncio.run(_run(options))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 0
    except (OSError, ValueError) as error:
        print(f"epip-sim {options.kit}: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(options: argparse.Namespace) -> None:
    work = import_module(KITS[options.kit][0]).run(options)
    task = asyncio.current_task()
    if task is not None:
        # Windows has no such handler; there the parent closes standard input.
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await (until_parent_ends(work) if options.exit_with_parent else work)


if __name__ == "__main__":
    sys.exit(main())
