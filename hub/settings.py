"""Beside the line: reads hub.toml and hands on checked settings, or one clear line a fault."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from hub.broker.settings import BrokerSettings
from hub.errors import SettingsInvalid
from lab_contract.errors import Problem
from lab_contract.kit import problems_of

TOML_PLACE = re.compile(r"\s*\(at (?:line (?P<line>\d+), column (?P<column>\d+)|(?P<end>end of document))\)\s*$")
"""How tomllib ends its messages."""


def _loopback(host: str) -> str:
    try:
        allowed = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        allowed = False
    if not allowed:
        raise ValueError(
            "expected a loopback address (127.0.0.1, ::1 or localhost): this version speaks no TLS, so it does not "
            f"listen on a network, found {host!r}"
        )
    return host


def _url(scheme: str) -> AfterValidator:
    def check(url: str) -> str:
        if not re.match(rf"{scheme}:///[^?#]+\Z", url):
            raise ValueError(f"expected {scheme}:/// and the path of a file, found {url!r}")
        return url

    return AfterValidator(check)


STORE_URL = re.compile(r"duckdb:///[^?#]+\Z|influx\+https?://[^/?#@]+/[^/?#]+\Z")


def _store(url: str) -> str:
    if not STORE_URL.match(url):
        # Not repeated where credentials stand in it.
        found = "one with credentials, which go into [influx]" if "@" in url else repr(url)
        raise ValueError(
            "expected duckdb:/// and the path of a file, or influx+http://HOST:PORT/DATABASE (https too), "
            f"found {found}"
        )
    return url


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HttpSettings(_Part):
    """Where the pages are served; port 0 takes any free port and prints it."""

    host: Annotated[str, AfterValidator(_loopback)] = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)


class InfluxSettings(_Part):
    """How to reach the InfluxDB that `store` names: by a token, or by user and password, each in a file of its own."""

    user: str | None = Field(default=None, min_length=1)
    password_file: Path | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    org: str | None = Field(default=None, min_length=1)
    retention_days: int | None = Field(default=None, ge=1, le=36500)
    timeout_s: float = Field(default=10.0, ge=1, le=300)

    @model_validator(mode="after")
    def _one_way_in(self) -> InfluxSettings:
        if (self.user is None) != (self.password_file is None):
            raise ValueError("expected user and password_file, both or neither")
        if self.user is not None and self.token_file is not None:
            raise ValueError("expected token_file, or user and password_file, not both")
        return self


class HubSettings(_Part):
    """What hub.toml may say. Every key may be left out; paths are relative to the file."""

    data: Path = Path("hub-data")
    database: Annotated[str, _url("sqlite")] | None = None
    store: Annotated[str, AfterValidator(_store)] | None = None
    retention_days: int | None = Field(default=None, ge=1, le=36500)
    http: HttpSettings = HttpSettings()
    broker: BrokerSettings = BrokerSettings()
    influx: InfluxSettings = InfluxSettings()
    kit_models: Path | None = None

    @model_validator(mode="after")
    def _influx_for_influx(self) -> HubSettings:
        if self.influx != InfluxSettings() and not (self.store or "").startswith("influx+"):
            raise ValueError("expected no section [influx] as long as store is no influx+http:// or influx+https://")
        return self

    _base: Path = PrivateAttr(default_factory=Path.cwd)

    @property
    def data_folder(self) -> Path:
        """The absolute path of the data folder."""
        return (self._base / self.data).resolve()

    @property
    def kit_model_folder(self) -> Path | None:
        """The absolute path of the folder with kit models of one's own, None where only the built-in ones are used."""
        return None if self.kit_models is None else (self._base / self.kit_models).resolve()

    @property
    def database_file(self) -> Path:
        """The absolute path of the SQLite file."""
        return self._file(self.database, "hub.sqlite")

    @property
    def store_url(self) -> str:
        """The telemetry store. A file's path is absolute: `duckdb:///` and the path as it is written on this system."""
        if self.store is not None and not self.store.startswith("duckdb:"):
            return self.store
        return f"duckdb:///{self._file(self.store, 'telemetry.duckdb')}"

    @property
    def store_options(self) -> dict[str, Any]:
        """What opening the store needs beside its URL: `[influx]` with absolute paths, and the data folder."""
        if self.store_url.startswith("duckdb:"):
            return {}
        given = {name: getattr(self.influx, name) for name in InfluxSettings.model_fields}
        files = {name: self.path(file) for name, file in given.items() if isinstance(file, Path)}
        return {"data": self.data_folder, **given, **files}

    def path(self, written: Path) -> Path:
        """The absolute path of a file that the settings name."""
        return (self._base / written).resolve()

    def _file(self, url: str | None, default: str) -> Path:
        if url is None:
            return self.data_folder / default
        return (self._base / url.split(":///", 1)[1]).resolve()

    def based_on(self, folder: Path) -> HubSettings:
        """The same settings with paths relative to `folder`."""
        settings = self.model_copy()
        settings._base = folder.resolve()
        return settings


def parse_settings(text: str, file: Path) -> HubSettings:
    """The settings in a TOML text that stands in `file`. Raises SettingsInvalid with every fault found."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        found = TOML_PLACE.search(message)
        place = ""
        if found is not None:
            place = "end of file" if found["end"] else f"line {found['line']}, column {found['column']}"
            message = message[: found.start()]
        raise SettingsInvalid(file, [Problem(place, f"expected TOML: {message}")]) from None
    try:
        return HubSettings.model_validate(document).based_on(file.parent)
    except ValidationError as error:
        raise SettingsInvalid(file, [_in_plain_words(problem) for problem in problems_of(error)]) from None


def _in_plain_words(problem: Problem) -> Problem:
    expected = problem.expected
    if "no such key" in expected or expected.startswith("Extra inputs"):
        section = problem.place.rpartition(".")[0]
        model: type[BaseModel] = {
            "http": HttpSettings,
            "broker": BrokerSettings,
            "influx": InfluxSettings,
        }.get(section, HubSettings)
        return Problem(problem.place, f"expected no such key; known here: {', '.join(model.model_fields)}")
    found = expected[expected.rfind(", found") :] if ", found" in expected else ""
    if "a valid path" in expected:
        return Problem(problem.place, f"expected a path in quotes{found}")
    if "a valid dictionary" in expected:
        return Problem(problem.place, f"expected a section [{problem.place}]{found}")
    return problem


def load_settings(path: Path) -> HubSettings:
    """The settings in a file. Raises SettingsInvalid, also where the file cannot be read."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SettingsInvalid(path, [Problem("", f"expected a readable UTF-8 file: {reason}")]) from None
    return parse_settings(text, path)
