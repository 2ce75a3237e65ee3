"""Approval requests: the shots whose stored takes were put to a human, and until when an answer counts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from pydantic import AwareDatetime
from sqlalchemy import Row, delete, insert, select

from prefect_video.ledger.base import LedgerBase
from prefect_video.ledger.claims import wait_for_turn
from prefect_video.ledger.records import Record
from prefect_video.ledger.row_records import readable_rows, record_from_row
from prefect_video.ledger.tables import approval_requests
from prefect_video.shots import NoAnswerPolicy


class ApprovalRequest(Record):
    """A shot whose stored takes wait for the approval of a human, or had it.

    Attributes:
        environment: The environment of the shot's jobs.
        project: Name of the project.
        shot_id: The shot's id.
        takes: Ids of the stored jobs, by the number of the take.
        proposed: The take that counts where all is approved as it is.
        asked_at: When these takes were first put to a human.
        due_at: When an answer comes too late; None for no deadline.
        on_no_answer: What then happens.
    """

    environment: str
    project: str
    shot_id: str
    takes: dict[int, str]
    proposed: int
    asked_at: AwareDatetime
    due_at: AwareDatetime | None = None
    on_no_answer: NoAnswerPolicy

    def is_overdue(self, now: datetime) -> bool:
        """Return True where the answer is overdue."""
        return self.due_at is not None and self.due_at <= now


_COLUMNS = tuple(approval_requests.c[name] for name in ApprovalRequest.model_fields)


class ApprovalRequests(LedgerBase):
    """Requests for approval, the last one of each shot; they stay when they are answered."""

    async def read(self, project: str | None = None, *, environment: str | None = None) -> list[ApprovalRequest]:
        """Read the requests of a project, else of all, oldest first."""
        query = select(*_COLUMNS).order_by(approval_requests.c.asked_at, approval_requests.c.shot_id)
        if project is not None:
            query = query.where(approval_requests.c.project == project)
        if environment is not None:
            query = query.where(approval_requests.c.environment == environment)
        async with self._database.reading() as connection:
            return list(readable_rows(await connection.execute(query), _from_row))

    async def ask(
        self, project: str, requests: Sequence[ApprovalRequest], *, relevant: Collection[str], environment: str
    ) -> None:
        """Record requests, and withdraw those of shots that need no approval any more.

        A request about the same takes as before keeps its time, so that a run that is repeated moves no deadline.

        Args:
            project: Name of the project.
            requests: The shots that wait now.
            relevant: Ids of the shots that need an approval, given or not.
            environment: The environment of the project's jobs.
        """
        before = {known.shot_id: known for known in await self.read(project, environment=environment)}
        outdated = before.keys() - set(relevant)
        if not requests and not outdated:
            return
        renewed = [_keep_time(request, before.get(request.shot_id)) for request in requests]
        place = (approval_requests.c.environment == environment, approval_requests.c.project == project)
        async with self._database.writing() as connection:
            await wait_for_turn(self._database, connection)
            for shot_id in outdated | {request.shot_id for request in renewed}:
                of_shot = (*place, approval_requests.c.shot_id == shot_id)
                await connection.execute(delete(approval_requests).where(*of_shot))
            for request in renewed:
                values = request.model_dump()
                await connection.execute(insert(approval_requests).values(values))


def _keep_time(request: ApprovalRequest, before: ApprovalRequest | None) -> ApprovalRequest:
    if before is None or before.takes != request.takes:
        return request
    due_at = request.due_at and before.asked_at + (request.due_at - request.asked_at)
    return request.model_copy(update={"asked_at": before.asked_at, "due_at": due_at})


def _from_row(row: Row[Any]) -> ApprovalRequest:
    return record_from_row(row, ApprovalRequest, approval_requests.name)
