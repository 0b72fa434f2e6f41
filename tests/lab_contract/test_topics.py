"""A topic that is read wrongly would give one edge's data to another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab_contract.errors import TopicInvalid
from lab_contract.topics import IDENTIFIER, Kind, every_edge, parse, topic

ids = st.from_regex(IDENTIFIER, fullmatch=True)


@given(edge=ids, kind=st.sampled_from(Kind))
def test_a_topic_names_its_edge_and_kind_both_ways(edge: str, kind: Kind) -> None:
    parsed = parse(topic(edge, kind))
    assert (parsed.edge, parsed.kind) == (edge, kind)


@given(st.text(max_size=60))
def test_a_foreign_topic_is_refused(name: str) -> None:
    if name.startswith("lab/v1/"):
        return
    with pytest.raises(TopicInvalid):
        parse(name)


@pytest.mark.parametrize(
    "name",
    ["lab/v1", "lab/v1/", "lab/v1/e1", "lab/v1/e1/", "lab/v1/e1/upp", "lab/v1/E1/up", "lab/v1/e1/up/", "lab/v2/e1/up"],
)
def test_a_near_miss_is_refused(name: str) -> None:
    with pytest.raises(TopicInvalid):
        parse(name)


@pytest.mark.parametrize("edge", ["", "+", "#", "a/b", "a" * 33, "a\n"])
def test_an_edge_id_that_would_widen_a_topic_is_refused(edge: str) -> None:
    with pytest.raises(TopicInvalid):
        topic(edge, Kind.UP)


def test_the_hub_hears_every_edge_by_one_subscription() -> None:
    assert every_edge(Kind.UP) == "lab/v1/+/up"
