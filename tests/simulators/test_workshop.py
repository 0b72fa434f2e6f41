"""`epip-demo` as a program: what it prints works, the kits are live, and when it ends nothing is left but the data.

Four starts serve all tests: `first`, then `second` on the same data, `plain` without `--json`, and one that is left
while it starts. Each is recorded once, so the tests may run in any order.
"""

from __future__ import annotations

import csv
import os
import re
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from simulators.workshop import main
from tests.demo_program import Demo, Part, free_port, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

KITS = ("plc-1", "robot-1", "bci-1")
FRESH_S = 20.0
LEFT_S = 30.0
NEEDED = {"plc-line", "robot-cell", "bci-platform", "hub.cli", "edge_agent.cli", "nats-server"}
EEG = "eeg.oz"
"""A sampled channel, which always has something to store."""


@dataclass
class Recorded:
    """What was seen of one run."""

    said: dict[str, Any]
    parts: list[Part]
    first_answer: tuple[int, dict[str, Any], str] = (0, {}, "")
    out: str = ""
    err: str = ""
    code: int | None = None
    left: list[str] = field(default_factory=list)
    fresh: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    stored: tuple[int, int] = (0, 0)
    samples: int = 0
    old_sign_in: int = 0
    secrets: dict[str, str] = field(default_factory=dict)
    holders: dict[str, list[str]] = field(default_factory=dict)

    def password(self, user: str) -> str:
        return next(one["password"] for one in self.said["sign_ins"] if one["user"] == user)


@contextmanager
def running(folder: Path, data: Path, *arguments: str, port: int | None = None) -> Iterator[Demo]:
    folder.mkdir(exist_ok=True)
    demo = Demo(folder, data, *arguments, port=port)
    try:
        yield demo
    finally:
        demo.leave()


def sign_in(client: httpx.Client, user: str, password: str) -> int:
    """The status of the answer; the client holds the session."""
    csrf = client.get("/api/v1/session").raise_for_status().json()["csrf"]
    answer = client.post("/api/v1/session", json={"name": user, "password": password}, headers={"X-CSRF-Token": csrf})
    return answer.status_code


def browse(address: str) -> httpx.Client:
    return httpx.Client(base_url=address, trust_env=False, timeout=20)


def first_answer(demo: Demo) -> tuple[int, dict[str, Any], str]:
    """The first answer of `/healthz`, and what the demo had printed by then."""
    found: list[tuple[int, dict[str, Any], str]] = []

    def asked() -> bool:
        try:
            answer = httpx.get(f"http://127.0.0.1:{demo.port}/healthz", trust_env=False, timeout=20)
        except httpx.TransportError:
            return False
        found.append((answer.status_code, answer.json(), demo.out))
        return True

    demo.wait(asked, "/healthz answered")
    return found[0]


def wait_fresh(client: httpx.Client) -> dict[str, Any]:
    """The kits at a glance, as soon as each is fresh over each of its connections."""
    seen: dict[str, Any] = {}

    def fresh() -> bool:
        for kit in KITS:
            seen[kit] = client.get(f"/api/v1/kits/{kit}/latest").raise_for_status().json()["kit"]
        return all(kit["fresh"] and all(c["state"] == "running" for c in kit["connections"]) for kit in seen.values())

    until(fresh, FRESH_S, f"three fresh kits, last seen: {seen}")
    return seen


def samples(client: httpx.Client, window: tuple[int, int]) -> int:
    """How many samples of the EEG are stored."""
    asked = {"channels": EEG, "from_ms": window[0], "to_ms": window[1]}
    return len(
        list(csv.reader(client.get("/api/v1/kits/bci-1/raw.csv", params=asked).raise_for_status().text.splitlines()))
    )


def refused(folder: Path, data: Path, port: int) -> tuple[int, str, str]:
    with running(folder, data, port=port) as demo:
        return demo.ended(), demo.out, demo.err


