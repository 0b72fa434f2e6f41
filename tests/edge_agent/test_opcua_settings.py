"""`epip-edge check` finds a mistyped address or setting of an OPC UA link before any PLC is asked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_agent.opcua_tags import OpcuaAddress, queue_size
from edge_agent.sources.opcua import OpcuaSettings


@pytest.mark.parametrize("node", ["ns=2;s=Line.State", "", "Line..State", ".State", "Line."])
def test_an_address_that_cannot_be_one_is_refused(node: str) -> None:
    """`epip-edge check` finds it without the PLC; a namespace index is one of them, as it changes at a restart."""
    with pytest.raises(ValidationError, match="expected"):
        OpcuaAddress(node=node)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"endpoint": "http://127.0.0.1/"}, "pattern"),
        ({"endpoint": "opc.tcp://user:secret@127.0.0.1/"}, "pattern"),
        ({"user": "edge", "password_file": "p"}, "the password would travel readable"),
        ({"mode": "Sign"}, "expected policy Basic256Sha256 with mode"),
        ({"policy": "Basic256Sha256", "certificate": "c", "private_key": "k"}, "expected server_certificate"),
        ({"auto_reconnect": True}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OpcuaSettings.model_validate({"endpoint": "opc.tcp://127.0.0.1:4840/", "namespace": "urn:a"} | settings)


@given(st.floats(10, 5000), st.floats(0.5, 60_000))
def test_the_queue_in_the_server_holds_two_publishing_intervals_at_least(publishing: float, sampling: float) -> None:
    """A shorter one loses values at every publish, and most servers do not even say so."""
    size = queue_size(publishing, sampling)
    assert size >= 2 * publishing / sampling
    assert size >= 10
