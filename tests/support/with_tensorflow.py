"""Imports for the process from which others are forked; see `forked`.

A process with threads must not be forked. TensorFlow starts its threads when it first computes;
OpenBLAS and pyarrow start theirs when they are imported.
"""

import os
import sys
from importlib import import_module
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"
# Keras imports pandas if it is installed, and pandas imports pyarrow.
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"

# The client imports TensorFlow Serving's messages without TensorFlow unless that is already loaded.
for module in (
    "serving.__main__",
    "serving.model_servers.options",
    "serving.model_servers.server",
    "training.publishing.saved_version",
    "client.__main__",
    "client.http.flask_app",
    "client.http.server",
):
    import_module(module)

THREADS = Path("/proc/self/task")

if THREADS.exists() and len(list(THREADS.iterdir())) > 1:
    sys.exit("cannot fork from a process that has threads")
