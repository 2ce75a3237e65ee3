"""A state machine drives a real ledger and a model side by side: two owners, every step, crashes, budgets."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Coroutine
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from prefect_video.errors import InvalidTransition
from prefect_video.ledger import TRANSITIONS, UNFINISHED, Budget, Job, Ledger, State
from prefect_video.ledger.cost_bound import CostBound
from tests.support.committed_sums import JOBS, KEPT, kept_sums, sums_anew
from tests.support.ledger_model import ENDED, SENT, Model, Row
from tests.support.records import a_generation, a_request, an_asset, begin_submit

T = TypeVar("T")

MEMORY = Path("/dev/shm")
"""A disk that need not be waited for, where there is one."""

OWNERS = st.sampled_from([0, 1])
ROWS = st.integers(min_value=0, max_value=10**6)
PRICES = st.sampled_from([Decimal("0.1"), Decimal("2.4"), Decimal("1.000001"), None])
COSTS = st.sampled_from([None, Decimal(0), Decimal("0.7"), Decimal("3.333333")])
ANY_COST = CostBound(max_ratio=Decimal(1000))
BUDGETS = st.none() | st.builds(
    Budget,
    scope=st.just("project"),
    limit_usd=st.none() | st.sampled_from([Decimal("2.5"), Decimal("4.9"), Decimal(12)]),
    limit_videos=st.none() | st.integers(0, 5),
)
JOB_REQUESTS = st.lists(
    st.builds(
        a_request,
        st.integers(1, 4),
        project=st.sampled_from(["a", "b"]),
        estimate_usd=PRICES,
        refresh=st.booleans(),
        max_attempts=st.integers(1, 2),
    ),
    min_size=1,
    max_size=4,
)


class LedgerMachine(RuleBasedStateMachine):
    """The ledger must answer as the model does, and stand as the model stands."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.model = Model()
        self.ids: list[str] = []
        self.accepted = 0

    @initialize()
    def open(self) -> None:
        self.ledgers = [self.run(Ledger.open(str(self.folder / "ledger.db"))) for _ in range(2)]

    def teardown(self) -> None:
        for ledger in getattr(self, "ledgers", []):
            self.run(ledger.aclose())
        self.runner.close()
        shutil.rmtree(self.folder)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def attempt(self, legal: bool, step: Coroutine[Any, Any, Job]) -> bool:
        """Runs a step that must succeed or be refused as the model says."""
        try:
            self.run(step)
        except InvalidTransition:
            assert not legal
            return False
        assert legal
        return True

    def pick(self, number: int) -> tuple[str, Row]:
        number %= len(self.ids)
        return self.ids[number], self.model.rows[number]

    @rule(
        who=OWNERS,
        job_requests=JOB_REQUESTS,
        run=st.sampled_from(["run-1", "run-2", None]),
        budget=BUDGETS,
        partial=st.booleans(),
    )
    def claim(self, who: int, job_requests: list[Any], run: str | None, budget: Budget | None, partial: bool) -> None:
        job_requests = [job_request.model_copy(update={"flow_run_id": run}) for job_request in job_requests]
        ledger = self.ledgers[who]
        living = {each.owner_id for each in self.ledgers}
        batch = self.run(ledger.claims.claim(job_requests, [budget] if budget else [], partial))
        expected = self.model.claim(ledger.owner_id, living, job_requests, budget, partial)
        assert [claim.kind for claim in batch.claims] == [answer.kind for answer in expected]
        for claim, answer in zip(batch.claims, expected, strict=True):
            if answer.row is None:
                assert claim.job is None
                assert claim.refusal
                continue
            assert claim.job is not None
            if answer.row == len(self.ids):
                self.ids.append(claim.job.id)
            assert claim.job.id == self.ids[answer.row]

    @precondition(lambda self: self.ids)
    @rule(who=OWNERS, number=ROWS, steps=st.integers(2, 5))
    def carry_on(self, who: int, number: int, steps: int) -> None:
        """Several steps at once: single ones, drawn at random, seldom bring a row to its end."""
        self.take_over(who, number)
        way = [self.begin, self.accept_once, self.complete_once, self.store, self.delete_file]
        for step in way[:steps]:
            step(who, number)

    @precondition(lambda self: self.ids)
    @rule(who=OWNERS, number=ROWS, to=st.sampled_from(ENDED), cost=COSTS)
    def give_up(self, who: int, number: int, to: State, cost: Decimal | None) -> None:
        self.carry_on(who, number, 2)
        self.end(who, number, to, cost)

    @precondition(lambda self: self.ids)
    @rule(who=OWNERS, number=ROWS, up=st.booleans(), back=st.booleans())
    def hold(self, who: int, number: int, up: bool, back: bool) -> None:
        """A sent row waits, perhaps for a human, and another process settles it."""
        self.take_over(who, number)
        self.begin(who, number)
        self.flag(who, number, up)
        self.judge(1 - who, number, back)

    def accept_once(self, who: int, number: int) -> None:
        self.accept(who, number, again=False)

    def complete_once(self, who: int, number: int) -> None:
        self.complete(who, number, cost=Decimal("0.7"))

    @precondition(lambda self: self.ids)
    @rule(who=OWNERS, number=ROWS)
    def begin(self, who: int, number: int) -> None:
        job_id, row = self.pick(number)
        ledger = self.ledgers[who]
        legal = row.state is State.RESERVED and row.owner == ledger.owner_id
        if self.attempt(legal, begin_submit(ledger, job_id)):
            row.move(State.SUBMITTING)

    @precondition(lambda self: self.ids)
    @rule(who=OWNERS, number=ROWS, again=st.booleans())
    def accept(self, who: int, number: int, again: bool) -> None:
        job_id, row = self.pick(number)
        if again and row.generation_id:
            self.attempt(True, self.ledgers[who].jobs.record_submitted(job_id, a_generation(row.generation_id)))
            return
        self.accepted += 1
        generation = a_generation(f"gen-{self.accepted}")
        if self.attempt(row.state in SENT, self.ledgers[who].jobs.record_submitted(job_id, generation)):
            row.move(State.SUBMITTED)
            row.generation_id = generation.id

    @precondition(lambda self: self.ids)
    @rule(who=OWNERS, number=ROWS)
    def lose_answer(self, who: int, number: int) -> None:
        job_id, row = self.pick(number)
        if (
            self.attempt(row.state in SENT, self.ledgers[who].jobs.record_unknown(job_id, "no answer"))
            and row.state is not State.UNKNOWN
        ):
            row.move(State.UNKNOWN)

    @precondition(lambda self: self.ids)
    @rule(who=OWNERS, number=ROWS, back=st.booleans())
    def judge(self, who: int, number: int, back: bool) -> None:
        """Back to reserved, or released."""
        job_id, row = self.pick(number)
        ledger = self.ledgers[who]
        to = State.RESERVED if back else State.RELEASED
        may_judge = row.hold_reason or row.owner in (None, ledger.owner_id)
        legal = row.state is to or (row.state in SENT and may_judge) or (row.state is State.RESERVED and not back)
        step = ledger.jobs.return_to_reserved if back else ledger.jobs.release_reservation
        if self.attempt(legal, step(job_id, "judged")) and row.state is not to:
            row.move(to)

    @precondition(lambda self: self.ids)
    @rule(who=OWNERS, number=ROWS, cost=COSTS)
    def complete(self, who: int, number: int, cost: Decimal | None) -> None:
        job_id, row = self.pick(number)
        generation = a_generation(row.generation_id or "gen-none", cost_usd=cost)
        known = row.generation_id is not None
        legal = known and row.state in (State.SUBMITTED, State.COMPLETED, State.STORED)
        if self.attempt(legal, self.ledgers[who].jobs.record_completed(job_id, generation, bound=ANY_COST)):
            if row.state is not State.STORED and cost is not None:
                row.actual = cost
            if row.state is State.SUBMITTED:
                row.move(State.COMPLETED)

    @precondition(lambda self: self.ids)
    @rule(who=OWNERS, number=ROWS)
    def store(self, who: int, number: int) -> None:
        job_id, row = self.pick(number)
        legal = row.state in (State.COMPLETED, State.STORED)
        if self.attempt(legal, self.ledgers[who].jobs.record_stored(job_id, an_asset())) and not row.was_stored:
            row.move(State.STORED)
            row.was_stored = True

    @precondition(lambda self: self.ids)
    @rule(who=OWNERS, number=ROWS, to=st.sampled_from(ENDED), cost=COSTS)
    def end(self, who: int, number: int, to: State, cost: Decimal | None) -> None:
        job_id, row = self.pick(number)
        legal = row.state is to or (row.state in UNFINISHED and to in TRANSITIONS[row.state])
        step = self.ledgers[who].jobs.record_ended(job_id, to, "over", actual_usd=cost, bound=ANY_COST)
        if self.attempt(legal, step) and row.state is not to:
            row.actual = cost if cost is not None else row.actual
            row.move(to)

    @precondition(lambda self: self.ids)
    @rule(who=OWNERS, number=ROWS)
    def delete_file(self, who: int, number: int) -> None:
        job_id, row = self.pick(number)
        legal = row.state is State.STORED or (row.state is State.LOST and row.was_stored)
        if self.attempt(legal, self.ledgers[who].jobs.record_missing(job_id, "gone")) and row.state is not State.LOST:
            row.move(State.LOST)

    @precondition(lambda self: self.ids)
    @rule(who=OWNERS, number=ROWS, up=st.booleans())
    def flag(self, who: int, number: int, up: bool) -> None:
        job_id, row = self.pick(number)
        self.run(self.ledgers[who].jobs.hold(job_id, "look") if up else self.ledgers[who].jobs.unhold(job_id))
        row.steps += row.hold_reason != up
        row.hold_reason = up

    @precondition(lambda self: self.ids)
    @rule(who=OWNERS, number=ROWS)
    def take_over(self, who: int, number: int) -> None:
        job_id, row = self.pick(number)
        ledger = self.ledgers[who]
        living = {each.owner_id for each in self.ledgers}
        free = row.state in UNFINISHED and row.owner not in living
        taken = self.run(ledger.claims.take_over(job_id))
        assert (taken is not None) == free
        if free:
            row.owner, row.steps = ledger.owner_id, row.steps + 1

    @rule(who=OWNERS)
    def release_ownership(self, who: int) -> None:
        ledger = self.ledgers[who]
        self.run(ledger.claims.release_ownership(self.ids))
        for row in self.model.rows:
            if row.owner == ledger.owner_id:
                row.owner = None

    @rule(who=OWNERS)
    def restart(self, who: int) -> None:
        """The process ends and a new one comes; its rows keep the dead owner's name until another process takes them."""
        self.run(self.ledgers[who].aclose())
        self.ledgers[who] = self.run(Ledger.open(str(self.folder / "ledger.db")))

    @invariant()
    def ledger_stands_as_the_model(self) -> None:
        if not self.ids:
            return
        ledger = self.ledgers[0]
        jobs = self.run(ledger.jobs.get_many(self.ids))
        assert [standing(job) for job in jobs] == [expected(row) for row in self.model.rows]
        for project in ("a", "b"):
            (budget,) = self.run(
                ledger.spend.budget_usage([Budget(scope="project")], project=project, account="sora-1")
            )
            assert budget.committed_usd == self.model.committed(project)
            assert budget.videos == self.model.videos(project)

    @invariant()
    def kept_sums_are_those_of_the_jobs(self) -> None:
        with closing(sqlite3.connect(self.folder / "ledger.db")) as connection:
            assert kept_sums(connection.execute(KEPT)) == sums_anew(connection.execute(JOBS))

    @precondition(lambda self: self.ids)
    @rule(number=ROWS)
    def history_is_a_chain(self, number: int) -> None:
        job_id, row = self.pick(number)
        steps = self.run(self.ledgers[0].jobs.history(job_id))
        assert len(steps) == row.steps
        assert [step.from_state for step in steps] == [None, *(step.to_state for step in steps[:-1])]
        assert steps[-1].to_state is row.state


def standing(job: Job) -> tuple[Any, ...]:
    return (
        job.state,
        job.owner,
        job.attempt,
        job.flow_run_id,
        job.reserved_usd,
        job.actual_usd,
        job.generation_id,
        job.hold_reason is not None,
        job.stored_at is not None,
    )


def expected(row: Row) -> tuple[Any, ...]:
    return (
        row.state,
        row.owner,
        row.attempt,
        row.run,
        row.reserved,
        row.actual,
        row.generation_id,
        row.hold_reason,
        row.was_stored,
    )


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=25, stateful_step_count=40, suppress_health_check=list(HealthCheck))
