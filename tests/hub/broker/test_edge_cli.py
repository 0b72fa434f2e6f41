"""`epip-hub edge` and `epip-hub equipment` on the command line: what is printed works as it stands, and holds no secret
where it must not."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.settings import load_settings as load_edge_settings
from hub.cli import main
from hub.settings import load_settings
from tests.brokers import Broker, mosquitto_with_plugin
from tests.certificates import Authority
from tests.hub.broker.rigs import ADMIN

Run = Callable[..., tuple[int, str, str]]
PLC = '\n[kits.connections.plc]\nendpoint = "opc.tcp://127.0.0.1:4840/"\n'


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    file = tmp_path / "hub.toml"
    if not file.exists():
        file.touch()

    def call(group: str, command: str, *words: str) -> tuple[int, str, str]:
        code = main([group, command, str(file), *words])
        out, err = capsys.readouterr()
        return code, out, err

    assert call("workshop", "add", "tas", "--name", *"abc", "--city", *"abc", "--zone", "Asia/Tashkent")[0] == 0
    return call


def password_in(said: str) -> str:
    """The password at the end of what is told beside the settings."""
    assert said.count("\n") == 1
    return said.split()[-1]


def test_an_edge_starts_with_the_settings_as_printed(run: Run, tmp_path: Path) -> None:
    """A technician who types them off makes mistakes that show as an edge that is never heard."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("hub", "hub.example", "192.0.2.7")
    listens = f'host = "0.0.0.0"\nport = 8883\ncertificate_file = "{certificate.name}"\nkey_file = "{key.name}"\n'
    (tmp_path / "hub.toml").write_text(f"[broker]\n{listens}")
    code, out, err = run("edge", "add", "tas-1", "--workshop", "tas")
    assert code == 0
    password = password_in(err)
    assert len(password) == 32
    assert password not in out
    written = tomllib.loads(out)
    assert written == {
        "edge": "tas-1",
        "hub": {
            "url": "mqtts://hub.example:8883",
            "user": "edge-tas-1",
            "password_file": "edge.password",
            "ca_file": "hub-ca.pem",
        },
    }
    run("kit", "add", "tas-plc-1", "--workshop", "tas", "--edge", "tas-1", "--model", "plc_line")
    _, out, err = run("edge", "renew", "tas-1")
    assert password_in(err) != password
    folder = tmp_path / "edge"
    folder.mkdir()
    (folder / "edge.toml").write_text(out + PLC)
    (folder / "edge.password").write_text(password_in(err))
    (folder / "edge.password").chmod(0o600)
    (folder / "hub-ca.pem").write_bytes(authority.file.read_bytes())
    edge = load_edge_settings(folder / "edge.toml")
    assert [kit.id for kit in edge.kits] == ["tas-plc-1"]
    assert edge.password == password_in(err)
    assert edge.warnings == ()


def test_on_one_machine_no_authority_is_asked_for(run: Run) -> None:
    _, out, _ = run("edge", "add", "tas-1", "--workshop", "tas")
    assert tomllib.loads(out)["hub"] == {
        "url": "mqtt://127.0.0.1:1883",
        "user": "edge-tas-1",
        "password_file": "edge.password",
    }


def test_the_address_that_edges_use_may_be_another_than_the_listener(run: Run, tmp_path: Path) -> None:
    """Behind a router the hub does not know its own address."""
    certificate, key = Authority(tmp_path).issue("hub", "hub.example")
    files = f'certificate_file = "{certificate.name}"\nkey_file = "{key.name}"\n'
    (tmp_path / "hub.toml").write_text(f'[broker]\n{files}edge_url = "mqtts://lab.example:443"\n')
    _, out, _ = run("edge", "add", "tas-1", "--workshop", "tas")
    assert tomllib.loads(out)["hub"]["url"] == "mqtts://lab.example:443"


