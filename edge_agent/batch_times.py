"""Beside the spool: first and last time in an encoded batch, for files that do not tell them. Rare, hence not fast."""

from __future__ import annotations

import io

import nanoarrow as na
import numpy as np
from nanoarrow.ipc import InputStream
from numpy.typing import NDArray

from lab_contract.batch import GAP_COLUMNS, Batch, Shape


def times_of(batch: Batch) -> tuple[int, int]:
    """Least and greatest time, UTC ns; of a gap batch the stretch that its gaps cover."""
    stream = na.c_array_stream(InputStream.from_readable(io.BytesIO(bytes(batch.payload))))
    view = next(iter(stream)).view()
    gap = batch.header.shape is Shape.GAP
    columns = [GAP_COLUMNS.index("t_from"), GAP_COLUMNS.index("t_to")] if gap else [0]
    times: list[NDArray[np.int64]] = [np.frombuffer(view.child(i).buffer(1), np.int64) for i in columns]
    return min(int(t.min()) for t in times), max(int(t.max()) for t in times)
