"""Model of the ledger in plain dictionaries, against which the state machine compares the real one."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from prefect_video.ledger import TRANSITIONS, UNFINISHED, Budget, JobRequest, State

ENDED = (State.FAILED, State.CANCELLED, State.EXPIRED, State.LOST)
RESERVED = (State.RESERVED, State.SUBMITTING, State.UNKNOWN, State.SUBMITTED)
SENT = (State.SUBMITTING, State.UNKNOWN)


@dataclass
class Row:
    """One generation."""

    fingerprint: str
    project: str
    run: str | None
    reserved: Decimal | None
    attempt: int
    owner: str | None
    state: State = State.RESERVED
    actual: Decimal | None = None
    generation_id: str | None = None
    hold_reason: bool = False
    was_stored: bool = False
    steps: int = 1

    def move(self, to: State) -> None:
        assert to in TRANSITIONS[self.state]
        self.state = to
        self.hold_reason = False
        self.steps += 1
        if to not in UNFINISHED:
            self.owner = None

    @property
    def cost(self) -> Decimal:
        return self.actual if self.actual is not None else self.reserved or Decimal(0)

    @property
    def counts(self) -> bool:
        free = self.state in (State.FAILED, State.CANCELLED) and self.actual == 0
        return self.state is not State.RELEASED and not free


@dataclass
class Answer:
    """Expected answer of a claim to one request; `row` is its number in the model, -1 for a row yet to be made."""

    kind: str
    row: int | None


@dataclass
class Model:
    """All rows, in the order they were made."""

    rows: list[Row] = field(default_factory=list)

    def committed(self, project: str) -> Decimal:
        rows = (row for row in self.rows if row.project == project and row.state is not State.RELEASED)
        return sum((row.cost for row in rows), Decimal(0))

    def videos(self, project: str) -> int:
        return sum(row.counts for row in self.rows if row.project == project)

    def in_progress(self, fingerprint: str) -> int | None:
        found = [n for n, row in enumerate(self.rows) if row.fingerprint == fingerprint and row.state in UNFINISHED]
        assert len(found) <= 1
        return found[0] if found else None

    def claim(
        self, me: str, living: set[str], job_requests: list[JobRequest], budget: Budget | None, partial: bool
    ) -> list[Answer]:
        """Answers, and makes the rows that are to be bought."""
        answers: list[Answer | None] = []
        new: dict[str, JobRequest] = {}
        for job_request in job_requests:
            answer = self._known(me, living, job_request)
            answers.append(answer)
            if answer is None:
                new.setdefault(job_request.fingerprint, job_request)
        refused = self._refused(list(new.values()), budget, partial)
        made: dict[str, int] = {}
        for fingerprint, job_request in new.items():
            if fingerprint not in refused:
                made[fingerprint] = len(self.rows)
                self.rows.append(self._new_row(me, job_request))
        result: list[Answer] = []
        for number, (job_request, answer) in enumerate(zip(job_requests, answers, strict=True)):
            if answer is not None:
                result.append(answer)
            elif job_request.fingerprint in refused:
                result.append(Answer("over_budget", None))
            else:
                first = all(
                    i.fingerprint != job_request.fingerprint or answers[n] for n, i in enumerate(job_requests[:number])
                )
                result.append(Answer("acquired" if first else "joined", made[job_request.fingerprint]))
        return result

    def _known(self, me: str, living: set[str], job_request: JobRequest) -> Answer | None:
        number = self.in_progress(job_request.fingerprint)
        if number is not None:
            row = self.rows[number]
            if row.hold_reason or row.owner in living:
                return Answer("joined", number)
            row.owner, row.steps, row.run = me, row.steps + 1, job_request.flow_run_id or row.run
            return Answer("acquired", number)
        same = [(n, row) for n, row in enumerate(self.rows) if row.fingerprint == job_request.fingerprint]
        stored = [n for n, row in same if row.state is State.STORED]
        if job_request.refresh:
            stored = [n for n in stored if job_request.flow_run_id and self.rows[n].run == job_request.flow_run_id]
        if stored:
            return Answer("stored", stored[-1])
        held = [n for n, row in same if row.state in ENDED and row.hold_reason]
        if held:
            return Answer("joined", held[-1])
        failed = self._failed(job_request)
        if len(failed) >= job_request.max_attempts:
            return Answer("exhausted", failed[-1])
        return None

    def _failed(self, job_request: JobRequest) -> list[int]:
        if job_request.flow_run_id is None:
            return []
        return [
            n
            for n, row in enumerate(self.rows)
            if row.fingerprint == job_request.fingerprint
            and row.run == job_request.flow_run_id
            and row.state in ENDED
            and not row.was_stored
        ]

    def _refused(self, new: list[JobRequest], budget: Budget | None, partial: bool) -> set[str]:
        if budget is None:
            return set()
        money = {project: self.committed(project) for project in ("a", "b")}
        videos = {project: self.videos(project) for project in ("a", "b")}
        refused: set[str] = set()
        for job_request in new:
            after = money[job_request.project] + (job_request.estimate_usd or 0)
            too_dear = budget.limit_usd is not None and (job_request.estimate_usd is None or after > budget.limit_usd)
            too_many = budget.limit_videos is not None and videos[job_request.project] + 1 > budget.limit_videos
            if too_dear or too_many:
                refused.add(job_request.fingerprint)
            else:
                money[job_request.project] = after
                videos[job_request.project] += 1
        if refused and not partial:
            return {job_request.fingerprint for job_request in new}
        return refused

    def _new_row(self, me: str, job_request: JobRequest) -> Row:
        return Row(
            fingerprint=job_request.fingerprint,
            project=job_request.project,
            run=job_request.flow_run_id,
            reserved=job_request.estimate_usd,
            attempt=1 + len(self._failed(job_request)),
            owner=me,
        )
