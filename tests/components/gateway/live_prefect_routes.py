"""Print every route of the installed Prefect server below ``/api``, its websockets included."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi.routing import APIRouter
from prefect.server.api.server import create_app
from starlette.routing import Mount, Route, WebSocketRoute


def walk(routes: Iterable[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield method and path of each route; a kind that is not known here is an error."""
    for route in routes:
        if isinstance(route, Route):
            yield from ((method, prefix + route.path) for method in route.methods or ())
        elif isinstance(route, WebSocketRoute):
            yield "WEBSOCKET", prefix + route.path
        elif isinstance(route, Mount):
            inner = list(walk(route.routes, prefix + route.path))
            yield from inner or [("MOUNT", prefix + route.path)]
        else:
            router, context = route.original_router, route.include_context  # of FastAPI's, for a router in a router
            assert isinstance(router, APIRouter)
            yield from walk(router.routes, prefix + context.prefix)


if __name__ == "__main__":
    api = next(route for route in create_app().routes if getattr(route, "path", "") == "/api")
    found = {f"{method} {re.sub('{[^}]*}', '{}', path)}" for method, path in walk(api.routes)}
    print("\n".join(sorted(found)))
