"""A reader who trusts the papers would be led astray: the reference differs from the code, a link leads nowhere, a
snippet does not work."""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

import edge_agent.cli
import edge_agent.settings
import hub.cli
import hub.settings
import simulators.cli
import simulators.workshop
from edge_agent.batcher import Batcher
from edge_agent.clock import SystemClock
from edge_agent.clock_offset import ClockOffset
from edge_agent.health import Health
from edge_agent.outbox import Outbox
from edge_agent.runner import SourceRunner
from edge_agent.settings import SourcePlan, load_settings, source_context
from edge_agent.source import Source
from edge_agent.sources import SOURCES, load_source
from edge_agent.spool import Spool
from edge_agent.uplink import Uplink
from firmware_bridge import kit_link
from firmware_bridge.mqtt_link import MqttLink
from hub.accounts.access import AccessRule
from hub.app import ROUTERS
from hub.broker.base import HubAccess
from hub.ingest.service import Ingest
from lab_contract import kit as kit_model
from lab_contract.batch import GapReason, gap_columns
from lab_contract.kit import KitModel, parse_kit_model
from lab_contract.messages import Ack, ConnectionStatus, EdgeStatus, Kept, KitStatus, Probe, Replay, Time
from tests.docs.papers import ROOT, Snippet, anchors, code, links, papers, read, rows, section, snippets

HUB = 'edge = "edge-1"\n[hub]\nurl = "mqtt://127.0.0.1:1883"\n'
EDGE_SETTINGS = f"""{HUB}
[[kits]]
id = "plc-1"
model = "plc_line"
connections.plc.endpoint = "opc.tcp://127.0.0.1:4840/"
[[kits]]
id = "robot-1"
model = "robot_cell"
connections.cell = {{ url = "mqtt://127.0.0.1:1883", prefix = "robot-1" }}
[[kits]]
id = "bci-1"
model = "bci_platform"
connections.eeg.port = "COM3"
connections.drive.port = "COM4"
"""
"""Each protocol once."""


def default_of(field: FieldInfo) -> str:
    """A field's default as the papers write it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    match value:
        case None:
            return "none"
        case BaseModel():
            return "optional"
        case bool():
            return f"`{str(value).lower()}`"
        case int() | float():
            return f"`{value:g}`"
        case str() | Path():
            return f'`"{value}"`'
        case _:
            return "empty"


def defaults(*models: type[BaseModel]) -> dict[str, str]:
    return {field.alias or name: default_of(field) for model in models for name, field in model.model_fields.items()}


def written(text: str) -> dict[str, str]:
    """Keys and defaults in the tables of a paper."""
    return {key: cells[2] for key, cells in rows(text, "Key").items()}


# Settings and kit model.


@pytest.mark.parametrize(
    ("paper", "heading", "model"),
    [
        ("settings-edge.md", "The file", edge_agent.settings.EdgeFile),
        ("settings-edge.md", "`[hub]`", edge_agent.settings.HubSettings),
        ("settings-edge.md", "`[spool]`", edge_agent.settings.SpoolSettings),
        ("settings-edge.md", "`[[kits]]`", edge_agent.settings.KitSettings),
        ("settings-hub.md", "The file", hub.settings.HubSettings),
        ("settings-hub.md", "`[http]`", hub.settings.HttpSettings),
        ("settings-hub.md", "`[influx]`", hub.settings.InfluxSettings),
        ("settings-hub.md", "`[broker]`", hub.settings.BrokerSettings),
    ],
)
def test_every_setting_stands_in_its_paper_with_its_default(paper: str, heading: str, model: type[BaseModel]) -> None:
    assert written(section(read(f"reference/{paper}"), heading)) == defaults(model)


def test_every_part_of_the_kit_model_stands_in_its_paper_with_every_field() -> None:
    paper = read("reference/kit-model.md")
    parts = [
        part
        for name, part in vars(kit_model).items()
        if inspect.isclass(part) and issubclass(part, BaseModel) and part.__module__ == kit_model.__name__
        if not name.startswith("_")
    ]
    assert KitModel in parts
    for part in parts:
        words = re.findall("[A-Z][a-z]*", part.__name__)
        heading = "The file" if part is KitModel else " ".join(words).capitalize()
        assert written(section(paper, heading)) == defaults(part), heading


# Sources.


@pytest.fixture
def plans(tmp_path: Path) -> dict[str, SourcePlan]:
    """A connection of each protocol."""
    file = tmp_path / "edge.toml"
    file.write_text(EDGE_SETTINGS)
    return {plan.connection.protocol: plan for kit in load_settings(file).kits for plan in kit.sources}


def made(plan: SourcePlan, folder: Path) -> Source:
    clock = SystemClock()
    return plan.source(source_context(plan, load_settings(folder / "edge.toml"), clock, Health(clock)))


def facts_of(source: type[Source]) -> set[str]:
    """The names under which a source's code writes facts."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(source) or source))):
        match node:
            case ast.Subscript(value=ast.Attribute(attr="facts"), slice=ast.Constant(value=str(name))):
                names.add(name)
            case ast.Call(func=ast.Attribute(attr="update", value=ast.Attribute(attr="facts")), keywords=found):
                names |= {keyword.arg for keyword in found if keyword.arg}
    return names


