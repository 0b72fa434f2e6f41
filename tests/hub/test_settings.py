"""Whoever writes hub.toml learns in one line what is wrong, where, and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub.errors import SettingsInvalid
from hub.settings import load_settings, parse_settings

FILE = Path("hub.toml")


def test_an_empty_file_gives_a_hub_on_loopback(tmp_path: Path) -> None:
    settings = parse_settings("", tmp_path / "hub.toml")
    assert settings.http.host == "127.0.0.1"
    assert settings.data_folder == tmp_path / "hub-data"
    assert settings.database_file == tmp_path / "hub-data" / "hub.sqlite"
    assert settings.store_url == f"duckdb:///{tmp_path / 'hub-data' / 'telemetry.duckdb'}"


def test_paths_are_relative_to_the_file_not_to_where_the_hub_was_started(tmp_path: Path) -> None:
    text = 'data = "d"\nkit_models = "kits"\ndatabase = "sqlite:///other/hub.sqlite"\nstore = "duckdb:///t.duckdb"'
    settings = parse_settings(text, tmp_path / "hub.toml")
    assert settings.data_folder == tmp_path / "d"
    assert settings.kit_model_folder == tmp_path / "kits"
    assert settings.database_file == tmp_path / "other" / "hub.sqlite"
    assert settings.store_url == f"duckdb:///{tmp_path / 't.duckdb'}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("data =\n", "hub.toml: line 1, column 7: expected TOML: Invalid value"),
        ("[http", "hub.toml: end of file: expected TOML: Expected ']' at the end of a table declaration"),
        (
            "dat = 1",
            (
                "hub.toml: dat: expected no such key; known here: data, database, store, retention_days, http, broker, "
                "influx, kit_models"
            ),
        ),
        ("[http]\nprot = 1", "hub.toml: http.prot: expected no such key; known here: host, port"),
        ("[http]\nport = 70000", "hub.toml: http.port: input should be less than or equal to 65535, found 70000"),
        ("data = 5", "hub.toml: data: expected a path in quotes, found 5"),
        ("http = 3", "hub.toml: http: expected a section [http], found 3"),
        (
            'database = "mysql://x"',
            "hub.toml: database: expected sqlite:/// and the path of a file, found 'mysql://x'",
        ),
    ],
)
def test_a_fault_is_one_line_with_file_place_and_expected_value(text: str, line: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        parse_settings(text, FILE)
    assert str(caught.value) == line


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        parse_settings("data = 5\n[http]\nport = -1\n[broker]\nport = 0", FILE)
    assert [problem.place for problem in caught.value.problems] == ["data", "http.port", "broker.port"]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "hub.example", ""])  # noqa: S104
def test_the_hub_is_not_put_on_a_network_without_tls(host: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"http\.host: expected a loopback address .* no TLS"):
        parse_settings(f'[http]\nhost = "{host}"', FILE)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_any_loopback_address_will_do(host: str) -> None:
    assert parse_settings(f'[http]\nhost = "{host}"', FILE).http.host == host


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"none\.toml: document: expected a readable UTF-8 file: No such file"):
        load_settings(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'data = "\xff"')
    with pytest.raises(SettingsInvalid, match=r"latin\.toml: document: expected a readable UTF-8 file: not UTF-8"):
        load_settings(tmp_path / "latin.toml")


def test_a_store_on_influxdb_gets_its_credentials_from_files_beside_the_settings(tmp_path: Path) -> None:
    """Credentials in a URL end in logs, and a path relative to wherever the hub was started is found by nobody."""
    text = 'store = "influx+https://h/epip"\n[influx]\ntoken_file = "t"\norg = "lab"\n'
    found = parse_settings(text, tmp_path / "hub.toml")
    assert found.store_url == "influx+https://h/epip"
    assert found.store_options["token_file"] == (tmp_path / "t").resolve()
    assert found.store_options["data"] == found.data_folder
    assert parse_settings("", tmp_path / "hub.toml").store_options == {}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('store = "influx+http://me:hidden@h/epip"', "credentials, which go into [influx]"),
        ('store = "influx+http://h:8086"', "influx+http://HOST:PORT/DATABASE"),
        ('store = "influx+http://h/x"\n[influx]\nuser = "me"', "both or neither"),
        ('store = "influx+http://h/x"\n[influx]\nuser = "me"\npassword_file = "p"\ntoken_file = "t"', "not both"),
        ('[influx]\norg = "lab"', "no section [influx]"),
        ('store = "influx+http://h/x"\n[influx]\npassword = "hidden"', "influx.password: expected no such key"),
    ],
)
def test_what_cannot_serve_as_a_store_is_said_without_its_secrets(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        parse_settings(text, tmp_path / "hub.toml")
    assert fault in str(refused.value)
    assert "hidden" not in str(refused.value)
