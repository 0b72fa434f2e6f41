"""First stage of the line: one file a protocol. This table is all that registers a protocol."""

from __future__ import annotations

from importlib import import_module

from edge_agent.source import Source

SOURCES = {
    "opcua": "edge_agent.sources.opcua:OpcuaSource",
    "mqtt": "edge_agent.sources.mqtt:MqttSource",
    "cyton": "edge_agent.sources.cyton:CytonSource",
    "kit_link": "edge_agent.sources.kit_link:KitLinkSource",
    "agent": "edge_agent.sources.agent:AgentSource",
}
"""Protocol to `module:class`. Names, not classes: an agent without OPC UA never pays for importing asyncua."""


def load_source(protocol: str) -> type[Source]:
    """The class that reads `protocol`, imported now. Raises KeyError where the table does not list the protocol."""
    module, _, name = SOURCES[protocol].partition(":")
    source: type[Source] = getattr(import_module(module), name)
    return source
