"""The form of a model that takes pictures."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.conftest import Starter
from tests.support.pictures import HEIGHT, WIDTH, publish


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(left: tuple[int, ...], right: tuple[int, ...]) -> bytes:
    """Return a picture of two RGB or RGBA colours, four times as large as the model's."""
    row = b"\0" + bytes(left) * (2 * WIDTH) + bytes(right) * (2 * WIDTH)
    colour_type = 2 if len(left) == 3 else 6
    size = struct.pack(">IIBBBBB", 4 * WIDTH, 4 * HEIGHT, 8, colour_type, 0, 0, 0)
    pixels = zlib.compress(row * (4 * HEIGHT))
    chunks = chunk(b"IHDR", size) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_picture_is_sent_as_scaled_pixels_or_as_bytes(
    page: Page, tmp_path: Path, starter: Starter
) -> None:
    publish(tmp_path / "m")
    server = starter.model_server("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    page.goto(starter.client(server.address, CLIENT_MODEL="m").address)
    content = png((255, 0, 0), (255, 255, 255))
    (tmp_path / "flag.png").write_bytes(content)
    (tmp_path / "no.png").write_bytes(b"no picture")
    for name in ("grey", "colour", "image_bytes"):
        page.get_by_label(f"Picture for {name}").set_input_files(tmp_path / "flag.png")
    image = page.get_by_role("img", name="flag.png as sent: 16 by 8 pixels")
    expect(image).to_have_count(2)
    # Red is 0.299 of white (ITU-R BT.601).
    outputs = page.locator("#outputs")
    expect(outputs).to_contain_text("left0.299")
    expect(outputs).to_contain_text("right1")
    expect(outputs).to_contain_text("colours[255,127.5,127.5]")
    expect(outputs).to_contain_text(f"bytes{len(content)}")
    with page.expect_request("**/predict") as request:
        page.get_by_label("Pixel range").select_option("255")
    (row,) = json.loads(request.value.post_data or "")["instances"]
    assert row["grey"] == [[76] * (WIDTH // 2) + [255] * (WIDTH // 2)] * HEIGHT
    assert list(row["image_bytes"]) == ["b64"]
    page.get_by_label("Picture for grey").set_input_files(tmp_path / "no.png")
    expect(page.get_by_text("This browser cannot read no.png as a picture.")).to_be_visible()
    # A transparent pixel does not show the previous picture.
    (tmp_path / "half.png").write_bytes(png((255, 255, 255, 255), (255, 255, 255, 0)))
    page.get_by_label("Picture for colour").set_input_files(tmp_path / "half.png")
    expect(outputs).to_contain_text("colours[127.5,127.5,127.5]")
    (tmp_path / "flag.png").unlink()
    page.get_by_label("Picture for image_bytes").dispatch_event("change")
    expect(page.get_by_text("This browser cannot read flag.png as a picture.")).to_be_visible()
    page.locator("[name=image_bytes]").fill("no base64!")
    expect(page.locator(".field.invalid .fault")).to_have_text("expected base64 or a file")
