"""Pure measurement: VAL at FAR, ROC, verification, identification, compatibility, the gate.

Nothing here knows files of faces, models or galleries: vectors and labels in, values out. All is
numpy; matplotlib is loaded when a picture is drawn.
"""

from __future__ import annotations

from segue.evaluation.bootstrap import Estimate
from segue.evaluation.compatibility import CompatibilityData, measure_compatibility
from segue.evaluation.gate import Check, GateResult, evaluate_gate
from segue.evaluation.identification import identify, mean_average_precision, rank1
from segue.evaluation.matrix import MatrixCell, VersionMatrix, measure_matrix
from segue.evaluation.matrix_report import render_matrix, write_matrix
from segue.evaluation.report import render_markdown, write_report
from segue.evaluation.results import CompatibilityReport, Row
from segue.evaluation.roc import ValAtFar, auc, roc_curve, val_at_far
from segue.evaluation.subject import Named, Subject, SubjectEdge
from segue.evaluation.upgrade import Figure, UpgradeFigures, measure_upgrade
from segue.evaluation.verification import Verification, read_pairs, verify

__all__ = [
    "Check",
    "CompatibilityData",
    "CompatibilityReport",
    "Estimate",
    "Figure",
    "GateResult",
    "MatrixCell",
    "Named",
    "Row",
    "Subject",
    "SubjectEdge",
    "UpgradeFigures",
    "ValAtFar",
    "Verification",
    "VersionMatrix",
    "auc",
    "evaluate_gate",
    "identify",
    "mean_average_precision",
    "measure_compatibility",
    "measure_matrix",
    "measure_upgrade",
    "rank1",
    "read_pairs",
    "render_markdown",
    "render_matrix",
    "roc_curve",
    "val_at_far",
    "verify",
    "write_matrix",
    "write_report",
]
