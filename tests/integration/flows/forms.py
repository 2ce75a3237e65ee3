"""The run form of Prefect's UI, filled in by its rules and submitted untouched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def submit_untouched(schema: dict[str, Any], deployed: dict[str, Any]) -> dict[str, Any]:
    """The parameters that the form sends: every field at every depth.

    A field holds what the deployment says, else the schema's default, else null.
    """
    return {
        name: _fill(field, deployed.get(name, field.get("default")), schema["definitions"])
        for name, field in schema["properties"].items()
    }


def undescribed(schema: dict[str, Any]) -> Iterator[str]:
    """The properties, at every depth, that say nothing about themselves."""
    for owner, model in {"parameters": schema, **schema.get("definitions", {})}.items():
        for name, field in model.get("properties", {}).items():
            if not field.get("description", "").strip():
                yield f"{owner}.{name}"


def _fill(field: dict[str, Any], value: Any, definitions: dict[str, Any]) -> Any:
    model = _model(field, definitions)
    if isinstance(value, dict) and "properties" in model:
        return value | {
            name: _fill(inner, value.get(name, inner.get("default")), definitions)
            for name, inner in model["properties"].items()
        }
    if isinstance(value, list) and "items" in model:
        return [_fill(model["items"], item, definitions) for item in value]
    return value


def _model(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in field:
        model: dict[str, Any] = definitions[field["$ref"].removeprefix("#/definitions/")]
        return model
    return field
