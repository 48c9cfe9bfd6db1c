"""Imports of the process that model servers are forked from; see `forked`.

A process with threads must not be forked. TensorFlow starts its threads when it first computes;
OpenBLAS and pyarrow start theirs when they are imported.
"""

import os
import sys
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"
# Keras imports pandas if it is installed, and pandas imports pyarrow.
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"

import serving.__main__
import serving.model_servers.options
import serving.model_servers.server  # noqa: F401

THREADS = Path("/proc/self/task")

if THREADS.exists() and len(list(THREADS.iterdir())) > 1:
    sys.exit("no model server can be forked from a process that has threads")