@pytest.mark.parametrize("protocol", SOURCES)
def test_every_source_stands_in_its_paper_with_settings_addresses_counters_and_facts(
    protocol: str, plans: dict[str, SourcePlan], tmp_path: Path
) -> None:
    text = section(read("reference/sources.md"), protocol)
    source = load_source(protocol)
    instance = made(plans[protocol], tmp_path)
    assert written(text) == defaults(source.Settings, source.Address)
    assert rows(text, "Counter").keys() == instance.counters.keys()
    assert facts_of(source) | instance.facts.keys() <= code(text)


def test_the_counters_of_every_connection_stand_in_their_paper(plans: dict[str, SourcePlan], tmp_path: Path) -> None:
    clock = SystemClock()
    plan = plans["agent"]
    runner = SourceRunner(
        plan,
        make=lambda: made(plan, tmp_path),
        deliver=lambda _: None,
        on_change=lambda: None,
        health=Health(clock),
        clock=clock,
        rng=None,  # type: ignore[arg-type] - never run
    )
    text = section(read("reference/sources.md"), "Sources").partition("\n## ")[0]
    assert rows(text, "Counter").keys() == runner._counters.keys()


# What travels.


def test_every_reason_for_quarantine_is_listed_and_explained() -> None:
    files = [ROOT / "lab_contract" / "batch.py", *(ROOT / "hub" / "ingest").glob("*.py")]
    reasons = {name for file in files for name in re.findall(r'BatchRejected\(\s*"(\w+)"', file.read_text("utf-8"))}
    listed = rows(section(read("reference/wire.md"), "Reasons for quarantine"), "Reason")
    explained = rows(section(read("how-to/read-faults.md"), "Batches kept aside"), "Reason")
    assert reasons == listed.keys() == explained.keys()


def test_status_and_acknowledgement_stand_in_their_paper_with_every_key() -> None:
    paper = read("reference/wire.md")
    assert rows(section(paper, "Acknowledgement"), "Key").keys() == Ack.model_fields.keys()
    assert rows(section(paper, "Replay"), "Key").keys() == Replay.model_fields.keys()
    assert {*Probe.model_fields, *Time.model_fields} <= code(section(paper, "Clock"))
    status = section(paper, "Status")
    assert rows(status, "Key").keys() == EdgeStatus.model_fields.keys()
    assert {*KitStatus.model_fields, *ConnectionStatus.model_fields, *Kept.model_fields} <= code(status)


def test_every_reason_of_a_gap_stands_in_its_paper() -> None:
    gap = section(read("reference/wire.md"), "Gap")
    assert rows(gap, "Gap reason").keys() == set(GapReason)
    assert {f"{name}: {kind}" for name, kind in gap_columns()} <= {
        re.sub(r"\?$", "", part) for part in re.findall(r"\w+: \w+\??", gap)
    }


