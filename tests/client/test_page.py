"""The page's numbers, its languages, and the size of its files."""

from __future__ import annotations

import re
from http.client import HTTPConnection
from pathlib import Path

import pytest
import requests
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from client.http import language, page
from client.http.page_data import data_block
from client.serving.columns.numeric import plain_number
from tests.support.forked import client

HTTP = Path(language.__file__).parent
SCRIPTS = sorted((HTTP / "static").rglob("*.js"))
TEMPLATES = sorted((HTTP / "templates").glob("*.html"))
MAX_ASSET_BYTES = 100_000
# Includes the scripts that are loaded on demand. A tenth is comments.
MAX_TOTAL_BYTES = 126_500
# Prefixes of keys that scripts and templates compute.
COMPUTED_PREFIXES = (
    "tab.",
    "theme.",
    "order.",
    "kind.",
    "fault.",
    "state.",
    "metric.",
    "code.",
    "error.",
    "server.",
    "drift.",
    "golden.",
    "table.",
)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (31534.26, 4, "31534"),
        (31534.26, 6, "31534.3"),
        (1234567.0, 6, "1234567"),
        (17.4628, 4, "17.46"),
        (0.00002951, 4, "0.00002951"),
        (-0.0003, 4, "-0.0003"),
        (1000.0, 4, "1000"),
        (0.0, 4, "0"),
        (9.9999, 4, "10"),
        (1e30, 4, "1e+30"),
        (5e-324, 4, "4.941e-324"),
    ],
)
def test_numbers_are_formatted_without_needless_exponents(
    value: float, digits: int, text: str
) -> None:
    assert plain_number(value, digits) == text


