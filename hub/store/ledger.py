"""What the ledger's answer means for each batch of an append, whatever keeps the ledger. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hub.store.base import DecodedBatch, Outcome

BatchId = tuple[str, int, int]
"""(edge, epoch, seq)"""


def first_of_each(batches: Sequence[DecodedBatch]) -> dict[BatchId, DecodedBatch]:
    """The batches by id; of several with one id the first, which is the one that may be stored."""
    first: dict[BatchId, DecodedBatch] = {}
    for batch in batches:
        first.setdefault(batch.header.id, batch)
    return first


def outcomes(batches: Sequence[DecodedBatch], known: Mapping[BatchId, int]) -> list[Outcome]:
    """What becomes of each batch, in the same order; `known` are the checksums of the ids that were there before."""
    checksums = dict(known)
    found: list[Outcome] = []
    for batch in batches:
        header = batch.header
        if header.id not in checksums:
            checksums[header.id] = header.crc
            found.append(Outcome.STORED)
        else:
            found.append(Outcome.DUPLICATE if checksums[header.id] == header.crc else Outcome.CONFLICT)
    return found
