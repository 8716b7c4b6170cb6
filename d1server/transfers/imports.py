"""Imports: a file of SQL that a client sends, run as one transaction.

    init -> the client uploads to a signed URL -> ingest: ACTIVE -> COMPLETE | FAILED
    poll: held for a second, tells the state; of the newest import also after its end

A file is kept until it was imported, so what broke off in the middle is repeated without
sending it again: `init` finds it by its MD5 and begins at once.

Invariants:

1. At most one import of a database is ACTIVE, and at most `_RUNNING_MAX` of the node run.
2. The answer of an import is stored in its own transaction. So after a crash it is known
   whether it was done (`_settle`): "interrupted" means that nothing of it is there.

On the event loop; the work itself is `engine/load.py`, on a thread with the writer.
"""

import asyncio
import logging
import secrets
from typing import Final

import aiosqlite
import apsw

from d1server.administration import success
from d1server.catalog import CatalogEntry
from d1server.nodedb import NodeDb
from d1server.query import Answer
from d1server.transfers.bodies import (
    IMPORT_BUSY,
    NOT_IMPORTING,
    Init,
    Poll,
    read_etag,
    read_import,
    refused,
)
from d1server.transfers.import_job import FIND, FORGET, INTERRUPTED, SAVE, Import, recall
from d1server.transfers.jobs import Status, hold
from d1server.transfers.signing import SIGNED_PREFIX, SignUrl
from d1server.transfers.uploads import Uploads
from engine.errors import DiskFull, EngineError, StatementRefused
from engine.load import SqlLoad
from engine.ondemand import Retired
from engine.wal import PAGE_SIZE
from primary.committer import Spawn
from primary.database import PrimaryDatabase
from primary.errors import PrimaryError, WriteUnknown
from primary.idempotency import find_answer
from primary.writer import KeyedWrite
from proto.api import ServedBy
from proto.errors import RequestInvalid

logger = logging.getLogger(__name__)

IMPORTS_PATH: Final = f"{SIGNED_PREFIX}imports/"
_URL_S: Final = 3600.0
_RUNNING_MAX: Final = 2  # each takes one of the threads that also make commits durable
_RUN_S_MAX: Final = 6 * 3600.0
_STOP_AGAIN_S: Final = 0.05