def test_every_counter_of_the_agent_stands_in_its_paper(tmp_path: Path) -> None:
    clock = SystemClock()
    spool = Spool(tmp_path, edge="edge-1", clock=clock, limit_bytes=1)
    offset = ClockOffset(clock)
    uplink = Uplink(
        edge="edge-1",
        spool=spool,
        kits=tuple,
        counters=dict,
        health=Health(clock),
        clock=clock,
        offset=offset,
        make_link=functools.partial(MqttLink, "mqtt://127.0.0.1"),
    )
    batcher = Batcher(edge="edge-1", kit="kit-1", epoch=1, streams=(), take_seq=lambda: 0)
    nothing: Callable[..., None] = lambda *_: None  # noqa: E731
    link = MqttLink("mqtt://127.0.0.1", client_id="x", on_message=nothing, on_connection=nothing)
    counters = {
        *("spool_batches", "spool_bytes", "kept_batches", "kept_bytes", "waiting"),
        *(n for part in (uplink, spool, offset, batcher, Outbox(spool, nothing, clock=clock)) for n in part.counters),
        *(f"link_{name}" for name in link.counters),
    }
    assert rows(section(read("reference/wire.md"), "Status"), "Counter of the agent").keys() == counters


def test_every_live_message_stands_in_its_paper_with_its_keys() -> None:
    text = section(read("reference/wire.md"), "Live messages")
    session = (ROOT / "hub" / "live" / "session.py").read_text("utf-8")
    assert rows(text, "Kind").keys() == set(re.findall(r'(?:_say|messages\.text)\(\s*"(\w+)"', session))
    keys = set(re.findall(r'"(\w+)":', (ROOT / "hub" / "live" / "messages.py").read_text("utf-8")))
    assert keys <= code(text)


def test_every_message_of_kit_link_stands_in_its_paper() -> None:
    names = code(section(read("reference/wire.md"), "Kit link"))
    assert {kind.name for kind in kit_link.Type} <= names
    for group in kit_link.GROUPS.values():
        assert {group.name, *group.fields} <= names


# HTTP.


def rule_of(dependant: Dependant) -> str:
    for inner in dependant.dependencies:
        if isinstance(inner.call, AccessRule):
            return inner.call.name
    raise AssertionError("a route without a rule")


def test_every_route_stands_in_the_http_api_with_who_may_call_it() -> None:
    routes: dict[str, str] = {}
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute | APIWebSocketRoute)
            # HEAD beside GET is said in words.
            for method in getattr(route, "methods", {"WS"}) - {"HEAD"}:
                path = re.sub(r"\{(\w+?)_id\}", r"{\1}", route.path)
                routes[f"{method} {path}"] = rule_of(route.dependant)
    paper = {route: cells[1] for route, cells in rows(read("reference/http-api.md"), "Route").items()}
    assert paper == routes


def test_every_counter_of_ingest_stands_in_the_http_api() -> None:
    ingest = Ingest(
        access=HubAccess("mqtt://127.0.0.1", "hub", ""),
        store=None,  # type: ignore[arg-type] - nothing is stored
        kits=dict,
        clock=SystemClock(),
        on_committed=lambda _: None,
        on_status=lambda *_: None,
    )
    assert ingest.health().counters.keys() <= code(section(read("reference/http-api.md"), "JSON"))


# Commands.


class _Parsed(Exception):
    """Carries a program's parser out of it."""


