"""``/ui``: a page to try the service with. Plain files, nothing from another host, and a policy that lets nothing else run."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parents[1] / "ui"

PAGE_FILES = {"/ui": ("page.html", "text/html"), "/ui/page.js": ("page.js", "text/javascript"), "/ui/page.css": ("page.css", "text/css")}
"""By path; they tell nothing of the models, so that who has no token yet can open the page and enter one."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def ui_routes() -> list[Route]:
    """Serve the page's files; they are read when a worker starts."""

    def route(path: str, name: str, media: str) -> Route:
        content = (FOLDER / name).read_bytes()

        async def answer(request: Request) -> Response:
            return Response(content, headers=HEADERS, media_type=media)

        return Route(path, answer, methods=["GET"])

    return [route(path, *file) for path, file in PAGE_FILES.items()]
