"""`epip-hub check --store`: says what stands where the settings say the store is, and makes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.cli import main
from hub.store import open_store
from tests.influx import Influx, fresh_database, influxd


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx]:
    with influxd(tmp_path_factory.mktemp("influx"), auth=True) as running:
        running.ask("CREATE USER \"root\" WITH PASSWORD 'root-pw' WITH ALL PRIVILEGES")
        yield running


def checked(folder: Path, text: str, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[str]]:
    file = folder / "hub.toml"
    file.write_text(text)
    code = main(["check", *options, str(file)])
    return code, capsys.readouterr().out.splitlines()


def influx(server: Influx, database: str, password: str, folder: Path, user: str = "root") -> str:
    (folder / "pw").write_text(password)
    return f'store = "influx+{server.url}/{database}"\n[influx]\nuser = "{user}"\npassword_file = "pw"\n'


@pytest.mark.real
def test_what_is_found_of_a_server(server: Influx, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who sets the hub up must know before the first lesson whether the server will take what the lesson brings."""
    database = fresh_database()
    text = influx(server, database, "root-pw", tmp_path)
    code, lines = checked(tmp_path, text, capsys, "--store")
    assert code == 0
    assert lines[0].startswith("store: InfluxDB 1.")
    assert "detail: the database is missing; the hub makes it where that is allowed" in lines
    assert database not in str(server.ask("SHOW DATABASES", u="root", p="root-pw"))
    server.ask(f'CREATE DATABASE "{database}" WITH DURATION 30d', u="root", p="root-pw")
    code, lines = checked(tmp_path, text, capsys, "--store")
    assert (code, lines[1:4]) == (
        0,
        [
            f"writes to: {server.url}/write, database {database}",
            "permissions: read and write",
            "retention: autogen: 720h0m0s",
        ],
    )


@pytest.mark.real
def test_what_is_wrong_with_a_server(server: Influx, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = fresh_database()
    server.ask(f'CREATE DATABASE "{database}"', u="root", p="root-pw")
    code, lines = checked(tmp_path, influx(server, database, "not-it", tmp_path), capsys, "--store")
    assert code == 1
    assert "look at [influx] user and password_file" in lines[-1] or "found none" in lines[-1]
    assert "not-it" not in "".join(lines)
    server.ask("CREATE USER \"guest\" WITH PASSWORD 'seen'", u="root", p="root-pw")
    server.ask(f'GRANT READ ON "{database}" TO "guest"', u="root", p="root-pw")
    code, lines = checked(tmp_path, influx(server, database, "seen", tmp_path, "guest"), capsys, "--store")
    assert (code, lines[-1]) == (
        1,
        f"{tmp_path / 'hub.toml'}: store: expected to be allowed to read and write, found read",
    )


def test_without_the_option_no_server_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check is run on machines without a network, too."""
    text = 'store = "influx+http://127.0.0.1:9/epip"\n'
    assert checked(tmp_path, text, capsys)[0] == 0
    code, lines = checked(tmp_path, text, capsys, "--store")
    assert code == 1
    assert "does not answer" in lines[-1]


def test_a_file_of_credentials_that_is_not_there_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'store = "influx+http://127.0.0.1:9/epip"\n[influx]\ntoken_file = "none"\n'
    code, lines = checked(tmp_path, text, capsys)
    assert code == 1
    assert "influx.token_file: expected a file that can be read" in lines[0]
    (tmp_path / "none").write_text("\n")
    assert "found nothing" in checked(tmp_path, text, capsys)[1][0]


def test_the_embedded_store_is_looked_at_beside_a_running_hub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = checked(tmp_path, "", capsys, "--store")
    assert code == 0
    assert lines[0].startswith("store: DuckDB 2.")
    assert "detail: is made at the first start" in lines
    file = tmp_path / "hub-data" / "telemetry.duckdb"
    assert not file.exists()
    store = open_store(f"duckdb:///{file}")
    store.close()
    code, lines = checked(tmp_path, "", capsys, "--store")
    assert code == 0
    assert any(line.endswith(" bytes") for line in lines)
