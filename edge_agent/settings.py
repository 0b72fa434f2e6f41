"""Beside the line: the edge's settings file, checked whole before anything is started.

Kit models say what a kit is, this file says where one stands. `load_settings` reads the TOML, loads each kit model and
binds every connection and channel to its source, so that faults come out together and without touching the network.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edge_agent.clock import Clock
from edge_agent.errors import SettingsInvalid, SourceMisconfigured
from edge_agent.passwords import read_password, readable_by_others
from edge_agent.source import AgentFacts, BoundChannel, Source, SourceContext
from edge_agent.sources import SOURCES, load_source
from firmware_bridge.mqtt_link import parse_url
from lab_contract.errors import KitModelInvalid, Problem
from lab_contract.kit import Connection, KitModel, Stream, find_kit_model, problems_of

Identifier = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9_-]{0,30}[a-z0-9])?$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HubSettings(_Part):
    """The broker of the hub and how the edge signs in there."""

    url: str
    user: str | None = None
    password_file: Path | None = None
    password_env: str | None = None
    ca_file: Path | None = None
    window: int = Field(default=256, ge=1, le=1000)
    """Batches that may wait for their acknowledgement."""
    backlog_kb_s: int = Field(default=4096, ge=16)
    """How fast a backlog is sent behind the live batches."""

    @field_validator("url")
    @classmethod
    def _is_a_broker(cls, url: str) -> str:
        if "@" in url:
            raise ValueError("expected mqtt://host:port without a name or password in it; found one")
        parse_url(url)
        return url

    @model_validator(mode="after")
    def _signs_in_whole(self) -> Self:
        if (self.user is None) != (self.password_file is None and self.password_env is None):
            raise ValueError("expected user together with password_file or password_env")
        return self


class SpoolSettings(_Part):
    """How much may wait on the disk of the edge."""

    limit_mb: int = Field(default=512, ge=1)
    reserved_percent: int = Field(default=10, ge=1, le=50)
    """Of the limit, for gap records alone."""
    keep_acknowledged_hours: float = Field(default=24, ge=0)
    """For a hub that was restored from a backup; in no more than half of the limit."""


class KitSettings(_Part):
    """One kit: its model, where its connections lead and which addresses differ from the model's."""

    id: Identifier
    model: str = Field(min_length=1)
    connections: dict[str, dict[str, Any]] = Field(default_factory=dict)
    addresses: dict[str, dict[str, Any]] = Field(default_factory=dict)


class EdgeFile(_Part):
    """The settings file as written."""

    edge: Identifier
    data: Path = Path("edge-data")
    batch_ms: int = Field(default=250, ge=20, le=10_000)
    hub: HubSettings
    spool: SpoolSettings = SpoolSettings()
    kits: tuple[KitSettings, ...] = Field(min_length=1)


@dataclass(frozen=True)
class SourcePlan:
    """One connection of one kit, ready to be read."""

    kit: str
    model: KitModel
    connection: Connection
    source: type[Source]
    settings: BaseModel
    channels: tuple[BoundChannel, ...]
    streams: tuple[Stream, ...]


@dataclass(frozen=True)
class KitPlan:
    """One kit with its model and its connections."""

    id: str
    model: KitModel
    sources: tuple[SourcePlan, ...]


@dataclass(frozen=True)
class EdgeSettings:
    """Everything the agent is made of; no fault is left in it."""

    edge: str
    base: Path
    """Folder of the settings file."""
    data: Path
    batch_ms: int
    spool: SpoolSettings
    hub: HubSettings
    password: str | None = field(repr=False)
    kits: tuple[KitPlan, ...]
    warnings: tuple[str, ...]
    """Lines for the technician; the agent starts all the same."""


class _ElsewhereProblem(Problem):
    """A fault in another file than the settings: a kit model."""

    def __init__(self, file: str, problem: Problem) -> None:
        super().__init__(problem.place, problem.expected)
        self._file = file

    def line(self, file: str) -> str:
        return super().line(self._file)