def test_a_certificate_that_cannot_be_used_makes_no_edge(run: Run, tmp_path: Path) -> None:
    """Otherwise the id is taken and its password lost."""
    files = 'certificate_file = "none.pem"\nkey_file = "none.key"\n'
    (tmp_path / "hub.toml").write_text(f'[broker]\nhost = "0.0.0.0"\n{files}')
    code, out, err = run("edge", "add", "tas-1", "--workshop", "tas")
    assert (code, out) == (1, "")
    assert err == "broker.certificate_file: expected readable files: No such file or directory\n"
    assert run("edge", "list") == (0, "", "")


def test_every_edge_is_listed_with_its_state_and_kits(run: Run) -> None:
    for edge in ("tas-1", "tas-2"):
        run("edge", "add", edge, "--workshop", "tas", "--password-only")
    run("kit", "add", "tas-plc-1", "--workshop", "tas", "--edge", "tas-1", "--model", "plc_line")
    assert run("edge", "revoke", "tas-2") == (0, "", "")
    code, out, _ = run("edge", "list")
    first, second = out.splitlines()
    assert (code, first) == (0, "tas-1\ttas\tactive\ttas-plc-1")
    assert second.startswith("tas-2\ttas\trevoked 20")
    assert second.endswith(" UTC\t")
    run("edge", "renew", "tas-2", "--password-only")
    assert run("edge", "list")[1].splitlines()[1] == "tas-2\ttas\tactive\t"


def test_an_edge_that_is_not_there_is_said(run: Run) -> None:
    for command in ("revoke", "renew"):
        assert run("edge", command, "tas-9") == (1, "", "There is no edge tas-9.\n")


def test_equipment_gets_a_new_password(run: Run) -> None:
    _, first, _ = run("equipment", "add", "robot-1", "--workshop", "tas")
    _, second, _ = run("equipment", "renew", "robot-1")
    assert len(first.strip()) == len(second.strip()) == 32
    assert first != second


def write_settings(folder: Path, server: Broker, password: str) -> None:
    (folder / "admin.password").write_text(password)
    (folder / "hub.toml").write_text(
        f'[broker]\nkind = "mosquitto"\nurl = "{server.url}"\nuser = "{ADMIN}"\npassword_file = "admin.password"\n'
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Broker]:
    with mosquitto_with_plugin(tmp_path, admin="the administrator's") as server:
        write_settings(tmp_path, server, "the administrator's")
        yield server


@pytest.mark.real
def test_an_edge_gets_in_at_a_mosquitto_as_soon_as_it_is_added(server: Broker, run: Run, tmp_path: Path) -> None:
    """Such a broker wants the password itself, which is there only while the command runs."""
    from tests.hub.broker.test_mosquitto import signs_in

    code, out, err = run("edge", "add", "tas-1", "--workshop", "tas")
    assert code == 0
    assert tomllib.loads(out)["hub"]["url"] == server.url
    first = password_in(err)
    assert signs_in(server.url, "edge-tas-1", first)
    assert not signs_in(server.url, "edge-tas-1", "another")
    _, second, _ = run("edge", "renew", "tas-1", "--password-only")
    assert not signs_in(server.url, "edge-tas-1", first)
    assert signs_in(server.url, "edge-tas-1", second.strip())
    _, robot, _ = run("equipment", "add", "robot-1", "--workshop", "tas")
    assert signs_in(server.url, "equipment-robot-1", robot.strip())
    assert run("edge", "revoke", "tas-1") == (0, "", "")
    assert not signs_in(server.url, "edge-tas-1", second.strip())
    assert load_settings(tmp_path / "hub.toml").broker.url == server.url


@pytest.mark.real
def test_where_the_broker_refuses_it_is_said_what_to_do_then(server: Broker, run: Run, tmp_path: Path) -> None:
    write_settings(tmp_path, server, "a wrong one")
    code, out, err = run("edge", "add", "tas-1", "--workshop", "tas")
    assert (code, out) == (1, "")
    assert err.startswith("edge-tas-1 is in the catalog but not at the broker; mend this, then `epip-hub edge renew`: ")
    assert "refuses the account 'admin' of the settings: Not authorized" in err
    assert "a wrong one" not in err