def record_end(recorded: Recorded, demo: Demo) -> None:
    recorded.code = demo.ended()
    recorded.out, recorded.err = demo.out, demo.err
    recorded.left = demo.left()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name holds what people's folders hold."""
    return tmp_path_factory.mktemp("demo") / 'it\'s a "demo" – 工坊'


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Recorded:
    """A run with `--json` on a new folder, ended by Ctrl-C."""
    folder = tmp_path_factory.mktemp("first")
    begun_ms = time.time_ns() // 1_000_000
    with running(folder, data, "--json", "--seed", "7", "--exit-after", "120") as demo:
        answer = first_answer(demo)
        said = demo.ready()
        recorded = Recorded(said, demo.parts, answer)
        with closing(browse(said["address"])) as client:
            assert sign_in(client, "instructor", recorded.password("instructor")) == 200
            recorded.fresh = wait_fresh(client)
            recorded.stored = (begun_ms, time.time_ns() // 1_000_000)
            until(lambda: samples(client, recorded.stored) > 1, 10, "stored samples")
            recorded.samples = samples(client, recorded.stored)
        recorded.refused["the same folder"] = refused(folder / "again", data, free_port())
        recorded.refused["the same port"] = refused(folder / "port", folder / "other", demo.port)
        recorded.parts = demo.look()
        demo.ctrl_c()
        record_end(recorded, demo)
    recorded.secrets = {one["user"]: one["password"] for one in said["sign_ins"]}
    recorded.secrets |= {name: (data / name).read_text().strip() for name in ("edge.password", "robot.password")}
    files = {file.name: file.read_bytes() for file in data.rglob("*") if file.is_file()}
    for user, secret in recorded.secrets.items():
        recorded.holders[user] = [name for name, content in files.items() if secret.encode() in content]
    return recorded


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, first: Recorded, data: Path) -> Recorded:
    """A second run on the folder of the first; epip-demo itself is killed."""
    with running(tmp_path_factory.mktemp("second"), data, "--json") as demo:
        recorded = Recorded(demo.ready(), demo.parts)
        with closing(browse(recorded.said["address"])) as client:
            recorded.old_sign_in = sign_in(client, "instructor", first.password("instructor"))
            assert sign_in(client, "instructor", recorded.password("instructor")) == 200
            recorded.samples = samples(client, first.stored)
            recorded.fresh = wait_fresh(client)
        recorded.parts = demo.look()
        demo.process.kill()
        recorded.code = demo.ended()
        until(lambda: not demo.left(), LEFT_S, "the end of every part")
    return recorded


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A run for a person, which ends by itself."""
    folder = tmp_path_factory.mktemp("plain")
    with running(folder, folder / "data", "--exit-after", "0.1") as demo:
        demo.wait(lambda: "open http" in demo.out, "it was ready")
        recorded = Recorded({}, demo.look())
        record_end(recorded, demo)
    return recorded


def test_a_script_gets_one_line_with_address_folder_and_sign_ins(first: Recorded, data: Path) -> None:
    """A script could not find the demo, or not sign in."""
    assert first.out.count("\n") == 1
    assert first.said.keys() == {"address", "data", "sign_ins"}
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", first.said["address"])
    assert first.said["data"] == str(data)
    people = [(one["role"], one["user"]) for one in first.said["sign_ins"]]
    assert people == [("administrator", "admin"), ("instructor", "instructor"), ("technician", "technician")]


def test_passwords_are_random_and_different(first: Recorded, second: Recorded) -> None:
    """A password that is known from elsewhere opens every demo."""
    passwords = [one["password"] for run in (first, second) for one in run.said["sign_ins"]]
    assert len(set(passwords)) == 6
    assert all(len(password) >= 15 for password in passwords)


def test_health_answers_before_the_demo_is_ready(first: Recorded) -> None:
    """Whoever watches the start could not tell a slow one from none."""
    status, answer, printed = first.first_answer
    assert answer["alive"] is True
    assert status == (200 if answer["ready"] else 503)
    assert printed == ""


@pytest.mark.parametrize("run", ["first", "second"])
def test_all_three_kits_are_fresh_soon_after_the_start(run: str, request: pytest.FixtureRequest) -> None:
    """The instructor would look at a workshop without data. (The recording waits for it, 20 s at most.)"""
    recorded: Recorded = request.getfixturevalue(run)
    assert recorded.fresh.keys() == set(KITS)
    assert all(kit["online"] and kit["state"] not in ("stale", "offline") for kit in recorded.fresh.values())


def test_every_part_is_a_process_and_listens_on_loopback_only(first: Recorded) -> None:
    """Somebody on the same network could reach a simulated kit, the broker or the pages."""
    commands = [part.command for part in first.parts]
    assert {name for name in NEEDED if any(name in command for command in commands)} == NEEDED
    assert {address for part in first.parts for address, _ in part.listening} == {"127.0.0.1"}


def test_no_password_stands_where_others_can_read_it(first: Recorded, data: Path) -> None:
    """Every user of the machine, or whoever gets a copy of the data, could sign in."""
    assert len(set(first.secrets.values())) == 5
    for user, secret in first.secrets.items():
        assert not [part.command for part in first.parts if secret in part.command + part.environment], user
        assert secret not in first.err, user
        assert first.holders[user] == ([user] if user.endswith(".password") else []), user
    for name in ("edge.password", "robot.password"):
        assert stat.S_IMODE((data / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        (
            "the same folder",
            "epip-demo: a simulated workshop already runs on {data}; choose another folder with --data DIR",
        ),
        ("the same port", "epip-demo: port {port} is in use: choose another with --port N"),
    ],
)
def test_what_is_taken_is_said_in_one_line(first: Recorded, data: Path, taken: str, message: str) -> None:
    """Two demos would spoil each other's data, or one would not start and not say why."""
    code, out, err = first.refused[taken]
    assert (code, out) == (1, "")
    assert err == message.format(data=data, port=first.said["address"].rpartition(":")[2]) + "\n"


