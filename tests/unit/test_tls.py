"""Certificates are loaded once, and again when the environment names others."""

from __future__ import annotations

import shutil
from pathlib import Path

import certifi
import pytest

from prefect_video._tls import trusted_certificates
from prefect_video.errors import InvalidInput


def test_clients_share_what_the_environment_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    usual = trusted_certificates()
    assert usual is trusted_certificates()
    assert usual.get_ca_certs()

    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert trusted_certificates().get_ca_certs() == []
    monkeypatch.setenv("SSL_CERT_FILE", str(shutil.copy(certifi.where(), tmp_path / "house.pem")))
    assert len(trusted_certificates().get_ca_certs()) == len(usual.get_ca_certs())
    assert trusted_certificates() is not usual
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    with pytest.raises(InvalidInput, match="SSL_CERT_FILE"):
        trusted_certificates()
    assert trusted_certificates(trust_env=False).get_ca_certs() == usual.get_ca_certs()
