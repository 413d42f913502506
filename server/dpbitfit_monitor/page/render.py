"""Templates, with the filters and values that all of them share."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import urlencode

import jinja2
from starlette.requests import Request
from starlette.responses import Response

from dpbitfit.ledger.status import INFORMATIVE
from dpbitfit_monitor.page import charts, formatting, urls
from dpbitfit_monitor.views import MEANINGS

_ICONS = {
    "ok": "●",
    "silent": "◌",
    "near": "▲",
    "spent": "■",
    "orphaned": "◆",
    "drifted": "≠",
    "unreadable": "✕",
}
_FILTERS: tuple[Callable[..., str], ...] = (
    *(formatting.figure, formatting.steps, formatting.metrics, formatting.percent),
    *(formatting.ago, formatting.moment),
    *(urls.subject_path, urls.account_path, urls.run_path, urls.run_name),
)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in _FILTERS}
    environment.globals |= {
        "version": version("dpbitfit"),
        "meanings": MEANINGS,
        "icons": _ICONS,
        "chart_size": {name: getattr(charts, name) for name in charts.EDGES},
        "not_covered": formatting.not_covered(),
        "informative": INFORMATIVE,
    }
    return environment


_TEMPLATES = _environment()


def render(
    request: Request, template: str, context: Mapping[str, Any], status: int = 200
) -> Response:
    """A page. A name that is no Unicode text is shown with question marks."""
    query = dict(request.query_params)
    common = {
        "viewer": request.scope.get("viewer"),
        "path": request.scope["path"],
        "page_query": lambda number: "?" + urlencode({**query, "page": number}, errors="replace"),
    }
    text = _TEMPLATES.get_template(template).render({"refresh": 0, **common, **context})
    return Response(text.encode("utf-8", "replace"), status, media_type="text/html")