def test_ctrl_c_ends_everything_and_keeps_the_data(first: Recorded, data: Path) -> None:
    """Processes that stay behind hold the ports; data that goes is gone."""
    assert first.code == 0
    assert first.left == []
    assert first.err.endswith(f"ending\nended; the data folder is kept: {data}\n")
    assert "Traceback" not in first.err
    assert (data / "hub" / "telemetry.duckdb").stat().st_size > 0


def test_parts_end_in_order_at_ctrl_c(first: Recorded, data: Path) -> None:
    """A part that is cut off could lose the last samples."""
    assert "ended (exit code" not in first.err
    assert "does not end by itself" not in first.err
    assert "Traceback" not in "".join(log.read_text() for log in (data / "logs").iterdir())


def test_a_second_start_goes_on_with_the_data(first: Recorded, second: Recorded) -> None:
    """What was recorded yesterday would be gone today."""
    assert first.samples > 250
    assert second.samples >= first.samples


def test_the_passwords_of_the_last_start_no_longer_open_anything(second: Recorded) -> None:
    """A password that was on a screen once would open the demo for ever."""
    assert second.old_sign_in == 401


def test_killing_it_leaves_nothing_behind(second: Recorded) -> None:
    """Whoever kills the demo would find its parts still running. (The recording waits for their end, 30 s at most.)"""
    assert second.code == -signal.SIGKILL
    assert {name for name in NEEDED if any(name in part.command for part in second.parts)} == NEEDED


def test_a_person_is_told_what_happens(plain: Recorded) -> None:
    """Somebody who starts it for the first time would not know where to go, or what the passwords are."""
    lines = plain.out.splitlines()
    assert lines[0].startswith("data folder: ")
    assert lines[1] == "starting three simulators, an edge agent and the hub with its broker ..."
    assert re.search(r"^  open http://127\.0\.0\.1:\d+$", plain.out, re.MULTILINE)
    shown = re.findall(r"^  (administrator|instructor|technician) +(\w+) +(\S{17})$", plain.out, re.MULTILINE)
    assert [role for role, _, _ in shown] == ["administrator", "instructor", "technician"]
    assert plain.err == ""


def test_it_ends_by_itself_when_asked_to(plain: Recorded) -> None:
    """A script would have to find and end it."""
    assert plain.code == 0
    assert plain.left == []


def test_ctrl_c_during_the_start_ends_everything(tmp_path: Path) -> None:
    """Impatient people would get a traceback, and parts that stay behind."""
    with running(tmp_path, tmp_path / "data") as demo:
        demo.wait(lambda: demo.runs("plc-line"), "its first part ran")
        demo.ctrl_c()
        assert demo.ended() == 0
        assert demo.err == ""
        assert demo.out.endswith(f"ending\nended; the data folder is kept: {tmp_path / 'data'}\n")
        until(lambda: not demo.left(), LEFT_S, "the end of every part")


def test_ctrl_c_while_the_hub_has_crashed_ends_its_broker(tmp_path: Path) -> None:
    """The broker of a killed hub would stay behind and hold its files."""
    with running(tmp_path, tmp_path / "data") as demo:
        demo.wait(lambda: demo.runs("nats-server"), "the broker ran")
        hub = next(part for part in demo.parts if "hub.cli" in part.command)
        os.kill(hub.pid, signal.SIGKILL)
        demo.ctrl_c()
        assert demo.ended() == 0
        assert demo.left() == []


@pytest.mark.parametrize(
    "arguments",
    [["--port", "65536"], ["--port", "-1"], ["--seed", "-1"], ["--exit-after", "-1"], ["--exit-after", "nan"]],
)
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error would show as a failure of a part, long after the start."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert f"epip-demo: error: argument {arguments[0]}: expected" in capsys.readouterr().err


def test_a_folder_that_cannot_be_used_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback would not tell a person what to mend."""
    (tmp_path / "file").touch()
    assert main(["--data", str(tmp_path / "file")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("epip-demo: ")
    assert said.err.count("\n") == 1
