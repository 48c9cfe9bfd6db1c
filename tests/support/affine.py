"""A small model that returns its version, after a delay that a test chooses."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

SLOW = 2.0  # seconds
SETTINGS = "settings.txt"


class Affine(tf.Module):
    """y = 10 x + version, after a delay; an asset holds the version and the delay in seconds."""

    def __init__(self, settings: Path) -> None:
        super().__init__()
        lines = tf.lookup.TextFileInitializer(
            str(settings), tf.string, 0, tf.float64, 1, delimiter="="
        )
        self.settings = tf.lookup.StaticHashTable(lines, default_value=0.0)
        self.ten = tf.Variable(10.0)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def serve(self, x: Any) -> dict[str, Any]:
        number, seconds = (self.settings.lookup(tf.constant(key)) for key in ("version", "seconds"))
        waited = tf.cond(seconds > 0, lambda: wait(seconds), lambda: tf.constant(0.0))
        return {"y": self.ten * x + tf.cast(number, tf.float32) + waited}


def wait(seconds: Any) -> Any:
    """Wait by the clock, however busy the machine is, then return 0."""
    end = tf.timestamp() + seconds
    now = tf.while_loop(lambda now: now < end, lambda now: (tf.timestamp(),), (tf.timestamp(),))
    return tf.cast(now[0] < end, tf.float32)


@functools.cache
def _template() -> Path:
    """Export a version to copy, since copying is much faster than exporting."""
    folder = Path(tempfile.mkdtemp(prefix="affine-"))
    atexit.register(shutil.rmtree, folder)
    (folder / SETTINGS).write_text("version=0\n")
    module = Affine(folder / SETTINGS)
    tf.saved_model.save(module, str(folder / "0"), signatures=module.serve)
    return folder / "0"


def publish(base_path: Path, version: int, seconds: float = 0.0) -> Path:
    """Write a version beside the base path, rename it into place and return its path."""
    base_path.mkdir(parents=True, exist_ok=True)
    hidden = base_path.parent / f".tmp-{base_path.name}-{version}"
    shutil.copytree(_template(), hidden)
    settings = f"version={version}\nseconds={seconds}\n"
    (hidden / "assets" / SETTINGS).write_text(settings)
    return hidden.rename(base_path / str(version))