class Imports:
    """See the module's head."""

    db: NodeDb
    """Set before use."""

    def __init__(
        self, uploads: Uploads, served: ServedBy, *, spawn: Spawn, sign_url: SignUrl
    ) -> None:
        """Import what is in `uploads`."""
        self.uploads = uploads
        self._served = served
        self._spawn = spawn
        self._sign_url = sign_url
        self._slots = asyncio.Semaphore(_RUNNING_MAX)
        self._newest: dict[bytes, Import] = {}

    async def answer(self, database: PrimaryDatabase, entry: CatalogEntry, body: bytes) -> Answer:
        """Take one call."""
        asked = read_import(body)
        job = await self._recalled(database, entry)
        if isinstance(asked, Poll):
            if job is None or asked.current_bookmark not in (None, job.bookmark):
                return refused(NOT_IMPORTING)
            return await _held(job)
        if isinstance(asked, Init):
            filename = f"{entry.id}.{read_etag(asked.etag)}.sql"
            if job is not None and job.is_news and job.filename == filename:
                return await _held(job)
            if not self.uploads.is_whole(filename):
                return self._upload(filename)
        else:
            filename = asked.filename
        if job is None or job.status is not Status.ACTIVE:
            job = await self._started(database, entry, filename)
        elif job.filename != filename:
            return refused(IMPORT_BUSY)
        return await _held(job)

    async def forget(self, entry: CatalogEntry) -> None:
        """The database is being deleted."""
        job = self._newest.pop(entry.uuid, None)
        if job is not None:
            await _stopped(job)
        self.uploads.remove_all(entry.id)
        await self.db.run(FORGET, (entry.id,))

    async def close(self) -> None:
        """Stop all; their databases are closed next."""
        for job in list(self._newest.values()):
            await _stopped(job)

    def _upload(self, filename: str) -> Answer:
        told = {
            "success": True,
            "filename": filename,
            "upload_url": self._sign_url("PUT", IMPORTS_PATH + filename, _URL_S),
            "uploaded_bytes": self.uploads.bytes_received(filename),
        }
        return success(told)

    async def _started(
        self, database: PrimaryDatabase, entry: CatalogEntry, filename: str
    ) -> Import:
        etag = filename.removeprefix(f"{entry.id}.").removesuffix(".sql")
        if filename != f"{entry.id}.{read_etag(etag)}.sql":
            raise RequestInvalid("filename: send the one that init gave for this database")
        if not self.uploads.is_whole(filename):
            raise RequestInvalid(f"{filename} has not been uploaded, or was imported already")
        source = SqlLoad(self.uploads.path(filename))
        job = Import(secrets.token_hex(16), filename, database.durable.text, source=source)
        job.bytes_total = source.path.stat().st_size
        self._newest[database.uuid] = job
        try:
            await self._save(entry, job)
        except BaseException:
            del self._newest[database.uuid]
            raise
        job.task = self._spawn(self._run(database, entry, job), f"import:{database.uuid.hex()}")
        return job

    async def _run(self, database: PrimaryDatabase, entry: CatalogEntry, job: Import) -> None:
        source = job.source
        assert source is not None
        is_known = True
        try:
            async with self._slots, database.demand.used() as opened:
                job.committer = opened.committer
                keyed = KeyedWrite(job.key, lambda results: job.encoded(results[0], self._served))
                written = await opened.committer.load(source, keyed, budget_s=_RUN_S_MAX)
            job.done(
                job.encoded(written.results[0], self._served),
                written.bookmark.text,
                written.page_count * PAGE_SIZE,
            )
            self.uploads.remove(job.filename)
        except StatementRefused as exc:
            job.refused(exc)
            self.uploads.remove(job.filename)
        except WriteUnknown as exc:
            is_known = False
            job.error = str(exc)
        except (EngineError, PrimaryError, Retired, OSError, apsw.Error) as exc:
            job.error = INTERRUPTED if source.is_stopped else str(exc)
        finally:
            if job.status is Status.ACTIVE:
                job.fail("internal error")
                logger.info("an import into %s failed: %s", entry.name, job.error)
            job.committer = None
            job.ended.set()
        if is_known:
            try:
                await self._save(entry, job)
            except (DiskFull, aiosqlite.Error) as exc:  # the database itself knows how it ended
                logger.warning("the end of an import into %s is not noted: %s", entry.name, exc)
        else:
            self._newest.pop(database.uuid, None)  # asked again, `_recalled` finds out

    async def _recalled(self, database: PrimaryDatabase, entry: CatalogEntry) -> Import | None:
        """The newest import of the database, also of an earlier process."""
        known = self._newest.get(database.uuid)
        if known is not None:
            return known
        rows = await self.db.rows(FIND, (entry.id,))
        if not rows:
            return self._newest.get(database.uuid)  # another call may have begun one meanwhile
        job = recall(rows[0])
        if job.status is Status.ACTIVE:
            await self._settle(database, job)
            await self._save(entry, job)
        return self._newest.setdefault(database.uuid, job)

    async def _settle(self, database: PrimaryDatabase, job: Import) -> None:
        """Find out whether an import was done that the end of its process cut short."""
        async with database.demand.used() as opened:
            answer = find_answer(opened.live.reader.sandbox, job.key)
            await opened.committer.wait_durable()
        if answer is None:
            job.fail(INTERRUPTED)
        else:
            job.done(answer, database.durable.text, database.ends.page_count * PAGE_SIZE)
            job.is_news = True
            self.uploads.remove(job.filename)
        job.ended.set()

    async def _save(self, entry: CatalogEntry, job: Import) -> None:
        try:
            await self.db.run(SAVE, (entry.id, *job.row()))
        except aiosqlite.OperationalError as exc:
            if "full" not in str(exc):
                raise
            raise DiskFull("the disk is full: free some space and try again") from exc


async def _held(job: Import) -> Answer:
    await hold(job.ended)
    if job.status is not Status.ACTIVE:
        job.is_news = False
    return job.told()


async def _stopped(job: Import) -> None:
    """End a job's task: the thread at its next statement, unless it commits already."""
    if job.task is None:
        return
    while not job.task.done():
        if job.committer is not None and job.source is not None:
            job.committer.stop_load(job.source)
        else:
            job.task.cancel()
        await asyncio.wait([job.task], timeout=_STOP_AGAIN_S)
