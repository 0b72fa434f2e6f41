"""What the InfluxDB store writes: receives samples as Arrow columns and records, hands on line protocol.

Pure. Measurements, each with the tag `kit` unless said otherwise:

* `sample`: tag `channel`; fields `v` float (absent: no number), `q` int (absent beside a number: 0, Good), `s` string,
  `ts` and `tr` int, the server's and the receipt time. Tag `twin` 1, 2, ... on further samples of the same channel and
  nanosecond, which would else be one point;
* `rollup_1s`: tag `channel`; fields `n` int, `lo`, `hi`, `total` float of the numbers in the second;
* `gap`: tags `stream`, `reason`; fields `t_from`, `t_to`, `count` int;
* `clock`: fields `offset`, `uncertainty` int (ns);
* `result`: tags `kit_model`, `workshop`, `task`; fields `score`, `duration` float, `passed` bool, `measures` string (a
  JSON object) and each measure as a float `m_NAME`;
* `mark`: no tag; field `n` int, the number of the write; in every body one in each hour that the body has points in;
* `meta`: no tag; fields `store_id` string, `write` int, at META_NS.

Escapes as in the InfluxDB line protocol reference: comma, equals sign, space in tags; quote, backslash in strings.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hub.store.base import SECOND, Result
from lab_contract.batch import Gap

META_NS = 4_102_444_800 * SECOND
"""2100-01-01: a time that no retention policy ever reaches."""
LINES = 5_000
"""Of one body: larger ones are no faster and hold the server's memory longer."""
SLICE = 5 * LINES
"""Lines made at once: the first are on their way while the others are made."""
GAP_SPREAD_NS = 1_000_000


def tag(value: str) -> str:
    """A tag's value or key, escaped. Line protocol has no escape for a trailing backslash or a line's end."""
    return value.replace(",", r"\,").replace("=", r"\=").replace(" ", r"\ ")


def text(value: str) -> str:
    """A string field's value, quoted."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def identifier(name: str) -> str:
    """An identifier in InfluxQL, quoted."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def literal(value: str) -> str:
    """A string in InfluxQL, quoted."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def sample_bodies(
    samples: pa.Table,
    series: Sequence[tuple[str, str]],
    twins: NDArray[np.int64] | None = None,
    mark: Callable[[NDArray[np.int64]], bytes] | None = None,
) -> Iterator[bytes]:
    """The lines of samples in bodies of LINES, made as they are asked for, each with the lines that `mark` has for its
    times.
    """
    for first in range(0, samples.num_rows, SLICE):
        some = None if twins is None else twins[first : first + SLICE]
        part = samples.slice(first, SLICE)
        t = part["t"].to_numpy()
        for number, body in enumerate(bodies(sample_lines(part, series, some))):
            yield body if mark is None else body + mark(t[number * LINES : (number + 1) * LINES])


def sample_lines(
    samples: pa.Table, series: Sequence[tuple[str, str]], twins: NDArray[np.int64] | None = None
) -> pa.StringArray:
    """One line a sample, each with its line's end; columns as in `hub/store/columns.py`.

    `series` are (kit, channel) by number; `twins` int64 (n,), 0 for the first sample of its channel and time.
    """
    column = {name: samples[name].combine_chunks() for name in samples.column_names}
    heads = _heads(column["series"].to_numpy(), series, twins)
    stamps = column["t"].cast(pa.string())
    plain = _plain_fields(column)
    fields = plain if plain is not None else [_mixed_fields(column)]
    return pc.binary_join_element_wise(heads, " ", *fields, " ", stamps, "\n", "")


def _plain_fields(column: Mapping[str, pa.Array]) -> list[pa.Array | str] | None:
    """The pieces of the fields where every line has the same ones, as most have; None where not."""
    value, n = column["value"], len(column["value"])
    if value.null_count or column["text"].null_count < n or pc.any(pc.not_equal(column["quality"], 0)).as_py():
        return None
    pieces: list[pa.Array | str] = ["v=", value.cast(pa.string())]
    for name, times in (("ts", column["t_server"]), ("tr", column["t_receipt"])):
        if 0 < times.null_count < n:
            return None
        if times.null_count == 0:
            pieces += [f",{name}=", times.cast(pa.string()), "i"]
    return pieces


def _mixed_fields(column: Mapping[str, pa.Array]) -> pa.StringArray:
    value, quality, n = column["value"], column["quality"], len(column["value"])
    fields = [pc.binary_join_element_wise("v=", value.cast(pa.string()), "")]
    needed = pc.or_(pc.is_null(value), pc.not_equal(quality, 0))
    shown = pc.if_else(needed, quality.cast(pa.string()), pa.scalar(None, pa.string()))
    fields.append(pc.binary_join_element_wise("q=", shown, "i", ""))
    words = column["text"]
    if words.null_count < n:
        words = pc.replace_substring(pc.replace_substring(words, "\\", "\\\\"), '"', '\\"')
        fields.append(pc.binary_join_element_wise('s="', words, '"', ""))
    for name, times in (("ts", column["t_server"]), ("tr", column["t_receipt"])):
        if times.null_count < n:
            fields.append(pc.binary_join_element_wise(f"{name}=", times.cast(pa.string()), "i", ""))
    return pc.binary_join_element_wise(*fields, ",", null_handling="skip")


def _heads(of: NDArray[np.int32], series: Sequence[tuple[str, str]], twins: NDArray[np.int64] | None) -> pa.StringArray:
    heads = [f"sample,channel={tag(channel)},kit={tag(kit)}" for kit, channel in series]
    if twins is not None:
        # Few: a key for each pair that occurs.
        keys = np.stack((of, twins))
        pairs, of = np.unique(keys, axis=1, return_inverse=True)
        of = of.ravel()
        heads = [heads[number] + (f",twin={twin}" if twin else "") for number, twin in pairs.T.tolist()]
    return pa.array(heads, pa.string()).take(pa.array(of))


def bodies(lines: pa.StringArray, lines_each: int = LINES) -> Iterator[bytes]:
    """The lines in bodies of so many. The string array's own buffer is the body: nothing is joined once more."""
    _, offsets, data = lines.buffers()
    starts = np.frombuffer(offsets, dtype=np.int32)[lines.offset :]
    whole = memoryview(data) if data is not None else memoryview(b"")
    for first in range(0, len(lines), lines_each):
        yield bytes(whole[starts[first] : starts[min(first + lines_each, len(lines))]])


