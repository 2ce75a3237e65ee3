"""Page that shows the OpenAPI document: one piece of HTML that loads nothing, from here or from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any, Final

PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Headers of a page that loads nothing and runs no script."""

_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
code,pre{font:13px/1.45 ui-monospace,monospace}pre{background:#f4f6f8;padding:.8rem;overflow:auto;border-radius:6px}
details{border:1px solid #d8dee4;border-radius:6px;margin:.5rem 0;padding:.5rem .8rem}summary{cursor:pointer}
.m{display:inline-block;min-width:3.6rem;font-weight:700}table{border-collapse:collapse;width:100%}
td,th{text-align:left;border-bottom:1px solid #e5e9ee;padding:.25rem .5rem;vertical-align:top}
@media(prefers-color-scheme:dark){body{background:#101418;color:#e6e9ec}pre{background:#1a2027}
details,td,th{border-color:#2c343d}}
"""


def render_docs(document: dict[str, Any]) -> str:
    """Render an OpenAPI document for readers."""
    info = document["info"]
    title = f"{info['title']} {info['version']}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>",
        "<meta name=viewport content='width=device-width'>",
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1><p>{escape(info.get('description', ''))}</p>",
        "<p>The document for programs: <a href='openapi.json'>openapi.json</a>.</p>",
        *_render_operations(document["paths"]),
        "<h2>Records</h2>",
        *(_render_record(name, schema) for name, schema in sorted(document["components"]["schemas"].items())),
    ]
    return "\n".join(parts)


def _render_operations(paths: dict[str, Any]) -> Iterator[str]:
    by_tag: dict[str, list[str]] = {}
    for path, operations in paths.items():
        for method, operation in operations.items():
            tag = (operation.get("tags") or ["other"])[0]
            by_tag.setdefault(tag, []).append(_render_operation(method, path, operation))
    for tag, rendered in by_tag.items():
        yield f"<h2>{escape(tag.capitalize())}</h2>"
        yield from rendered


def _render_operation(method: str, path: str, operation: dict[str, Any]) -> str:
    described = escape(operation.get("description", operation.get("summary", "")))
    parts = [
        f"<details><summary><span class=m>{escape(method.upper())}</span> <code>{escape(path)}</code></summary>",
        f"<p>{described}</p>",
        _render_parameters(operation.get("parameters", [])),
    ]
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body: <code>{escape(media)}</code></p>{_render_schema(content['schema'])}")
    rows = [
        f"<tr><td>{escape(status)}<td>{escape(answer.get('description', ''))}<td>{_render_answer(answer)}"
        for status, answer in sorted(operation["responses"].items())
    ]
    parts.append(f"<table><tr><th>Status<th>Meaning<th>Answer{''.join(rows)}</table></details>")
    return "".join(parts)


def _render_parameters(parameters: list[dict[str, Any]]) -> str:
    if not parameters:
        return ""
    rows = [
        f"<tr><td><code>{escape(item['name'])}</code><td>{escape(item['in'])}"
        f"<td>{'required' if item.get('required') else ''}<td>{escape(item.get('description', ''))}"
        f"<td><code>{escape(json.dumps(_type_of(item['schema'])))}</code>"
        for item in parameters
    ]
    return f"<table><tr><th>Parameter<th>In<th><th>Meaning<th>Type{''.join(rows)}</table>"


def _type_of(schema: dict[str, Any]) -> Any:
    return {key: value for key, value in schema.items() if key not in ("title", "description")}


def _render_answer(answer: dict[str, Any]) -> str:
    schemas = [content["schema"] for content in answer.get("content", {}).values() if "schema" in content]
    return " ".join(_render_schema(schema) for schema in schemas)


def _render_schema(schema: dict[str, Any]) -> str:
    reference = schema.get("$ref")
    if reference:
        name = escape(reference.rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    return f"<code>{escape(json.dumps(_type_of(schema)))}</code>"


def _render_record(name: str, schema: dict[str, Any]) -> str:
    text = escape(json.dumps(schema, indent=2, ensure_ascii=False))
    return f"<details id='{escape(name)}'><summary><code>{escape(name)}</code></summary><pre>{text}</pre></details>"
