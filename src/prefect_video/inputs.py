"""Records that users fill in: null means unset, unknown fields are refused, and a boolean is no number."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError


class Input(BaseModel):
    """Base of what users write: a file, a form, a parameter, a request.

    A form sends every field that it shows, and null for each that was left alone: null in a field that may be left out
    is the same as leaving it out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict) or None not in data.values():
            return data
        optional = {
            known
            for name, field in cls.model_fields.items()
            if not field.is_required()
            for known in (name, *_aliases(field))
        }
        return {name: value for name, value in data.items() if value is not None or name not in optional}


def _aliases(field: FieldInfo) -> list[str]:
    """The other names under which a field is read."""
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return [choice for choice in choices if isinstance(choice, str)]


def _refuse_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("boolean_number", "a number, not {value}", {"value": str(value).lower()})
    return value


NotBoolean: Final = BeforeValidator(_refuse_boolean)
"""Refuses true and false, which Python and pydantic would otherwise count as 1 and 0."""

WholeNumber = Annotated[int, NotBoolean]
"""An integer that no boolean stands for."""

Number = Annotated[float, NotBoolean]
"""A float that no boolean stands for."""
