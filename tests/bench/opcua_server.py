"""An OPC UA server for measurements: N variables that all change at a rate. Run as a program; prints its endpoint.

The values are counters, so that a reader can tell a lost change; the source time is that of the write.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from datetime import UTC, datetime

from asyncua import Server, ua

NAMESPACE = "urn:epip:bench"


async def main(count: int, rate_hz: float) -> None:
    """Serve until killed."""
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
        due = time.monotonic()
        number = 0.0
        while True:
            number += 1
            now = datetime.now(UTC)
            value = ua.DataValue(ua.Variant(number, ua.VariantType.Double), SourceTimestamp=now, ServerTimestamp=now)
            for node in nodes:
                await server.write_attribute_value(node.nodeid, value)
            due += period
            await asyncio.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
