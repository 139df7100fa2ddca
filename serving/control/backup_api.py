"""The part of the control API that gives a backup out.

POST /api/backup     {"artefacts": false}     a .tar file (backup.py)
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict
from starlette.background import BackgroundTask

from serving.control import backup
from serving.control.store import SqliteStore


class Wanted(BaseModel):
    """`artefacts`: the files of models, too."""

    model_config = ConfigDict(extra="forbid")
    artefacts: bool = False


def router(store: SqliteStore, state_dir: Path) -> APIRouter:
    """Return the route. The archive is made in the state directory, and removed when it has been sent."""
    routes = APIRouter()

    @routes.post("/api/backup")
    def make(wanted: Wanted) -> FileResponse:
        descriptor, name = tempfile.mkstemp(prefix="backup-", suffix=".tar", dir=state_dir)
        os.close(descriptor)
        file = Path(name)
        try:
            backup.write(store, file, time.time(), wanted.artefacts)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        return FileResponse(file, media_type="application/x-tar", background=BackgroundTask(file.unlink, missing_ok=True))

    return routes
