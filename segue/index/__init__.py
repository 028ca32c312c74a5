"""The gallery: catalog and Parquet segments, mixed search, erasure, one batch of a re-embedding.

Importing this loads neither faiss nor duckdb nor pyarrow; a search by vectors loads no torch and
no mlflow.
"""

from __future__ import annotations

from segue.index.edges import Way
from segue.index.gallery import Gallery, list_galleries
from segue.index.items import (
    Answer,
    AppliedThreshold,
    Enrolment,
    Erasure,
    GalleryStats,
    Hit,
    ItemFailure,
    NewItem,
    PairResult,
    Probe,
    Reembedded,
    StoredItem,
    StoredRow,
    Threshold,
)
from segue.index.leases import Lease, acquire_lease

__all__ = [
    "Answer",
    "AppliedThreshold",
    "Enrolment",
    "Erasure",
    "Gallery",
    "GalleryStats",
    "Hit",
    "ItemFailure",
    "Lease",
    "NewItem",
    "PairResult",
    "Probe",
    "Reembedded",
    "StoredItem",
    "StoredRow",
    "Threshold",
    "Way",
    "acquire_lease",
    "list_galleries",
]
