"""The page at `/`: an explorer of the served model.

The template is a frame; `static/app.js` fills it from the API and from facts about the model, which
the page holds as JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, make_response, render_template, request

from client.errors import ClientError
from client.http import language, reports
from client.http.flask_bridge import Bridge
from client.http.page_data import data_block, model_data
from client.serving.client import Target
from client.serving.deadlines import Deadline
from client.settings import Settings

THEMES = ("light", "dark")
THEME_COOKIE = "theme"
# The modules that the page preloads, so that the browser need not discover them one by one.
MODULES = (
    *("answer", "api", "charts", "code", "dom", "explorer", "feedback", "flips"),
    *("i18n", "paste", "predictor", "row", "views/predict", "views/whatif"),
)


def blueprint(get_bridge: Callable[[], Bridge], settings: Settings) -> Blueprint:
    """Return the routes.

    Args:
        get_bridge: returns the bridge to the gateway.
        settings: the application's settings.
    """
    routes = Blueprint("page", __name__, template_folder="templates", static_folder="static")

    @routes.get("/")
    def page() -> Response:
        try:
            bridge = get_bridge()
            target, deadline = Target(settings.model), Deadline(settings.timeout)
            schema = bridge.run(bridge.gateway.predictor.metadata(target, deadline))
        except ClientError as error:
            unavailable = _render("unavailable.html", model=settings.model, message=error.message)
            unavailable.status_code = error.status
            unavailable.headers["Retry-After"] = "2"
            return unavailable
        data = model_data(
            schema,
            reports=reports.versions(settings.reports, schema.model),
            rollout=settings.rollout is not None,
            feedback=settings.log is not None,
            accepts_missing=settings.missing_values != "refuse",
        )
        return _render("page.html", model=schema.model, modules=MODULES, data=data)

    return routes


def _render(template: str, **values: Any) -> Response:
    """Render a template in the request's language and theme."""
    lang = language.choose(request)
    strings = language.strings(lang)
    theme = request.cookies.get(THEME_COOKIE)
    response = make_response(
        render_template(
            template,
            **values,
            lang=lang,
            languages=language.LANGUAGES,
            theme=theme if theme in THEMES else "",
            strings=strings,
            t=lambda key, **named: strings[key].format(**named),
            data_block=data_block,
        )
    )
    response.headers["Cache-Control"] = "no-cache"
    response.vary.update(("Accept-Language", "Cookie"))
    return response
