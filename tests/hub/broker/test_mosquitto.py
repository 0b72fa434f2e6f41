"""A Mosquitto that somebody else runs: the hub keeps its own accounts right there, and leaves the others alone."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware_bridge.mqtt_link import MqttLink
from hub.broker.base import BrokerUnavailable, HubAccess, Refusals
from hub.broker.config import BrokerAccount, edge_account
from hub.broker.dynsec import DynamicSecurity
from hub.broker.mosquitto import MosquittoBroker
from hub.broker.mosquitto_config import acl_text, passwords_text, role_name
from hub.broker.mosquitto_files import MosquittoFiles
from hub.broker.passwords import bcrypt_hash, mosquitto_hash
from tests.brokers import Broker, free_port, mosquitto, mosquitto_with_plugin
from tests.hub.broker.rigs import ADMIN, until

ADMIN_PASSWORD = "the administrator's"
ONE, TWO = (edge_account(f"edge-{e}", e, bcrypt_hash("x", rounds=4), mosquitto_hash("x")) for e in ("e1", "e2"))


def signs_in(url: str, user: str, password: str) -> bool:
    """Whether the broker takes this sign-in."""
    link = MqttLink(
        url,
        client_id=f"try-{secrets.token_hex(6)}",
        user=user,
        password=password,
        on_message=lambda *_: None,
        on_connection=lambda *_: None,
    )
    link.start()
    until(lambda: link.connected or link.refusal)
    connected = link.connected
    link.stop()
    return connected


@pytest.fixture(params=[("log_dest topic", "log_dest stderr")])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    with mosquitto_with_plugin(tmp_path, admin=ADMIN_PASSWORD, options=request.param) as running:
        yield running


@pytest.fixture
def admin(server: Broker) -> HubAccess:
    return HubAccess(server.url, ADMIN, ADMIN_PASSWORD)


@pytest.fixture
def control(admin: HubAccess) -> Iterator[DynamicSecurity]:
    with DynamicSecurity(admin) as control:
        yield control


@pytest.fixture
def broker(admin: HubAccess) -> Iterator[MosquittoBroker]:
    broker = MosquittoBroker(admin)
    yield broker
    broker.stop()


def run(control: DynamicSecurity, **command: object) -> None:
    control._run([command])


@pytest.mark.real
def test_accounts_of_the_administrator_are_left_alone(broker: MosquittoBroker, control: DynamicSecurity) -> None:
    """A broker may serve more than one purpose."""
    run(control, command="createRole", rolename="doors")
    run(control, command="createClient", username="edge-e9", password="x", roles=[{"rolename": "doors"}])
    control.enrol(ONE, "one")
    control.enrol(TWO, "two")
    broker.start([ONE])
    present = control.present()
    assert set(present.users) == {ADMIN, "edge-e9", "edge-e1", "epip-hub"}
    assert set(present.roles) == {"admin", "doors", role_name("edge-e1"), role_name("epip-hub")}
    assert broker.health().ok


@pytest.mark.real
def test_a_role_that_was_changed_by_hand_is_put_right(broker: MosquittoBroker, control: DynamicSecurity) -> None:
    """A role that allows too much would stay so for ever."""
    control.enrol(ONE, "one")
    everything = [{"acltype": "publishClientSend", "topic": "#", "priority": 0, "allow": True}]
    run(control, command="modifyRole", rolename=role_name("edge-e1"), acls=everything)
    run(control, command="removeClientRole", username="edge-e1", rolename=role_name("edge-e1"))
    broker.start([ONE])
    present = control.present()
    assert present.users["edge-e1"] == {role_name("edge-e1")}
    topics = {rule.topic for rule in present.roles[role_name("edge-e1")] if rule.acltype == "publishClientSend"}
    assert topics == set(ONE.publish)


@pytest.mark.real
def test_an_account_that_the_broker_lacks_is_named_until_it_is_there(
    broker: MosquittoBroker, control: DynamicSecurity
) -> None:
    """After the broker was set up anew nobody has a password: the administrator must see whose to renew."""
    broker.start([ONE, TWO])
    assert broker.health().missing == ("edge-e1", "edge-e2")
    assert not broker.health().ok
    control.enrol(ONE, "one")
    control.enrol(TWO, "two")
    until(lambda: broker.health().ok)


@pytest.mark.real
def test_a_change_while_the_broker_is_away_is_made_when_it_is_back(
    server: Broker, broker: MosquittoBroker, control: DynamicSecurity, admin: HubAccess
) -> None:
    """A revocation must not be forgotten."""
    control.enrol(ONE, "one")
    broker.start([ONE])
    assert signs_in(server.url, "edge-e1", "one")
    server.kill()
    until(lambda: not broker.health().running)
    assert broker.health().detail
    broker.reload([])
    server.start()
    until(lambda: broker.health().ok)
    with DynamicSecurity(admin) as other:
        until(lambda: "edge-e1" not in other.present().users)
    assert not signs_in(server.url, "edge-e1", "one")


@pytest.mark.real
def test_a_broker_that_is_not_there_or_refuses_is_said_in_one_line(server: Broker, tmp_path: Path) -> None:
    wrong = MosquittoBroker(HubAccess(server.url, ADMIN, "a guess"))
    with pytest.raises(BrokerUnavailable, match=r"refuses the account 'admin' of the settings: Not authorized"):
        wrong.start([])
    wrong.stop()


@pytest.mark.real
def test_a_broker_without_the_plugin_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.broker.dynsec.ANSWER_S", 0.3)
    with mosquitto(tmp_path, {ADMIN: ADMIN_PASSWORD}) as plain:
        broker = MosquittoBroker(HubAccess(plain.url, ADMIN, ADMIN_PASSWORD))
        with pytest.raises(BrokerUnavailable, match=r"expected its dynamic-security plugin"):
            broker.start([])
        broker.stop()


@pytest.mark.real
def test_what_the_broker_tells_on_its_log_topics_is_counted(
    server: Broker, broker: MosquittoBroker, control: DynamicSecurity
) -> None:
    """Without a log file the hub sees refused sign-ins only: forbidden messages are never told on these topics."""
    control.enrol(ONE, "one")
    broker.start([ONE])
    assert not signs_in(server.url, "edge-e1", "a guess")
    until(lambda: broker.health().refusals.sign_ins)
    refusals = broker.health().refusals
    assert (refusals.sign_ins, refusals.publishes, refusals.subscriptions) == (1, None, None)


@pytest.mark.real
@pytest.mark.parametrize("server", [("log_dest stderr",)], indirect=True)
def test_a_broker_that_tells_nothing_gives_no_false_zeros(server: Broker, broker: MosquittoBroker) -> None:
    """A zero would say that nobody tried."""
    broker.start([])
    assert not signs_in(server.url, "edge-e1", "a guess")
    assert broker.health().refusals == Refusals()


@pytest.mark.real
def test_the_hub_knows_no_password_of_yesterday(server: Broker, admin: HubAccess) -> None:
    """A hub that was killed and starts again gets in, and its old password does not."""
    first, second = MosquittoBroker(admin), MosquittoBroker(admin)
    first.start([])
    second.start([])
    assert signs_in(server.url, second.access.user, second.access.password)
    assert not signs_in(server.url, first.access.user, first.access.password)
    assert second.access.password not in repr(second.access)
    first.stop()
    second.stop()
    written = (server.folder / "dynamic-security.json").read_text()
    assert second.access.password not in written
    assert json.loads(written)


def test_nobody_is_told_to_read_files_anew_who_is_no_mosquitto(tmp_path: Path) -> None:
    """Process numbers are used again, and SIGHUP ends most programs."""
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (tmp_path / "pid").write_text(str(stranger.pid))
        access = HubAccess(f"mqtt://127.0.0.1:{free_port()}", "hub", "secret")
        broker = MosquittoFiles(access, tmp_path / "accounts", pid_file=tmp_path / "pid")
        broker.reload([ONE])
        assert stranger.poll() is None
        assert f"process {stranger.pid} is no mosquitto" in broker.health().detail
    finally:
        stranger.kill()
        stranger.wait()


def test_the_files_hold_no_password_and_are_not_for_everyone(tmp_path: Path) -> None:
    access = HubAccess(f"mqtt://127.0.0.1:{free_port()}", "hub", "a secret of the hub")
    broker = MosquittoFiles(access, tmp_path / "accounts")
    old = edge_account("edge-e3", "e3", ONE.password_hash)
    broker.reload([ONE, old])
    texts = {file.name: file.read_text() for file in (tmp_path / "accounts").iterdir()}
    assert set(texts) == {"acl", "passwords"}
    assert not any(access.password in text for text in texts.values())
    assert broker.health().missing == ("edge-e3",)
    assert "edge-e3:" not in texts["passwords"]
    for file in (tmp_path / "accounts").iterdir():
        assert file.stat().st_mode & 0o007 == 0


def test_mosquitto_itself_makes_such_hashes(tmp_path: Path) -> None:
    """A hash that it takes for a password in the clear would let the hash itself sign in."""
    file = tmp_path / "passwords"
    file.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(file), "edge-e1", "one"], check=True, capture_output=True)
    user, _, made = file.read_text().strip().partition(":")
    assert user == "edge-e1"
    account = BrokerAccount("edge-e1", "", (), (), made)
    assert passwords_text([account]) == f"edge-e1:{made}\n"


@pytest.mark.parametrize("topic_filter", ["", "a b", "a\nuser root", "lab/%u/up", "a//b"])
def test_a_topic_that_means_something_else_in_the_file_is_refused(topic_filter: str) -> None:
    with pytest.raises(ValueError, match="topic filter"):
        acl_text([BrokerAccount("edge-e1", "", (topic_filter,), ())], "hub")


@pytest.mark.parametrize("hashed", ["plain", "$7$101$short$short", ""])
def test_what_is_no_hash_is_never_written(hashed: str) -> None:
    """The file would take it for the password itself."""
    with pytest.raises(ValueError, match="expected a hash"):
        passwords_text([BrokerAccount("edge-e1", "", (), (), hashed)])


@pytest.mark.parametrize("user", ["a:b", "a b", "", "a\nb", "#x"])
def test_a_user_name_that_would_end_its_line_is_refused(user: str) -> None:
    with pytest.raises(ValueError, match="broker user"):
        passwords_text([BrokerAccount(user, "", (), (), None)])
