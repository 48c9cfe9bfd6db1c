"""A certificate authority for tests, and certificates that it signs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.conftest import skip_or_fail

DAYS = "2"


class CertificateAuthority:
    """Signs certificates; all keys and certificates are files in one folder.

    Attributes:
        certificate: file of the authority's certificate.
    """

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            skip_or_fail("openssl is not installed")
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"
        self._openssl("req", "-x509", "-subj", "/CN=authority", "-days", DAYS, *self._new("ca"))

    def sign(self, name: str) -> tuple[Path, Path]:
        """Return the files of a new key and of its certificate for localhost."""
        request, certificate = self._folder / f"{name}.csr", self._folder / f"{name}.pem"
        extension = self._folder / f"{name}.ext"
        extension.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        key = self._new(name)
        self._openssl("req", "-subj", f"/CN={name}", *key[:-1], str(request))
        signing = ["-CA", str(self.certificate), "-CAkey", str(self._key), "-CAcreateserial"]
        signing += ["-days", DAYS, "-extfile", str(extension), "-out", str(certificate)]
        self._openssl("x509", "-req", "-in", str(request), *signing)
        return self._folder / f"{name}.key", certificate

    def _new(self, name: str) -> list[str]:
        """Return openssl's arguments for a new key and an output file with this name."""
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        files = ["-keyout", str(self._folder / f"{name}.key")]
        return [*curve, *files, "-out", str(self._folder / f"{name}.pem")]

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def ssl_config(file: Path, **fields: bytes | bool) -> Path:
    """Write an SSLConfig in text format."""
    lines = (
        f"{name}: {str(value).lower()}"
        if isinstance(value, bool)
        else f'{name}: "{value.decode()}"'.replace("\n", "\\n")
        for name, value in fields.items()
    )
    file.write_text("\n".join(lines))
    return file
