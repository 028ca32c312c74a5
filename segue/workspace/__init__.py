"""The public face of Segue: what a command does that needs several rooms.

`Workspace` opens a folder with its database, models and galleries; `training`, `measuring`,
`compatibility` and `enrolling` hold what its methods do.
"""

from __future__ import annotations

from segue.workspace.compatibility import Compatibility
from segue.workspace.core import Workspace
from segue.workspace.matrix import Matrix

__all__ = ["Compatibility", "Matrix", "Workspace"]
