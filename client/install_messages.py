"""Install only the message modules from wheels: `install_messages.py WHEELS TARGET`.

The client needs some 40 generated modules of the tensorflow wheel, which is 600 MB. Without the
package's `__init__` they form a namespace package, so importing them runs nothing else.
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

MESSAGES = re.compile(
    r"tensorflow/(core/(example|framework|protobuf)|compiler/xla/tsl/protobuf)/\w+_pb2\.py"
    r"|tensorflow_serving/(apis|config)/\w+_pb2(_grpc)?\.py"
)


def main(wheels: Path, target: Path) -> None:
    """Copy the message modules of every wheel in a directory into another."""
    installed = 0
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            modules = [name for name in archive.namelist() if MESSAGES.fullmatch(name)]
            archive.extractall(target, modules)
            installed += len(modules)
    if not installed:
        sys.exit(f"expected wheels with message modules in {wheels}, found none")
    print(f"{installed} message modules in {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