def placeholders(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


def test_all_languages_have_the_same_strings_with_the_same_placeholders() -> None:
    english = language.strings("en")
    for code in language.LANGUAGES:
        strings = language.strings(code)
        assert list(strings) == list(english), code
        for key, text in strings.items():
            assert text.strip(), f"{code}: {key} is empty"
            assert placeholders(text) == placeholders(english[key]), f"{code}: {key}"


def test_every_string_is_used_and_every_used_string_exists() -> None:
    sources = "\n".join(path.read_text() for path in (*SCRIPTS, *TEMPLATES))
    used = set(re.findall(r"""\bt\(["'`]([\w.]+)["'`]""", sources))
    quoted = set(re.findall(r"""["'`]([\w.]+)["'`]""", sources))
    strings = set(language.strings("en"))
    assert used <= strings | set(COMPUTED_PREFIXES), used - strings
    unused = {key for key in strings - quoted if not key.startswith(COMPUTED_PREFIXES)}
    assert unused == set()


def test_templates_and_scripts_contain_no_literal_text() -> None:
    for path in TEMPLATES:
        text = re.sub(
            r"\{%.*?%\}|\{\{.*?\}\}|<script.*?</script>|<code>.*?</code>", "", path.read_text()
        )
        visible = re.sub(r"<[^>]*>", "", text)
        assert not re.search(r"[^\W\d_]{2,}", visible), f"{path.name}: {visible.split()}"
        assert not re.search(r'(title|aria-label|placeholder|alt)="[^"]*\w', text), path.name
    literal_text = re.compile(
        r"""(textContent|title|ariaLabel|placeholder|innerText) ?[=:] ?["'`][^"'`$]*[^\W\d_]{2,}"""
    )
    for path in SCRIPTS:
        assert not literal_text.search(path.read_text()), path.name


def test_scripts_never_parse_markup_or_text_as_code() -> None:
    for path in SCRIPTS:
        forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\("
        assert not re.search(forbidden, path.read_text()), path.name


def test_scripts_and_styles_stay_small() -> None:
    scripts: set[Path] = set()
    queue = [HTTP / "static" / "app.js"]
    while queue:
        script = queue.pop()
        scripts.add(script)
        imported = re.findall(r'^import .* from "(.*)";', script.read_text(), re.MULTILINE)
        queue += {(script.parent / path).resolve() for path in imported} - scripts
    names = {str(path.relative_to(HTTP / "static").with_suffix("")) for path in scripts}
    assert names - {"app"} == set(page.MODULES)
    files = [*scripts, HTTP / "static" / "page.css"]
    assert sum(path.stat().st_size for path in files) < MAX_ASSET_BYTES
    # The others are loaded when their view is opened.
    everything = {*SCRIPTS, HTTP / "static" / "page.css"}
    assert sum(path.stat().st_size for path in everything) < MAX_TOTAL_BYTES


@pytest.mark.parametrize(
    ("query", "cookie", "accept_language", "expected"),
    [
        ("", "", "", "en"),
        ("", "", "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("", "", "en-GB,en;q=0.9,zh;q=0.8", "en"),
        ("", "", "fr, de;q=0.9", "en"),
        ("", "language=en", "zh", "en"),
        ("lang=zh", "language=en", "en", "zh"),
        ("lang=xx", "language=../en", "zh", "zh"),
    ],
)
def test_language_comes_from_the_url_the_cookie_or_the_browser(
    query: str, cookie: str, accept_language: str, expected: str
) -> None:
    headers = [("Cookie", cookie), ("Accept-Language", accept_language)]
    request = Request(EnvironBuilder(query_string=query, headers=headers).get_environ())
    assert language.choose(request) == expected


def test_embedded_data_cannot_close_its_script_element() -> None:
    assert data_block({"</script>": float("nan")}) == '{"\\u003c/script>":null}'


def test_page_is_in_the_requested_language_and_forbids_inline_code(client_url: str) -> None:
    response = requests.get(client_url, headers={"Accept-Language": "zh-CN"}, timeout=10)
    assert '<html lang="zh">' in response.text
    assert "跳到正文" in response.text
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    dark = requests.get(client_url, cookies={"theme": "dark"}, timeout=10)
    assert '<html lang="en" data-theme="dark">' in dark.text
    assert "data-theme" not in requests.get(client_url, cookies={"theme": '"><b'}, timeout=10).text


def test_only_reports_in_the_models_directory_are_served(
    model_server: str, trained_models: Path, tmp_path: Path
) -> None:
    (tmp_path / "models" / "breast_cancer").mkdir(parents=True)
    (tmp_path / "models" / "breast_cancer" / "1").symlink_to(trained_models / "breast_cancer" / "1")
    for secret in (tmp_path, tmp_path / "models" / ".hidden"):
        (secret / "1").mkdir(parents=True)
        (secret / "1" / "report.html").write_text("secret")
    log = tmp_path / "client.log"
    with client(log, model_server, CLIENT_REPORTS=str(tmp_path / "models")) as url:
        report = requests.get(f"{url}/reports/breast_cancer/1", timeout=10)
        assert report.status_code == 200
        assert "training report" in report.text
        policy = report.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "sandbox" in policy
        assert "script-src" not in policy
        assert '"reports":[1]' in requests.get(url, timeout=10).text
        for path in (
            "/reports/breast_cancer/2",
            "/reports/../1",
            "/reports/%2e%2e/1",
            "/reports/..%2f..%2f/1",
            "/reports/.hidden/1",
            "/reports/breast_cancer/../1",
            "/reports/breast_cancer/-1",
            "/reports/breast_cancer/1/manifest.json",
            "/reports/breast_cancer/%00",
        ):
            # A requests.Session would resolve the dots before sending.
            host, _, port = url.removeprefix("http://").partition(":")
            connection = HTTPConnection(host, int(port), timeout=10)
            connection.request("GET", path)
            response = connection.getresponse()
            assert response.status == 404, path
            assert b"secret" not in response.read()
            connection.close()


def test_no_reports_are_served_without_a_models_directory(client_url: str) -> None:
    assert requests.get(f"{client_url}/reports/breast_cancer/1", timeout=10).status_code == 404
    assert '"reports":[]' in requests.get(client_url, timeout=10).text
