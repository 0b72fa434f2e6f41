"""What a technician loses where these fail: the one line that says which file, which place and what belongs there."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import SettingsInvalid
from edge_agent.settings import EdgeSettings, load_settings
from edge_agent.source import Source
from tests.edge_agent.support import ReplayAddress, ReplaySettings, ReplaySource
from tests.small_kit import MODEL

GOOD = """\
edge = "tashkent-1"

[hub]
url = "mqtt://127.0.0.1:1883"
user = "edge-tashkent-1"
password_file = "edge.password"

[[kits]]
id = "kit-1"
model = "kit.yaml"

[kits.connections.plc]
port = "COM3"

[kits.connections.amp]
port = "COM4"
rate = 9

[kits.addresses]
"line.state" = { item = "State" }
"""
SECRET = "correct horse battery staple"


def kit_model() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(MODEL)
    for connection in document["connections"]:
        connection["settings"] = {"rate": 2}
    for channel in document["channels"]:
        channel["address"] = {"item": channel["id"]}
    return document


def load_replay(_protocol: str) -> type[Source]:
    return ReplaySource


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "kit.yaml").write_text(yaml.safe_dump(kit_model(), allow_unicode=True), "utf-8")
    (tmp_path / "edge.password").write_text(SECRET + "\n")
    (tmp_path / "edge.password").chmod(0o600)
    return tmp_path


def load(folder: Path, text: str = GOOD) -> EdgeSettings:
    (folder / "edge.toml").write_text(text, "utf-8")
    return load_settings(folder / "edge.toml", load_replay)


def faults(folder: Path, text: str = GOOD) -> list[str]:
    """The lines that a person reads, the folder left out."""
    with pytest.raises(SettingsInvalid) as raised:
        load(folder, text)
    assert SECRET not in str(raised.value)
    return str(raised.value).replace(f"{folder}{os.sep}", "").splitlines()


def test_kit_model_and_settings_are_merged_and_every_channel_is_bound(folder: Path) -> None:
    settings = load(folder)
    assert (settings.edge, settings.data, settings.batch_ms) == ("tashkent-1", folder / "edge-data", 250)
    assert settings.password == SECRET
    assert settings.warnings == ()
    (kit,) = settings.kits
    plc, amp = kit.sources
    assert plc.settings == ReplaySettings(port="COM3", rate=2)
    assert amp.settings == ReplaySettings(port="COM4", rate=9)
    assert [stream.id for stream in amp.streams] == ["eeg"]
    assert [bound.channel.id for bound in amp.channels] == ["eeg.a", "eeg.b"]
    addresses = {bound.channel.id: bound.address for bound in plc.channels}
    assert addresses["line.state"] == ReplayAddress(item="State")
    assert addresses["line.good"] == ReplayAddress(item="line.good")


def test_no_secret_can_be_printed_by_accident(folder: Path) -> None:
    assert SECRET not in repr(load(folder))


PLC = '[kits.connections.plc]\nport = "COM3"\n'
FAULTS: list[tuple[str, str, str, str]] = [
    ("a bracket left open", "[hub]\n", "[hub\n", "line 3, column 5: expected TOML: expected ']' at the end"),
    ("a key twice", 'edge = "tashkent-1"', 'edge = "a"\nedge = "b"', "line 2, column 11: expected TOML: "),
    ("the file ends in a text", '{ item = "State" }', '{ item = "Sta', "line 20, column 29: expected TOML: "),
    ("no edge id", 'edge = "tashkent-1"\n', "", "edge: expected this key, it is missing"),
    ("an edge id with capitals", '"tashkent-1"', '"Tashkent 1"', "edge: string should match pattern "),
    ("a key that does not exist", "[hub]\n", "[hub]\nport = 1\n", "hub.port: expected no such key"),
    ("a password in the settings", "[hub]\n", f'[hub]\npassword = "{SECRET}"\n', "hub.password: expected no "),
    ("no broker", "mqtt://127.0.0.1:1883", "127.0.0.1", "hub.url: expected mqtt://host:port or mqtts://host"),
    (
        "a password in the address",
        "mqtt://",
        f"mqtt://me:{SECRET.replace(' ', '')}@",
        "hub.url: expected mqtt://host:port without a name or password in it",
    ),
    ("no user", 'user = "edge-tashkent-1"\n', "", "hub: expected user together with password_file or "),
    ("no password", 'password_file = "edge.password"\n', "", "hub: expected user together with password_file"),
    ("no password file", '"edge.password"', '"other"', "hub.password_file: expected a readable file, found '"),
    (
        "a variable that is not set",
        'password_file = "edge.password"',
        'password_env = "EPIP_NOT_SET"',
        "hub.password_env: expected the environment variable EPIP_NOT_SET set",
    ),
    (
        "two passwords",
        "[hub]\n",
        '[hub]\npassword_env = "HOME"\n',
        "hub.password_file: expected one of password_file and password_env, found both",
    ),
    ("no certificate", "[hub]\n", '[hub]\nca_file = "ca.pem"\n', "hub.ca_file: expected a readable file, "),
    ("no kit", GOOD[GOOD.index("[[kits]]") :], "", "kits: expected this key, it is missing"),
    ("no such model", '"kit.yaml"', '"plc_lime"', "kits[0].model: expected one of "),
    ("no such model file", '"kit.yaml"', '"other.yaml"', "kits[0].model: expected a readable UTF-8 file: "),
    ("a setting missing", 'port = "COM3"\n', "", "kits[0].connections.plc.port: expected this key, it is"),
    ("no connection at all", PLC, "", "kits[0].connections.plc.port: expected this key, it is missing"),
    (
        "a wrong setting",
        "rate = 9",
        'rate = "fast"',
        "kits[0].connections.amp.rate: input should be a valid integer, unable to parse string as an integer",
    ),
    ("an unknown setting", "rate = 9", "baud = 9", "kits[0].connections.amp.baud: expected no such key"),
    (
        "an unknown connection",
        "connections.amp",
        "connections.apm",
        "kits[0].connections.apm: expected a connection of test_kit: plc, amp",
    ),
    (
        "a source's password file",
        "rate = 9",
        'password_file = "other"',
        "kits[0].connections.amp.password_file: expected a readable file, found 'other': No such file",
    ),
    (
        "an unknown channel",
        '"line.state"',
        '"line.stat"',
        "kits[0].addresses.\"line.stat\": expected a channel of test_kit, it has no 'line.stat'",
    ),
    ("an unknown address key", "item =", "node =", 'kits[0].addresses."line.state".node: expected no such key'),
    ("a wrong address", '"State"', "7", 'kits[0].addresses."line.state".item: input should be a valid string'),
    ("a batch time of nothing", "[hub]\n", "batch_ms = 1\n[hub]\n", "batch_ms: input should be greater than "),
]


@pytest.mark.parametrize(("old", "new", "line"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_each_fault_gives_its_line(folder: Path, old: str, new: str, line: str) -> None:
    assert old in GOOD
    assert any(found.startswith(f"edge.toml: {line}") for found in faults(folder, GOOD.replace(old, new, 1)))


def test_a_fault_gives_one_line_only(folder: Path) -> None:
    for _, old, new, line in FAULTS:
        if "apm" not in line:  # the connection that it should have been is then not given
            assert len(faults(folder, GOOD.replace(old, new, 1))) == 1


def test_all_faults_of_the_kits_come_together(folder: Path) -> None:
    text = GOOD.replace('port = "COM3"\n', "").replace('"line.state"', '"line.stat"') + GOOD[GOOD.index("[[kits]]") :]
    assert faults(folder, text) == [
        "edge.toml: kits[1].id: expected each kit id once, found 'kit-1' again",
        "edge.toml: kits[0].addresses.\"line.stat\": expected a channel of test_kit, it has no 'line.stat'",
        "edge.toml: kits[0].connections.plc.port: expected this key, it is missing",
    ]


def change_connection(document: dict[str, Any]) -> None:
    document["connections"][1]["settings"]["rate"] = "fast"
    document["connections"][0]["settings"]["speed"] = 1


def change_address(document: dict[str, Any]) -> None:
    document["channels"][2]["address"] = {"item": 7}


def change_protocol(document: dict[str, Any]) -> None:
    document["connections"][0]["protocol"] = "telepathy"


def change_form(document: dict[str, Any]) -> None:
    del document["channels"][0]["label"]["zh"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (change_connection, "kit.yaml: connections[0].settings.speed: expected no such key"),
        (change_address, "kit.yaml: channels[2].address.item: input should be a valid string, found 7"),
        (
            change_protocol,
            "kit.yaml: connections[0].protocol: expected one of agent, cyton, kit_link, mqtt, opcua, found 'telepathy'",
        ),
        (change_form, "kit.yaml: channels[0].label.zh: expected this key, it is missing"),
    ],
    ids=["connection", "address", "protocol", "form"],
)
def test_a_fault_in_the_kit_model_names_the_kit_model(
    folder: Path, change: Callable[[dict[str, Any]], None], line: str
) -> None:
    document = kit_model()
    change(document)
    (folder / "kit.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), "utf-8")
    assert faults(folder) == [line]


def test_broken_yaml_is_named_with_its_line(folder: Path) -> None:
    (folder / "kit.yaml").write_text("schema: kit-model/1\nid: [a\n", "utf-8")
    (line,) = faults(folder)
    assert line.startswith("kit.yaml: line 3, column 1: expected YAML: ")


def test_a_missing_or_unreadable_settings_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="expected a readable UTF-8 file"):
        load_settings(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"edge = '\xff'")
    with pytest.raises(SettingsInvalid, match="expected a readable UTF-8 file"):
        load_settings(tmp_path / "bad.toml")


@pytest.mark.parametrize("content", ["", "\n", "two\nlines\n"])
def test_a_password_file_holds_one_line(folder: Path, content: str) -> None:
    (folder / "edge.password").write_text(content)
    (line,) = faults(folder)
    assert line.startswith("edge.toml: hub.password_file: expected one line with the password in ")


def test_a_password_may_come_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPIP_EDGE_PASSWORD", SECRET)
    text = GOOD.replace('password_file = "edge.password"', 'password_env = "EPIP_EDGE_PASSWORD"')
    assert load(folder, text).password == SECRET


def test_a_password_file_that_others_may_read_is_said(folder: Path) -> None:
    (folder / "edge.password").chmod(0o644)
    (warning,) = load(folder).warnings
    assert "hub.password_file: warning: " in warning
    assert SECRET not in warning


def test_a_protocol_whose_library_is_not_installed_says_what_to_install(folder: Path) -> None:
    def without(_protocol: str) -> type[Source]:
        raise ModuleNotFoundError("No module named 'asyncua'", name="asyncua")

    (folder / "edge.toml").write_text(GOOD)
    with pytest.raises(SettingsInvalid) as raised:
        load_settings(folder / "edge.toml", without)
    assert "kits[0].connections.plc: expected the extra [edge] installed, 'asyncua' is missing" in str(raised.value)


def test_nothing_of_this_touches_the_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load(folder)


@given(text=st.text(max_size=200))
def test_no_text_whatever_is_answered_with_anything_but_lines(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, "utf-8", newline="")
    with pytest.raises(SettingsInvalid) as raised:
        load_settings(path)
    assert all(line.startswith(str(path)) for line in str(raised.value).split("\n"))
