"""An OPC UA server for measurements: N variables that all change at a rate. Run as a program; prints its endpoint.

The values are counters, so that a reader can tell a lost change; the source time is that of the write. Each change
comes up to half a period late, at random: in step with the reader's publishing interval, its wait for a publish would
be one and the same by chance.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import sys
import time
from datetime import UTC, datetime

from asyncua import Server, ua

from simulators.parent import until_parent_ends

NAMESPACE = "urn:epip:bench"


async def main(count: int, rate_hz: float) -> None:
    """Serve until cancelled."""
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    server = Server()
    await server.init()
    server.set_endpoint("opc.tcp://127.0.0.1:0/")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    index = await server.register_namespace(NAMESPACE)
    bench = await server.nodes.objects.add_object(index, "Bench")
    nodes = [await bench.add_variable(index, f"V{i}", 0.0) for i in range(count)]
    async with server:
        port = server.bserver._server.sockets[0].getsockname()[1]
        print(f"ready opc.tcp://127.0.0.1:{port}/", flush=True)
        period = 1 / rate_hz
        rng = random.Random(1)
        begin = time.monotonic()
        for number in itertools.count(1):
            due = begin + (number + rng.uniform(0, 0.5)) * period
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            variant = ua.Variant(float(number), ua.VariantType.Double)
            for node in nodes:
                # Each its own: with a subscriber asyncua needs some 100 us a write, 20 ms for all.
                now = datetime.now(UTC)
                value = ua.DataValue(variant, SourceTimestamp=now, ServerTimestamp=now)
                await server.write_attribute_value(node.nodeid, value)


if __name__ == "__main__":
    asyncio.run(until_parent_ends(main(int(sys.argv[1]), float(sys.argv[2]))))
