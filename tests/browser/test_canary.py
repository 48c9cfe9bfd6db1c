"""The What if view during a rollout, with the curves of both versions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.browser.conftest import check_accessible
from tests.conftest import Starter
from tests.support import canaries, processes
from tests.support.rollouts import write_rollout

STABLE, FLIPPED, NAN = 1, 2, 3
CONFIG = (
    'model_config_list {{ config {{ name: "m" base_path: "{}" model_platform: "tensorflow" '
    "model_version_policy {{ all {{}} }} }} }}"
)


@pytest.fixture
def rollout(tmp_path: Path, starter: Starter) -> tuple[str, Callable[..., None]]:
    """The page's address, and a function that changes the rollout's state."""
    canaries.publish(tmp_path / "m", STABLE)
    canaries.publish(tmp_path / "m", FLIPPED, sign=-1)
    canaries.publish(tmp_path / "m", NAN, fault=canaries.NAN)
    (tmp_path / "models.config").write_text(CONFIG.format(tmp_path / "m"))
    server = starter.model_server(f"--model_config_file={tmp_path / 'models.config'}")
    states = tmp_path / "states"
    write_rollout(states, "m")
    client = starter.client(server.address, CLIENT_MODEL="m", CLIENT_ROLLOUT=str(states))
    generations = iter(range(2, 100))

    def set_state(**state: Any) -> None:
        generation = next(generations)
        write_rollout(states, "m", generation=generation, **state)

        def is_loaded() -> bool:
            stats = requests.get(f"{client.address}/stats", timeout=10).json()
            return bool(stats["rollout"]["generation"] == generation)

        processes.wait_for(is_loaded, "the gateway has loaded the rollout")

    return client.address, set_state


def test_canary_curve_is_drawn_beside_the_stable_one(
    page: Page, rollout: tuple[str, Callable[..., None]]
) -> None:
    url, set_state = rollout
    page.goto(f"{url}/#whatif")
    card, legend = page.locator(".column"), page.locator(".legend")
    expect(card.locator("svg .curve")).to_have_count(1)
    expect(card.locator("svg .canary")).to_have_count(0)
    expect(legend).to_be_hidden()

    set_state(phase="canary", canary=FLIPPED, percent=1.0)
    # By its path: calls of its arm count toward its verdict and fall back to the stable version.
    with page.expect_request(f"**/versions/{FLIPPED}:predict"):
        page.reload()
    expect(card.locator("svg .canary")).to_have_count(1)
    expect(legend.locator("span")).to_have_text(["Version 1 (stable)", "Version 2 (canary)"])
    expect(page.locator("#version")).to_have_text("1")
    expect(card.locator("thead th").last).to_have_text("Version 2 (canary)")
    # The canary flips the labels of the stable version.
    cells = card.locator("tbody tr").first.locator("td").all_text_contents()
    assert cells == ["−10", "< 0.1%", "> 99.9%"]
    check_accessible(page)

    page.route("**:predict", lambda route: route.fulfill(body='{"outputs": {'))
    page.reload()
    message = "Version 2 (canary): The service cannot be reached."
    expect(legend.locator("span").last).to_have_text(message)
    page.unroute("**:predict")

    page.route("**/stats", lambda route: route.abort())
    page.reload()
    expect(card.locator("svg .curve")).to_have_count(1)
    page.unroute("**/stats")

    set_state(phase="canary", canary=NAN, percent=1.0)
    page.reload()
    message = "Version 3 (canary): Its outputs are not probabilities."
    expect(legend.locator("span").last).to_have_text(message)
    expect(card.locator("svg .curve")).to_have_count(1)
    expect(card.locator("svg .canary")).to_have_count(0)
