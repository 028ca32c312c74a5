"""Embedding versions: register, resolve, load safely; edges, reports, ledger; MLflow beside them.

Importing this loads neither torch nor mlflow nor onnxruntime: they come with the first model that
is loaded and the first thing that is told to MLflow.
"""

from __future__ import annotations

from segue.registry.aliases import GALLERY_ALIAS, SERVING
from segue.registry.curves import far_step
from segue.registry.edge_rows import EdgeRow
from segue.registry.edges import Edge, read_edge, read_edges
from segue.registry.embedder import RegistryEmbedder
from segue.registry.gates import Gate
from segue.registry.ledger import LedgerEntry, record
from segue.registry.registry import Registry
from segue.registry.reports import StoredReport
from segue.registry.retuned import RetunedEmbedder
from segue.registry.tracking import Tracking, TrainingRun
from segue.registry.versions import Version, find_version, list_versions

__all__ = [
    "GALLERY_ALIAS",
    "SERVING",
    "Edge",
    "EdgeRow",
    "Gate",
    "LedgerEntry",
    "Registry",
    "RegistryEmbedder",
    "RetunedEmbedder",
    "StoredReport",
    "Tracking",
    "TrainingRun",
    "Version",
    "far_step",
    "find_version",
    "list_versions",
    "read_edge",
    "read_edges",
    "record",
]
