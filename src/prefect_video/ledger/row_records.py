"""Records in JSON columns, and rows as records: the one place that reads what may be damaged.

A column that cannot be read does not raise where the row is fetched, as then no other row of the same answer could be
used, but where a record is built of it: as an error that names table, row and column.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy import Row, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from prefect_video.errors import UnreadableRow

logger = logging.getLogger(__name__)

_Value = TypeVar("_Value")
_Record = TypeVar("_Record", bound=BaseModel)

_RECENT: Final = 2048
"""Records of a kind that are kept: each step of a job reads its row, and a shot is costly to validate.

A project that is stored is read four times by one run, so that fewer than its shots would help with none of them.
"""

_FIELD_NAMES: Final[dict[frozenset[str], set[str]]] = {}
"""The one set for all records that were built of the same fields; there are a few of them."""

_REMEDIES: Final[Mapping[str, str]] = {
    "asset": "the sidecar beside the video holds the record",
    "quality": "NULL is right for a video without quality gates",
    "quality_policy": "NULL is right for a project without quality gates",
}


@dataclass(frozen=True)
class UnreadableValue:
    """Value of a column that is not what it should be.

    Attributes:
        reason: What is wrong with it.
    """

    reason: str


class Json(TypeDecorator[_Value], Generic[_Value]):
    """A frozen record, or another value of a type that pydantic knows, as JSON text.

    Equal texts that are read one after another give the same record. A text that holds none is an `UnreadableValue`.

    Args:
        kind: The type.
        gives_back: A record that was written lately is itself what its text is read as: thousands of jobs that wait
            hold their shots once.
    """

    impl = Text
    cache_ok = True

    def __init__(self, kind: Any, *, gives_back: bool = False) -> None:
        super().__init__()
        self.kind = kind
        self.gives_back = gives_back
        self._adapter: TypeAdapter[_Value] = TypeAdapter(kind)
        self._recent: dict[str, _Value | UnreadableValue] = {}
        # Rows are read in several threads.
        self._lock = threading.Lock()

    def process_bind_param(self, value: _Value | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        text = self._adapter.dump_json(value).decode()
        if self.gives_back:
            self._keep(text, value)
        return text

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return None
        record = self._recent.get(value)
        if record is None:
            record = self._read(value)
            self._keep(value, record)
        return record

    def _read(self, text: str) -> _Value | UnreadableValue:
        try:
            return share_field_names(self._adapter.validate_json(text))
        except ValidationError as error:
            return UnreadableValue(_describe(error))

    def _keep(self, text: str, record: _Value | UnreadableValue) -> None:
        with self._lock:
            if text not in self._recent and len(self._recent) >= _RECENT:
                del self._recent[next(iter(self._recent))]
            self._recent[text] = record


def record_from_row(row: Row[Any], model: type[_Record], table: str) -> _Record:
    """Build a record of a row.

    Raises:
        UnreadableRow: A column does not hold what it should.
    """
    values = row._asdict()
    try:
        return share_field_names(model.model_validate(values))
    except ValidationError as error:
        raise _unreadable(values, table, error) from None


def share_field_names(value: _Value) -> _Value:
    """Let a frozen record share the set of the names of its fields with the others that were built of the same ones.

    pydantic keeps the set of what was given with each record: of a job's 5 KB it is two, and thousands are held.
    """
    if isinstance(value, BaseModel):
        names = value.model_fields_set
        object.__setattr__(value, "__pydantic_fields_set__", _FIELD_NAMES.setdefault(frozenset(names), names))
    return value


def readable_rows(rows: Iterable[Any], build: Callable[[Any], _Value], *, what: str = "left out") -> Iterator[_Value]:
    """Yield the records of the rows that can be read; the others are logged, so that they stop nothing else."""
    for row in rows:
        try:
            yield build(row)
        except UnreadableRow as error:
            logger.error("%s: %s", what, error)


def require_readable(value: Any, *, table: str, row_id: str, column: str) -> Any:
    """Return the value of a single column.

    Raises:
        UnreadableRow: It does not hold what it should.
    """
    if isinstance(value, UnreadableValue):
        raise UnreadableRow(_message(table, row_id, column, value.reason), table=table, row_id=row_id, column=column)
    return value


def _unreadable(values: Mapping[str, Any], table: str, error: ValidationError) -> UnreadableRow:
    column = str((error.errors(include_input=False, include_url=False)[0]["loc"] or ("",))[0])
    value = values.get(column)
    reason = value.reason if isinstance(value, UnreadableValue) else _describe(error)
    row_id = str(values.get("id") or next(iter(values.values()), ""))
    return UnreadableRow(
        _message(table, row_id, column, reason),
        table=table,
        row_id=row_id,
        column=column,
        fingerprint=values.get("fingerprint"),
    )


def _describe(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def _message(table: str, row_id: str, column: str, reason: str) -> str:
    remedy = _REMEDIES.get(column)
    return (
        f"the ledger's row {row_id} of {table} cannot be read: its column {column} is damaged ({reason}). Nothing was"
        f" sent for it. Correct that column with the database's own client{f' ({remedy})' if remedy else ''}, or"
        " restore the ledger from a backup and run `prefect-video ledger recover`"
    )