def load_settings(path: Path, load: Callable[[str], type[Source]] = load_source) -> EdgeSettings:
    """The checked settings; `load` gives the class of a protocol.

    Raises SettingsInvalid with every fault found. Faults in the form of the file come alone: while it has any, kits are
    not looked at.
    """
    return _Reader(path, load).read()


class _Reader:
    def __init__(self, path: Path, load: Callable[[str], type[Source]]) -> None:
        self._path = path
        self._base = path.parent
        self._load = load
        self._problems: list[Problem] = []
        self._warnings: list[str] = []

    def read(self) -> EdgeSettings:
        file = self._file()
        password = self._password(file.hub, "hub")
        self._files(file.hub, "hub")
        for name, count in Counter(kit.id for kit in file.kits).items():
            if count > 1:
                again = [i for i, kit in enumerate(file.kits) if kit.id == name][1:]
                self._problems += [
                    Problem(f"kits[{i}].id", f"expected each kit id once, found {name!r} again") for i in again
                ]
        kits = [kit for i, settings in enumerate(file.kits) if (kit := self._kit(settings, f"kits[{i}]"))]
        if self._problems:
            raise SettingsInvalid(str(self._path), self._problems)
        return EdgeSettings(
            edge=file.edge,
            base=self._base,
            data=self._base / file.data,
            batch_ms=file.batch_ms,
            spool=file.spool,
            hub=file.hub,
            password=password,
            kits=tuple(kits),
            warnings=tuple(self._warnings),
        )

    def _file(self) -> EdgeFile:
        try:
            document = tomllib.loads(self._path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise self._invalid("", f"expected a readable UTF-8 file: {getattr(error, 'strerror', error)}") from None
        except tomllib.TOMLDecodeError as error:
            # Python 3.11 gives the position in the text of the error alone.
            what, _, where = str(error).rpartition(" (at ")
            raise self._invalid(where.rstrip(")"), f"expected TOML: {what[:1].lower()}{what[1:]}") from None
        try:
            return EdgeFile.model_validate(document)
        except ValidationError as error:
            raise SettingsInvalid(str(self._path), [_masked(problem) for problem in problems_of(error)]) from None

    def _invalid(self, place: str, expected: str) -> SettingsInvalid:
        return SettingsInvalid(str(self._path), [Problem(place, expected)])

    def _kit(self, settings: KitSettings, place: str) -> KitPlan | None:
        model = self._model(settings.model, f"{place}.model")
        if model is None:
            return None
        for name in settings.connections:
            if name not in model.connection_by_id:
                known = ", ".join(model.connection_by_id)
                self._fault(f"{place}.connections.{name}", f"expected a connection of {model.id}: {known}")
        for name in settings.addresses:
            if name not in model.channel_by_id:
                self._fault(f'{place}.addresses."{name}"', f"expected a channel of {model.id}, it has no {name!r}")
        plans = [self._source(settings, model, i, place) for i in range(len(model.connections))]
        return KitPlan(settings.id, model, tuple(plan for plan in plans if plan is not None))

    def _model(self, name: str, place: str) -> KitModel | None:
        try:
            return find_kit_model(name, self._base)
        except KitModelInvalid as error:
            missing = error.file == name or not (error.file.startswith("lab_contract/") or Path(error.file).is_file())
            for problem in error.problems:
                if missing:
                    self._fault(place, f"{problem.expected}, found {name!r}")
                else:
                    self._problems.append(_ElsewhereProblem(error.file, problem))
            return None

    def _source(self, kit: KitSettings, model: KitModel, index: int, kit_place: str) -> SourcePlan | None:
        connection = model.connections[index]
        written = kit.connections.get(connection.id, {})
        place = f"{kit_place}.connections.{connection.id}"
        model_place = f"connections[{index}]"
        if connection.protocol not in SOURCES:
            known = ", ".join(sorted(SOURCES))
            problem = Problem(f"{model_place}.protocol", f"expected one of {known}, found {connection.protocol!r}")
            self._problems.append(_ElsewhereProblem(self._model_file(kit.model), problem))
            return None
        try:
            source = self._load(connection.protocol)
        except ModuleNotFoundError as error:
            self._fault(place, f"expected the extra [edge] installed, {error.name!r} is missing")
            return None
        settings = self._validated(source.Settings, connection.settings, written, kit, place, f"{model_place}.settings")
        if settings is not None:
            self._password(settings, place)
            self._files(settings, place)
        bound: list[BoundChannel] = []
        for i, channel in enumerate(model.channels):
            if channel.connection == connection.id:
                override = kit.addresses.get(channel.id, {})
                channel_place = f'{kit_place}.addresses."{channel.id}"'
                address = self._validated(
                    source.Address, channel.address, override, kit, channel_place, f"channels[{i}].address"
                )
                if address is not None:
                    bound.append(BoundChannel(channel, address))
        if settings is None:
            return None
        return SourcePlan(
            kit=kit.id,
            model=model,
            connection=connection,
            source=source,
            settings=settings,
            channels=tuple(bound),
            streams=tuple(stream for stream in model.streams if stream.connection == connection.id),
        )

    def _validated(
        self,
        kind: type[BaseModel],
        from_model: dict[str, Any],
        written: dict[str, Any],
        kit: KitSettings,
        place: str,
        model_place: str,
    ) -> BaseModel | None:
        """The two merged, the edge's above the model's; each fault at the file that holds the faulty key."""
        try:
            return kind.model_validate({**from_model, **written})
        except ValidationError as error:
            for problem in problems_of(error):
                key = re.split(r"[.\[]", problem.place, maxsplit=1)[0]
                inner = f"{'' if problem.place.startswith('[') else '.'}{problem.place}" if problem.place else ""
                if key in from_model and key not in written:
                    elsewhere = _masked(Problem(model_place + inner, problem.expected))
                    self._problems.append(_ElsewhereProblem(self._model_file(kit.model), elsewhere))
                else:
                    self._fault(place + inner, problem.expected)
            return None

    def _model_file(self, name: str) -> str:
        return str(self._base / name) if name.endswith((".yaml", ".yml")) else f"lab_contract/kits/{name}.yaml"

    def _password(self, settings: Any, place: str) -> str | None:
        """Settings without passwords have no such fields; that is their right."""
        if not hasattr(settings, "password_file") or not hasattr(settings, "password_env"):
            return None
        try:
            password = read_password(settings, self._base)
        except SourceMisconfigured as error:
            self._fault(f"{place}.{error.place}", error.expected)
            return None
        if settings.password_file is not None and readable_by_others(self._base / settings.password_file):
            self._warnings.append(
                f"{self._path}: {place}.password_file: warning: {str(self._base / settings.password_file)!r} "
                "can be read by every account of this machine, expected its owner only (chmod 600)"
            )
        return password

    def _files(self, settings: BaseModel, place: str) -> None:
        """Whatever a source names as a Path is a file that it will read: a certificate, a key."""
        for name, path in settings:
            if isinstance(path, Path) and name != "password_file" and not (self._base / path).is_file():
                self._fault(f"{place}.{name}", f"expected a readable file, found {str(self._base / path)!r}")

    def _fault(self, place: str, expected: str) -> None:
        self._problems.append(_masked(Problem(place, expected)))


def _masked(problem: Problem) -> Problem:
    """A URL with a name and password in it must not reach a terminal or a log."""
    return Problem(problem.place, re.sub(r"(://)[^/@\s'\"]*@", r"\1***@", problem.expected))


def source_context(plan: SourcePlan, settings: EdgeSettings, clock: Clock, agent: AgentFacts) -> SourceContext:
    """What the source of this connection is made of."""
    return SourceContext(
        kit=plan.kit,
        model=plan.model,
        connection=plan.connection,
        settings=plan.settings,
        channels=plan.channels,
        streams=plan.streams,
        clock=clock,
        base=settings.base,
        agent=agent,
    )
