"""Base of records that users fill in: null means unset, unknown fields are rejected, and a boolean is no number."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Final

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError


class Input(BaseModel):
    """Base of input records, whether from a file, a form, a parameter or a request.

    A form sends every field that it shows, and null for each that was not filled in: null in an optional field is the
    same as leaving it out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict) or None not in data.values():
            return data
        optional = _optional_names(cls)
        return {name: value for name, value in data.items() if value is not None or name not in optional}


@cache
def _optional_names(kind: type[Input]) -> frozenset[str]:
    """Return the names under which the optional fields of a record are read."""
    return frozenset(
        known
        for name, field in kind.model_fields.items()
        if not field.is_required()
        for known in (name, *_aliases(field))
    )


def _aliases(field: FieldInfo) -> list[str]:
    """Return the other names under which a field is read."""
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return [choice for choice in choices if isinstance(choice, str)]


def _reject_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("boolean_number", "a number, not {value}", {"value": str(value).lower()})
    return value


NotBoolean: Final = BeforeValidator(_reject_boolean)
"""Rejects true and false, which Python and pydantic would otherwise count as 1 and 0."""

WholeNumber = Annotated[int, NotBoolean]
"""Integer, never a boolean."""

Number = Annotated[float, NotBoolean]
"""Float, never a boolean."""
