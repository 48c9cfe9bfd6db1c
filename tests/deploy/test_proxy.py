"""The proxy's self-signed certificate."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import ROOT


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("localhost", "DNS:localhost"),
        ("10.example", "DNS:10.example"),
        ("192.168.1.5", "IP:192.168.1.5"),
        ("fd00::5", "IP:fd00::5"),
    ],
)
def test_certificate_has_a_matching_subject_alternative_name(
    name: str, entry: str, tmp_path: Path
) -> None:
    for program, script in (("openssl", 'echo "$@"'), ("mkdir", ""), ("nginx", "")):
        (tmp_path / program).write_text(f"#!{shutil.which('sh')}\n{script}\n")
        (tmp_path / program).chmod(0o755)
    result = subprocess.run(
        [shutil.which("sh") or "sh", str(ROOT / "deploy/proxy/start")],
        env={"PATH": str(tmp_path), "PROXY_NAME": name},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"-addext subjectAltName={entry} " in result.stdout
