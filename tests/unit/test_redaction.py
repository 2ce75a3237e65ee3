"""Keys in texts, however they are encoded."""

from __future__ import annotations

import base64
import html
import json
import time
from collections.abc import Callable
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from prefect_video._redaction import LONGEST_TEXT, REDACTED, Redaction

KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=80)
LONG_KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=80)

SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda character: character,
    lambda character: f"\\{character}",
    lambda character: f"\\u{ord(character):04x}",
    lambda character: f"\\u{ord(character):04X}",
    lambda character: f"\\\\u{ord(character):04x}",
    lambda character: f"\\x{ord(character):02x}",
    lambda character: f"%{ord(character):02X}",
    lambda character: f"%25{ord(character):02x}",
    lambda character: f"&#{ord(character)};",
    lambda character: f"&#x{ord(character):X};",
    html.escape,
)
WHOLE: tuple[Callable[[str], str], ...] = (
    lambda key: json.dumps(key)[1:-1],
    lambda key: json.dumps(json.dumps(key)[1:-1])[1:-1].replace("/", "\\/"),
    lambda key: quote(quote(key, safe=""), safe=""),
    lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
    lambda key: base64.b64encode(f"{key}:".encode()).decode().rstrip("="),
    lambda key: base64.urlsafe_b64encode(f"Bearer {key}".encode()).decode(),
    lambda key: base64.b64encode(key.encode()).decode().replace("/", "\\/").replace("+", "%2B"),
    lambda key: key.encode().hex(),
    lambda key: key.encode().hex(" ").upper(),
    lambda key: f"Bearer {key}".encode().hex(":"),
    lambda key: key.encode().hex(" ", 2),
    lambda key: ", ".join(f"0x{number:02x}" for number in key.encode()),
    lambda key: f"f {key.encode().hex()}",
)


@given(KEYS, st.sampled_from(WHOLE))
def test_a_key_of_any_length_is_found_in_any_encoding(key: str, encode: Callable[[str], str]) -> None:
    # No key has one of these signs around it.
    assert Redaction([key]).text(f"« {encode(key)} »") == f"« {REDACTED} »"


@given(st.data(), LONG_KEYS)
def test_a_key_is_found_whatever_the_spelling_of_each_character(data: st.DataObject, key: str) -> None:
    spelled = "".join(data.draw(st.sampled_from(SPELLINGS))(character) for character in key)
    assert Redaction([key]).text(f"(a{spelled})").startswith(f"(a{REDACTED}")


@given(LONG_KEYS, st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12))
def test_a_document_keeps_its_evidence_and_loses_the_key_in_messages(key: str, name: str) -> None:
    evidence = {"id": f"gen_{key}", "prompt": f"a sea, {key}", "metadata": {"idempotency_key": key}}
    document = {**evidence, "status": key, "error": {"generation_id": key, "message": f"no {key}", name: [{"x": key}]}}
    redaction = Redaction([key])
    cleaned = redaction.document(document)
    assert {field: cleaned[field] for field in evidence} == evidence
    assert cleaned["status"] == REDACTED
    # A field's name loses the key too, and the key may be a part of this one.
    assert cleaned["error"][redaction.text("generation_id")] == key
    assert cleaned["error"]["message"] == f"no {REDACTED}"


def test_a_short_key_is_found_as_a_word_only() -> None:
    redaction = Redaction(["EMPTY"])
    text = "the prompt must not be EMPTY_STRING or empty"
    assert redaction.text(text) == text
    assert redaction.text('{"Authorization": "Bearer EMPTY"}') == '{"Authorization": "Bearer [key]"}'


def test_each_part_of_a_key_of_two_parts_is_found() -> None:
    assert Redaction(["0123-4567-89ab:secret-half"]).text("key secret-half of 0123-4567-89ab") == "key [key] of [key]"


def test_a_cause_that_shows_the_key_is_left_out() -> None:
    redaction = Redaction(["sk-secret-1"])
    inner, outer = ValueError("illegal header line: sk-secret-1"), ValueError("broken")
    outer.__cause__ = inner
    assert redaction.cause(outer) is None
    assert redaction.cause(harmless := ValueError("broken")) is harmless


def test_a_hostile_text_costs_little_time() -> None:
    redaction = Redaction(["sk-secret-1"])
    began = time.process_time()
    for piece in ("\\", "%25", "&#0", "A=", "s\\", "sk-", "7", "0x7 ", "73, "):
        assert len(redaction.text(piece * 10**6)) <= LONGEST_TEXT
    assert time.process_time() - began < 5