def parser_of(main: Callable[..., int], *arguments: str) -> argparse.ArgumentParser:
    def stop(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise _Parsed(parser)

    with patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            main(list(arguments))
        except _Parsed as parsed:
            return parsed.args[0]
    raise AssertionError("the program parses no arguments")


def commands(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands below a parser that have none below themselves."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield name, parser
    for group in groups:
        for word, below in group.choices.items():
            yield from commands(f"{name} {word}", below)


def every_command() -> dict[str, argparse.ArgumentParser]:
    found = dict(commands("epip-edge", parser_of(edge_agent.cli.main)))
    found |= commands("epip-hub", parser_of(hub.cli.main))
    found |= commands("epip-demo", parser_of(simulators.workshop.main))
    for kit in simulators.cli.KITS:  # only the kit that is named gets its options
        found |= {
            name: parser
            for name, parser in commands("epip-sim", parser_of(simulators.cli.main, kit))
            if name == f"epip-sim {kit}"
        }
    return found


def test_the_programs_are_those_of_the_papers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert {name.split()[0] for name in every_command()} == project["project"]["scripts"].keys()


def test_every_command_stands_in_its_paper_with_its_options() -> None:
    paper = read("reference/cli.md")
    headings = re.findall(r"^### `(.+)`$", paper, re.MULTILINE)
    for name, parser in every_command().items():
        heading = next((heading for heading in headings if f"{heading} ".startswith(f"{name} ")), name)
        text = section(paper, f"`{heading}`")
        common = section(paper, name.split()[0]).partition("\n### ")[0]
        actions = [action for action in parser._actions if action.dest != "help"]
        options = {option for action in actions for option in action.option_strings}
        assert {option.split()[0] for option in rows(text, "Option") | rows(common, "Option")} == options, name
        words = {word for words in code(text) for word in words.split()}
        for action in actions:
            assert action.option_strings or (action.metavar or action.dest).lower() in heading.lower(), name
            assert set(action.choices or ()) <= words, name


# Dependencies, links, index.


def test_every_dependency_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(name for group in project["optional-dependencies"].values() for name in group),
    ]
    names = {re.split(r"[\[<>=~! ]", one)[0] for one in wanted} - {project["name"]}
    words = set(re.findall(r"[a-z0-9-]+", read("reference/dependencies.md")))
    assert names <= words, names - words


@pytest.mark.parametrize("paper", papers(), ids=lambda paper: paper.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(paper: Path) -> None:
    for link in links(paper.read_text("utf-8")):
        if re.match(r"\w+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (paper.parent / place).resolve() if place else paper
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target.read_text("utf-8")), link


def test_every_paper_is_in_an_index() -> None:
    for folder in (ROOT / "docs", ROOT / "docs" / "decisions"):
        index = {
            (folder / link.partition("#")[0]).resolve() for link in links((folder / "README.md").read_text("utf-8"))
        }
        below = set(folder.rglob("*.md")) - set((ROOT / "docs" / "decisions").glob("0*.md"))
        wanted = below if folder.name == "docs" else set(folder.glob("0*.md"))
        assert wanted - {folder / "README.md"} <= index


@pytest.mark.parametrize("paper", papers(), ids=lambda paper: paper.relative_to(ROOT).as_posix())
def test_no_paper_names_a_path_of_one_machine(paper: Path) -> None:
    text = paper.read_text("utf-8")
    assert not re.findall(r"(?<![\w.~%])/(?:home|root|work|tmp|usr|opt|var|etc|srv|mnt|Users)/\S*", text)
    assert not re.findall(r"\b[A-Z]:\\\S*", text)


# Snippets.


def checked_as_edge_settings(snippet: Snippet, text: str, folder: Path) -> None:
    """As `epip-edge check` does, with the files beside it that the paper shows or speaks of."""
    for other in snippets("yaml"):
        if other.paper == snippet.paper and other.file:
            (folder / other.file).parent.mkdir(exist_ok=True)
            (folder / other.file).write_text(other.text, "utf-8")
    for name in re.findall(r'password_file = "(.+)"', text):
        (folder / name).touch(0o600)
        (folder / name).write_text("secret")
    (folder / "edge.toml").write_text(text, "utf-8")
    load_settings(folder / "edge.toml")


@pytest.mark.parametrize("snippet", [*snippets("toml")], ids=str)
def test_every_snippet_of_settings_passes_the_check(snippet: Snippet, tmp_path: Path) -> None:
    keys = tomllib.loads(snippet.text).keys()
    if "edge" in keys:
        checked_as_edge_settings(snippet, snippet.text, tmp_path)
    elif "kits" in keys:
        checked_as_edge_settings(snippet, f"{HUB}{snippet.text}", tmp_path)
    else:
        hub.settings.parse_settings(snippet.text, tmp_path / "hub.toml")


@pytest.mark.parametrize("snippet", [*snippets("yaml")], ids=str)
def test_every_snippet_of_a_kit_model_is_one(snippet: Snippet) -> None:
    if "schema:" in snippet.text:
        parse_kit_model(snippet.text, str(snippet))
        return
    for key, part in yaml.safe_load(snippet.text).items():
        TypeAdapter(KitModel.model_fields[key].annotation).validate_python(part)


def test_there_are_snippets_to_check() -> None:
    assert {"toml", "yaml", "python", "sh"} <= {one.language for one in snippets("toml", "yaml", "python", "sh")}
