"""What a process that model servers are forked from imports; see `forked`.

TensorFlow starts its threads when it first computes, so a process that has only imported it may be
forked; numpy's linear algebra starts one for each further core unless told not to.
"""

import os
import sys
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import serving.__main__
import serving.model_servers.flags
import serving.model_servers.server  # noqa: F401

THREADS = Path("/proc/self/task")

if THREADS.exists() and len(list(THREADS.iterdir())) > 1:
    sys.exit("no model server can be forked from a process that has threads")
