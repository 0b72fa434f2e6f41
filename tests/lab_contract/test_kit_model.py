"""A technician who mistypes a kit model is told file, place and expected value; the shipped ones have no fault."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml

from lab_contract import kit as kit_module
from lab_contract.errors import KitModelInvalid
from lab_contract.kit import KitModel, builtin_kit_models, find_kit_model, json_schema, load_kit_model, parse_kit_model

LABEL = {"en": "a", "zh": "b", "ru": "c"}


def small_model() -> dict:
    # Copied, because the tests break single labels and YAML would write shared ones as aliases.
    return copy.deepcopy(MODEL)


MODEL = {
    "schema": "kit-model/1",
    "id": "bench",
    "family": "iot",
    "version": "1.0.0",
    "label": LABEL,
    "description": LABEL,
    "state_channel": "box.state",
    "stations": [{"id": "box", "label": LABEL}],
    "connections": [{"id": "link", "protocol": "mqtt", "label": LABEL}],
    "channels": [
        {
            "id": "box.state",
            "label": LABEL,
            "kind": "enum",
            "connection": "link",
            "values": [{"value": 0, "id": "Idle", "label": LABEL}, {"value": 1, "id": "Run", "label": LABEL}],
        },
        {
            "id": "box.heat",
            "label": LABEL,
            "kind": "float",
            "unit": "degC",
            "connection": "link",
            "limits": {"hi": 60},
        },
    ],
    "safe_state": {"description": LABEL, "reached_within_s": 1, "actions": [LABEL], "triggers": [LABEL]},
    "heartbeat": {"safe_s": 3},
}


def parse(document: dict) -> KitModel:
    return parse_kit_model(yaml.safe_dump(json.loads(json.dumps(document))), "bench.yaml")


def test_the_small_model_is_whole() -> None:
    model = parse(small_model())
    assert model.channel_by_id["box.state"].state_name(1) == "Run"
    assert model.channel_by_id["box.state"].state_name(9) is None
    assert model.digest == parse(small_model()).digest


def change(path: str, value: object) -> dict:
    document = small_model()
    at: object = document
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        at = at[part]  # type: ignore[index]
    if value is None:
        del at[last]  # type: ignore[attr-defined]
    else:
        at[last] = value  # type: ignore[index]
    return document


@pytest.mark.parametrize(
    ("path", "value", "place", "words"),
    [
        ("schema", "kit-model/9", "schema", "kit-model/1"),
        ("id", "Bench!", "id", "pattern"),
        ("label.ru", None, "label.ru", "expected this key"),
        ("channels.0.kind", "colour", "channels[0].kind", "'bool', 'int', 'float', 'enum' or 'text'"),
        ("channels.0.values", [], "channels[0]", "`values` for kind enum"),
        (
            "channels.1.connection",
            "lonk",
            "channels[1].connection",
            "expected a connection of this kit model, found 'lonk'",
        ),
        ("channels.1.limits", {"hi": 60, "hi_hi": 50}, "channels[1].limits", "lo_lo < lo < hi < hi_hi"),
        ("channels.1.limits", {}, "channels[1].limits", "at least one of"),
        ("channels.1.unit", 7, "channels[1].unit", "valid string, found 7"),
        ("channels.1.colour", "red", "channels[1].colour", "expected no such key"),
        ("channels.1.id", "box.state", "channels[1]", "each id once"),
        ("channels.1.id", "bax.heat", "channels[1].id", "expected a station of this kit model, found 'bax'"),
        ("state_channel", "box.nothing", "state_channel", "expected a channel of this kit model"),
        ("heartbeat.safe_s", -1, "heartbeat.safe_s", "greater than 0, found -1"),
    ],
)
def test_each_fault_names_file_place_and_expected_value(path: str, value: object, place: str, words: str) -> None:
    with pytest.raises(KitModelInvalid) as fault:
        parse(change(path, value))
    line = str(fault.value).splitlines()[0]
    assert line.startswith(f"bench.yaml: {place}: ")
    assert words in line


def test_all_faults_are_told_at_once() -> None:
    document = change("channels.1.connection", "lonk")
    document["state_channel"] = "box.none"
    with pytest.raises(KitModelInvalid) as fault:
        parse(document)
    assert len(fault.value.problems) == 2


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: [1\nb: 2", "line 2, column 2"),
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1"),
        ("- 1", "document"),
        ("", "document"),
        ("a: \x00", ""),
    ],
)
def test_what_is_no_yaml_mapping_is_said_with_its_place(text: str, place: str) -> None:
    with pytest.raises(KitModelInvalid) as fault:
        parse_kit_model(text, "bench.yaml")
    assert f"bench.yaml: {place}" in str(fault.value)


def test_a_file_that_is_not_there_or_not_text_is_said(tmp_path: Path) -> None:
    (tmp_path / "raw.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("none.yaml", "raw.yaml"):
        with pytest.raises(KitModelInvalid, match="readable UTF-8"):
            load_kit_model(tmp_path / name)


def test_an_unknown_model_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(KitModelInvalid, match="plc_line"):
        find_kit_model("plc_lines", tmp_path)


def test_the_committed_schema_is_the_generated_one() -> None:
    committed = (Path(kit_module.__file__).parent / kit_module.SCHEMA_FILE).read_text("utf-8")
    assert committed == json_schema(), "run: python -m lab_contract.kit"
    assert json.loads(committed)["title"] == "KitModel"


def test_the_three_families_ship_and_name_their_schema_for_editors() -> None:
    models = builtin_kit_models()
    assert set(models) == {"plc_line", "robot_cell", "bci_platform"}
    folder = Path(kit_module.__file__).parent / "kits"
    for name in models:
        first = (folder / f"{name}.yaml").read_text("utf-8").splitlines()[0]
        assert first == "# yaml-language-server: $schema=../schemas/kit_model.schema.json"


@pytest.mark.parametrize("name", ["plc_line", "robot_cell", "bci_platform"])
def test_every_label_is_really_translated(name: str) -> None:
    model = find_kit_model(name, Path())

    def labels(part: object) -> list[dict]:
        if isinstance(part, dict):
            if set(part) == {"en", "zh", "ru"}:
                return [part]
            return [label for value in part.values() for label in labels(value)]
        if isinstance(part, list | tuple):
            return [label for value in part for label in labels(value)]
        return []

    found = labels(model.model_dump(mode="json"))
    assert len(found) > 50
    for label in found:
        has_letters = any(character.isalpha() for character in label["en"])
        if has_letters and len(label["en"]) > 6:
            assert any("\u4e00" <= character <= "\u9fff" for character in label["zh"]), label
            assert any("\u0400" <= character <= "\u04ff" for character in label["ru"]), label
