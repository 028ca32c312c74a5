"""Who is acting: the name that migration events carry."""

from __future__ import annotations

import os
import socket

from segue.registry.ledger import default_actor


def actor() -> str:
    """Return `user@host:pid` of this process."""
    return f"{default_actor()}@{socket.gethostname()}:{os.getpid()}"
