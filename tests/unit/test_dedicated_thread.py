"""What a dedicated thread is given runs there, in order, whatever becomes of the tasks that await it."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_video._dedicated_thread import DedicatedThread


async def test_results_and_errors_come_back() -> None:
    thread = DedicatedThread("test")
    assert await thread.run(max, 1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        await thread.run(divmod, 1, 0)
    names = {await thread.run(lambda: threading.current_thread().name) for _ in range(3)}
    assert names == {"test"}
    await thread.close(int)


async def test_what_a_cancelled_task_has_begun_ends_before_closing() -> None:
    thread = DedicatedThread("test")
    begun, go_on = threading.Event(), threading.Event()
    steps: list[str] = []

    def use() -> None:
        begun.set()
        go_on.wait(10)
        steps.append("used")

    using = asyncio.create_task(thread.run(use))
    await asyncio.to_thread(begun.wait, 10)
    using.cancel()
    await asyncio.wait([using])
    assert using.cancelled()
    closing = asyncio.create_task(thread.close(lambda: steps.append("closed")))
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.sleep(0)
    assert not closing.done()
    go_on.set()
    await asyncio.wait([closing])
    assert closing.cancelled()
    assert steps == ["used", "closed"]


async def test_nothing_is_taken_after_the_end_which_comes_once() -> None:
    thread = DedicatedThread("test")
    ends: list[int] = []
    await thread.run(int)
    await thread.close(lambda: ends.append(1))
    await thread.close(lambda: ends.append(2))
    thread.stop(lambda: ends.append(3))
    assert ends == [1]
    assert thread.is_stopped
    with pytest.raises(RuntimeError, match="was stopped"):
        await thread.run(int)


async def test_a_thread_that_held_nothing_is_not_started_to_close_it() -> None:
    thread = DedicatedThread("never started")
    await thread.close(lambda: pytest.fail("there is nothing to close"))
    assert "never started" not in {running.name for running in threading.enumerate()}


def test_a_loop_that_was_closed_does_not_end_the_thread() -> None:
    thread = DedicatedThread("test")
    go_on, closed = threading.Event(), threading.Event()

    async def leave() -> None:
        task = asyncio.create_task(thread.run(go_on.wait, 10))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(leave())
    go_on.set()
    thread.stop(closed.set)
    assert closed.wait(10)


@given(st.lists(st.sampled_from(["await", "cancel at once", "cancel later", "fail"]), max_size=12), st.booleans())
def test_everything_runs_once_in_order(tasks: list[str], close_is_cancelled: bool) -> None:
    async def run_all() -> list[int]:
        thread = DedicatedThread("test")
        seen: list[int] = []

        def use(number: int, kind: str) -> int:
            assert threading.current_thread().name == "test"
            seen.append(number)
            if kind == "fail":
                raise ValueError(number)
            return number

        cancelled: list[asyncio.Task[int]] = []
        for number, kind in enumerate(tasks):
            task = asyncio.create_task(thread.run(use, number, kind))
            if kind.startswith("cancel"):
                await asyncio.sleep(0)
                if kind == "cancel at once":
                    task.cancel()
                cancelled.append(task)
            else:
                (outcome,) = await asyncio.gather(task, return_exceptions=True)
                assert outcome == number or (kind == "fail" and isinstance(outcome, ValueError))
                assert thread.is_idle
        for task in cancelled:
            task.cancel()
        closing = asyncio.create_task(thread.close(lambda: seen.append(-1)))
        await asyncio.sleep(0)
        if close_is_cancelled:
            closing.cancel()
        await asyncio.wait([closing, *cancelled])
        return seen

    expected = [*range(len(tasks)), *([-1] if tasks else [])]
    assert asyncio.run(run_all()) == expected