def rollup_line(kit: str, channel: str, t: int, n: int, lo: float, hi: float, total: float) -> str:
    """The roll-up of one channel's second that begins at `t`; `n` numbers."""
    return f"rollup_1s,channel={tag(channel)},kit={tag(kit)} n={n}i,lo={lo!r},hi={hi!r},total={total!r} {t}\n"


def gap_line(kit: str, gap: Gap) -> str:
    """A gap, at its beginning.

    Two gaps of one stream and reason that begin together must not become one point, so the point's time is shifted by
    less than a millisecond that depends on the rest of the gap; `t_from` is exact.
    """
    shift = zlib.crc32(f"{gap.t_to} {gap.count}".encode()) % GAP_SPREAD_NS
    count = "" if gap.count is None else f",count={gap.count}i"
    head = f"gap,kit={tag(kit)},reason={tag(gap.reason.value)},stream={tag(gap.stream)}"
    return f"{head} t_from={gap.t_from}i,t_to={gap.t_to}i{count} {gap.t_from + shift}\n"


def clock_line(kit: str, t: int, offset_ns: int, uncertainty_ns: int) -> str:
    """The clock offset of the kit's edge, from `t` on."""
    return f"clock,kit={tag(kit)} offset={offset_ns}i,uncertainty={uncertainty_ns}i {t}\n"


def result_line(result: Result) -> str:
    """A task's result, at the time it ended."""
    tags = {"kit": result.kit, "kit_model": result.kit_model, "task": result.task, "workshop": result.workshop}
    fields = {
        "score": repr(float(result.score)),
        "duration": repr(float(result.duration_s)),
        "passed": "true" if result.passed else "false",
        "measures": text(json.dumps(dict(result.measures), sort_keys=True)),
        **{f"m_{name}": repr(float(value)) for name, value in sorted(result.measures.items())},
    }
    return f"result{_pairs(tags)} {_fields(fields)} {result.t}\n"


def _pairs(tags: Mapping[str, str]) -> str:
    # An empty tag is no tag to the server.
    return "".join(f",{tag(name)}={tag(value)}" for name, value in tags.items() if value)


def _fields(fields: Mapping[str, str]) -> str:
    return ",".join(f"{tag(name)}={value}" for name, value in fields.items())


def identity_line(store_id: str) -> str:
    """The store's id: it belongs to the database, not to the hub."""
    return f"meta store_id={text(store_id)} {META_NS}\n"


def time_of(line: str) -> int:
    """The time (UTC ns) at the end of a line."""
    return int(line[line.rindex(" ") + 1 :])


def mark_line(number: int, t: int) -> str:
    """A mark of the write `number` at `t`."""
    return f"mark n={number}i {t}\n"


def write_line(number: int) -> str:
    """How many appends the database has seen: tells one that was restored from an older copy."""
    return f"meta write={number}i {META_NS}\n"


def retention_line(samples_from_ns: int) -> str:
    """Samples before this time have been deleted by the hub."""
    return f"meta samples_from={samples_from_ns}i {META_NS}\n"
