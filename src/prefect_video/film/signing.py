"""Signing of a film: a C2PA manifest that names its clips as ingredients, by a certificate of the maker's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from prefect_video.errors import FilmError, InvalidInput

SIGNED_CONTAINERS: Final = {"mp4": "video/mp4"}
"""Containers that C2PA has a form for, with their types; WebM has none."""

_SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_TRAINED: Final = "trainedAlgorithmicMedia"


@dataclass(frozen=True)
class SignedClip:
    """Clip of a film, as an ingredient of its manifest.

    Attributes:
        label: Its name in the cut, `opening` or `opening@2`.
        path: The file; its own manifest becomes part of the film's.
        is_generated: A model has made it.
    """

    label: str
    path: Path
    is_generated: bool


@dataclass(frozen=True)
class FilmSigner:
    """Certificate with its private key.

    Attributes:
        certificate: The chain in PEM, the signing certificate first.
        private_key: Its key in PEM.
        algorithm: The signature algorithm, as C2PA calls it.
        timestamp_url: Time-stamping authority (RFC 3161) that stamps each film; None for none.
    """

    certificate: str
    private_key: str = field(repr=False)
    algorithm: str
    timestamp_url: str | None = None

    @classmethod
    def load(cls, certificate: Path, private_key: Path, timestamp_url: str | None = None) -> FilmSigner:
        """Read certificate and key, and check that they fit together.

        Raises:
            InvalidInput: A file cannot be read or used, or the extra `c2pa` is not installed.
        """
        try:
            chain, key = certificate.read_text("ascii"), private_key.read_text("ascii")
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "no PEM file"
            raise InvalidInput(f"the film cannot be signed: {certificate} or {private_key}: {reason}") from None
        signer = cls(chain, key, _find_algorithm(chain, key, certificate, private_key), timestamp_url)
        signer._open().close()
        return signer

    @cached_property
    def digest(self) -> str:
        """Digest of what a signature shows: another certificate makes another film."""
        return hashlib.sha256(f"{self.certificate}\n{self.timestamp_url}".encode()).hexdigest()

    def sign(
        self, film: Path, target: Path, *, title: str, generator: tuple[str, str], clips: Sequence[SignedClip]
    ) -> None:
        """Write a film with its manifest into another file; picture and sound stay as they are.

        Args:
            film: The film, an MP4.
            target: The new file.
            title: Its title in the manifest.
            generator: Name and version of the program that makes it.
            clips: Its clips, in the order in which they are first seen.

        Raises:
            FilmError: It cannot be signed, or the time-stamping authority does not answer.
        """
        from c2pa import Builder, C2paError

        try:
            with self._open() as signer, Builder(json.dumps(_build_manifest(title, generator, clips))) as builder:
                for number, clip in enumerate(clips, 1):
                    ingredient = {"title": clip.label, "relationship": "componentOf", "label": _label(number)}
                    with clip.path.open("rb") as file:
                        builder.add_ingredient(json.dumps(ingredient), SIGNED_CONTAINERS["mp4"], file)
                with film.open("rb") as source, target.open("w+b") as signed:
                    builder.sign(signer, SIGNED_CONTAINERS["mp4"], source, signed)
        except (C2paError, OSError) as error:
            authority = f"; see that {self.timestamp_url} answers" if self.timestamp_url else ""
            raise FilmError(f"the film cannot be signed: {_first_line(error)}{authority}") from error

    def _open(self) -> Any:
        from c2pa import C2paError, C2paSignerInfo, Signer

        info = C2paSignerInfo(
            alg=self.algorithm,
            sign_cert=self.certificate.encode(),
            private_key=self.private_key.encode(),
            ta_url=self.timestamp_url,
        )
        try:
            return Signer.from_info(info)
        except C2paError as error:
            raise InvalidInput(f"the film cannot be signed: its certificate is refused: {_first_line(error)}") from None


def _build_manifest(title: str, generator: tuple[str, str], clips: Sequence[SignedClip]) -> dict[str, Any]:
    """Build the claim: what the film is, by what its clips are, and that they were placed in it."""
    created = {"action": "c2pa.created", "digitalSourceType": f"{_SOURCE_TYPE}{_find_source_type(clips)}"}
    placed = [
        {"action": "c2pa.placed", "parameters": {"ingredientIds": [_label(number)]}}
        for number, _ in enumerate(clips, 1)
    ]
    name, version = generator
    return {
        "title": title,
        "format": SIGNED_CONTAINERS["mp4"],
        "claim_generator_info": [{"name": name, "version": version}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created, *placed]}}],
    }


def _find_source_type(clips: Sequence[SignedClip]) -> str:
    """Return the digital source type of a film, in the words of the IPTC."""
    generated = [clip.is_generated for clip in clips]
    if all(generated):
        return _TRAINED
    return "compositeWithTrainedAlgorithmicMedia" if any(generated) else "composite"


def _label(number: int) -> str:
    return f"clip_{number}"


def _find_algorithm(chain: str, key: str, certificate: Path, private_key: Path) -> str:
    """Return the name of a key's signature algorithm, and check that the certificate is of this key."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    except ImportError:
        raise InvalidInput("films are signed by c2pa-python: pip install 'prefect-video[c2pa]'") from None
    try:
        public = x509.load_pem_x509_certificates(chain.encode())[0].public_key()
    except ValueError:
        raise InvalidInput(f"the film cannot be signed: {certificate} holds no certificate in PEM") from None
    try:
        private = serialization.load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError):
        # Its message may quote the key.
        raise InvalidInput(
            f"the film cannot be signed: {private_key} holds no private key in PEM without a password"
        ) from None
    if private.public_key() != public:
        raise InvalidInput(f"the film cannot be signed: {private_key} is not the key of the first one in {certificate}")
    if isinstance(private, ec.EllipticCurvePrivateKey):
        found = {256: "es256", 384: "es384", 521: "es512"}.get(private.curve.key_size)
    elif isinstance(private, rsa.RSAPrivateKey):
        found = "ps256"
    else:
        found = "ed25519" if isinstance(private, ed25519.Ed25519PrivateKey) else None
    if found is None:
        raise InvalidInput(
            f"the film cannot be signed: {private_key}: C2PA takes P-256, P-384, P-521, Ed25519 and RSA keys"
        )
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
