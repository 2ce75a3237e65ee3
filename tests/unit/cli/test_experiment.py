"""`experiment` says what it costs, and buys nothing that was not confirmed or does not fit the budget."""

from __future__ import annotations

from tests.support.cli_fixtures import InProcess

OPTIONS = ("experiment", "response-time", "--provider", "emulator", "--duration", "1", "--duration", "2")


def test_nothing_is_bought_without_a_confirmation(call: InProcess) -> None:
    answer = call(*OPTIONS, "--budget", "10")
    assert answer.status == 2
    assert "cost: at most $0.90 for 2 videos at emulator, within $10.00" in answer.err
    assert "--yes" in answer.err
    assert call("jobs", "--json").json["jobs"] == []


def test_what_does_not_fit_the_budget_is_refused_although_it_is_confirmed(call: InProcess) -> None:
    answer = call(*OPTIONS, "--budget", "0.50", "--yes")
    assert answer.status == 3
    assert "the limit is $0.50" in answer.err
    assert call("jobs", "--json").json["jobs"] == []


def test_an_option_that_cannot_be_used_is_named(call: InProcess) -> None:
    answer = call("experiment", "rate-limit", "--level", "4", "--level", "2", "--yes")
    assert answer.status == 2
    assert "levels" in answer.err
