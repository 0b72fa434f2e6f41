"""`epip-hub check` finds what would stop the hub, without network and without changing anything; and the other verbs
of the command line, in which a password never appears among the arguments."""

from __future__ import annotations

import io
import os
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from hub.catalog.kit_models import load_kit_models
from hub.cli import main
from hub.migrations import newest
from lab_contract.kit import KitModel
from tests.small_kit import MODEL

SMALL = MODEL


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the command line touched the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    file = tmp_path / "hub.toml"
    file.write_text('kit_models = "kits"\n')
    (tmp_path / "kits").mkdir()
    return file


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(settings_file: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        count = 1 if words[0] == "check" else 2
        code = main([*words[:count], str(settings_file), *words[count:]])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_good_settings_pass_and_nothing_is_made(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("check")
    assert (code, out) == (0, f"{tmp_path / 'hub.toml'}: no faults\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub.toml", "kits"]


def test_faults_of_several_kit_models_are_told_with_file_and_place(run: Run, tmp_path: Path) -> None:
    (tmp_path / "kits" / "a.yaml").write_text("schema: kit-model/1\nid: [\n")
    (tmp_path / "kits" / "b.yaml").write_text(SMALL.replace("kind: enum", "kind: number"), "utf-8")
    (tmp_path / "kits" / "c.yaml").write_text(SMALL.replace("id: test_kit", "id: plc_line"), "utf-8")
    code, out, _ = run("check")
    assert code == 1
    lines = out.splitlines()
    assert any(line.startswith(f"{tmp_path / 'kits' / 'a.yaml'}: line ") for line in lines)
    assert any(line.startswith(f"{tmp_path / 'kits' / 'b.yaml'}: channels[0].kind: ") for line in lines)
    assert f"{tmp_path / 'kits' / 'c.yaml'}: id: expected an id that no other kit model has, found 'plc_line'" in lines


def test_a_folder_that_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "kits").rmdir()
    code, out, _ = run("check")
    assert (code, out) == (1, f"{tmp_path / 'kits'}: kit_models: expected a folder with kit models\n")


def test_a_data_folder_that_cannot_be_written_is_found(run: Run, settings_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings_file.write_text('data = "file/data"\n')
    code, out, _ = run("check")
    assert code == 1
    assert f"{settings_file}: data: expected a folder, found the file {tmp_path / 'file'}" in out


def test_a_file_that_is_no_database_is_found(run: Run, tmp_path: Path) -> None:
    (tmp_path / "hub-data").mkdir()
    (tmp_path / "hub-data" / "hub.sqlite").write_text("this is a letter to my mother, not a database" * 40)
    code, out, _ = run("check")
    assert code == 1
    assert "hub.sqlite: file is not a database" in out


def test_a_database_of_a_later_version_is_not_touched(run: Run, tmp_path: Path) -> None:
    assert run("workshop", "add", "tas", "--name", *"abc", "--city", *"abc", "--zone", "Asia/Tashkent")[0] == 0
    file = tmp_path / "hub-data" / "hub.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = file.read_bytes()
    code, out, _ = run("check")
    assert code == 1
    assert f"hub.sqlite: expected a database of version {newest()} or earlier, found 9999" in out
    assert file.read_bytes() == before


def add_kit(run: Run, model: str) -> tuple[int, str, str]:
    run("workshop", "add", "tas", "--name", *"abc", "--city", *"abc", "--zone", "Asia/Tashkent")
    run("edge", "add", "tas-1", "--workshop", "tas")
    return run("kit", "add", "kit-1", "--workshop", "tas", "--edge", "tas-1", "--model", model)


def test_a_kit_whose_kit_model_is_gone_is_found(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "kits" / "small.yaml"
    file.write_text(SMALL, "utf-8")
    assert add_kit(run, "test_kit")[0] == 0
    assert run("check")[0] == 0
    file.unlink()
    code, out, _ = run("check")
    known: dict[str, KitModel] = load_kit_models(None)
    assert code == 1
    assert f"catalog: kit kit-1: model: expected one of {', '.join(sorted(known))}, found 'test_kit'" in out


def test_a_kit_of_an_unknown_kit_model_is_not_added(run: Run) -> None:
    code, _, err = add_kit(run, "toaster")
    assert code == 1
    assert "There is no such kit model; known are bci_platform, plc_line, robot_cell." in err


def test_a_broken_settings_file_is_one_line_without_a_traceback(run: Run, settings_file: Path) -> None:
    settings_file.write_text("[http\n")
    code, out, _ = run("check")
    assert code == 1
    assert out.startswith(f"{settings_file}: line 1, column 6: expected TOML:")
    code, _, err = run("user", "list")
    assert code == 1
    assert err.startswith(f"{settings_file}: line 1, column 6: expected TOML:")
    assert "Traceback" not in err


def test_a_random_password_is_printed_once_and_alone(run: Run, tmp_path: Path) -> None:
    code, out, err = run("user", "add", "aziza", "--role", "instructor", "--zone", "Asia/Tashkent")
    assert (code, err) == (0, "")
    password = out.strip()
    assert len(password) == 17
    kept = b"".join(file.read_bytes() for file in (tmp_path / "hub-data").iterdir())
    assert password.encode() not in kept
    code, out, _ = run("user", "list")
    assert out == "aziza\tinstructor\taziza\ten\tAsia/Tashkent\tpassword: issued\n"


def test_a_password_of_ones_own_comes_from_stdin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse battery\n"))
    assert run("user", "add", "trainee-7", "--role", "trainee", "--password-stdin") == (0, "", "")
    assert "password: own" in run("user", "list")[1]


def test_no_option_takes_a_password_as_an_argument(run: Run) -> None:
    with pytest.raises(SystemExit):
        run("user", "add", "trainee-7", "--role", "trainee", "--password", "correct horse battery")


def test_a_weak_password_is_refused_with_its_rule(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    assert run("user", "add", "trainee-7", "--role", "trainee", "--password-stdin") == (
        1,
        "",
        "A password has at least 10 characters.\n",
    )


@pytest.mark.parametrize("zone", ["Tashkent", "UTC+5", "../../etc/passwd", "Asia", "", "x" * 5000])
def test_a_zone_that_is_none_is_refused(run: Run, zone: str) -> None:
    code, _, err = run("workshop", "add", "tas", "--name", *"abc", "--city", *"abc", "--zone", zone)
    assert code == 1
    assert "IANA name" in err


def test_edge_passwords_are_printed_once_and_renewed(run: Run) -> None:
    run("workshop", "add", "tas", "--name", *"abc", "--city", *"abc", "--zone", "Asia/Tashkent")
    _, first, _ = run("edge", "add", "tas-1", "--workshop", "tas", "--password-only")
    _, second, _ = run("edge", "renew", "tas-1", "--password-only")
    assert len(first.strip()) == len(second.strip()) == 32
    assert first != second
    code, _, err = run("edge", "add", "tas-1", "--workshop", "tas")
    assert (code, err) == (1, "The id tas-1 is taken.\n")


def test_what_the_hub_keeps_is_for_its_owner_alone(run: Run, tmp_path: Path) -> None:
    """In there are password hashes and people's names."""
    run("user", "list")
    private = 0o777 if os.name == "nt" else 0o700
    assert (tmp_path / "hub-data").stat().st_mode & 0o777 & ~private == 0
    assert (tmp_path / "hub-data" / "hub.sqlite").stat().st_mode & 0o777 & ~private == 0
