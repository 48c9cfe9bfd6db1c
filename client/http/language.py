"""The page's languages: the choice of one for a request, and its strings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from werkzeug import Request

# Native names by language code; the first is the default.
LANGUAGES = {"en": "English", "zh": "中文"}
COOKIE = "language"

_FOLDER = Path(__file__).parent / "i18n"


def choose(request: Request) -> str:
    """Return a request's language, from `?lang=`, the cookie, or Accept-Language."""
    for code in (request.args.get("lang"), request.cookies.get(COOKIE)):
        if code in LANGUAGES:
            return code
    return request.accept_languages.best_match(LANGUAGES) or next(iter(LANGUAGES))


@cache
def strings(language: str) -> Mapping[str, str]:
    """Return the strings of a language by key; `{name}` in a string is a placeholder."""
    texts: dict[str, str] = json.loads((_FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return texts
