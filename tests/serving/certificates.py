"""An authority, and certificates of it, made by openssl at the time of a test."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.conftest import missing

NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"


class Authority:
    """Signs certificates, which lie beside its own as `NAME.pem` and `NAME.key`."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            missing("openssl is not installed")
        self.folder = folder
        folder.mkdir()
        (folder / "names").write_text(NAMES)
        self._openssl(*_new_key("ca"), "-x509", "-days", "2", "-out", "ca.pem")

    @property
    def certificate(self) -> bytes:
        return (self.folder / "ca.pem").read_bytes()

    def sign(self, name: str) -> tuple[bytes, bytes]:
        """Return a new key and its certificate."""
        self._openssl(*_new_key(name), "-out", f"{name}.csr")
        self._openssl(
            "x509", "-req", "-days", "2", "-in", f"{name}.csr", "-extfile", "names",
            "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{name}.pem",
        )  # fmt: skip
        key, certificate = (self.folder / f"{name}.{kind}" for kind in ("key", "pem"))
        return key.read_bytes(), certificate.read_bytes()

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)


def _new_key(name: str) -> tuple[str, ...]:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    return ("req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key")


def ssl_config(file: Path, **fields: bytes | bool) -> Path:
    """Write an SSLConfig in text format."""
    texts = (
        f"{name}: {str(value).lower()}"
        if isinstance(value, bool)
        else f'{name}: "{value.decode()}"'.replace("\n", "\\n")
        for name, value in fields.items()
    )
    file.write_text("\n".join(texts))
    return file
