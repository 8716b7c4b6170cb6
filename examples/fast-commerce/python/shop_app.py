"""The shop as an aiohttp application, with `d1client`.

Each request continues the visitor's session: the bookmark travels in a cookie, so the next
page shows what the last one wrote, whichever replica answers. The client sends a query again
with growing pauses where that is safe; a write is made safe by its idempotency key.

    python shop_app.py --node http://127.0.0.1:8788 --port 8797
"""

import argparse
import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from d1client import D1Client, D1Error, D1Meta, D1Session, connect

DATABASE: Final = "fast-commerce"
PUBLIC: Final = Path(__file__).resolve().parent.parent / "public"
COOKIE: Final = "product_bookmark"
COOKIE_S: Final = 3600
BODY_BYTES_MAX: Final = 10_000
ID_MAX: Final = 2**53

LIST: Final = "SELECT * FROM products ORDER BY id"
SHOW: Final = "SELECT * FROM products WHERE id = ?"
UPSERT: Final = """INSERT INTO products (id, name, description, category, price, inventory)
    VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description,
        category = excluded.category, price = excluded.price, inventory = excluded.inventory,
        updated_at = CURRENT_TIMESTAMP"""

CLIENT: Final = web.AppKey("client", D1Client)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)
routes = web.RouteTableDef()


@routes.get("/api/products")
async def list_products(request: web.Request) -> web.Response:
    """All products."""
    session = open_session(request)
    found = await session.prepare(LIST).all()
    return answer({"products": found.results}, found.meta, session)


@routes.get(r"/api/products/{id:\d{1,15}}")
async def show_product(request: web.Request) -> web.Response:
    """One product."""
    session = open_session(request)
    number = int(request.match_info["id"])
    found = await session.prepare(SHOW).bind(number).all()
    if not found.results:
        return refuse(404, f"There is no product {number}.")
    return answer({"product": found.results[0]}, found.meta, session)


@routes.post("/api/product")
async def save_product(request: web.Request) -> web.Response:
    """Change a product, or add it."""
    try:
        product = read_product(json.loads(await request.read()))
    except ValueError as exc:
        return refuse(400, str(exc))
    session = open_session(request)
    upsert = session.prepare(UPSERT).bind(*product.values())
    saved = await upsert.run(idempotency_key=uuid.uuid4().hex)
    return answer({"product": product}, saved.meta, session)


@routes.get("/")
@routes.get(r"/products/{id:\d+}")
async def page(request: web.Request) -> web.FileResponse:
    """The list, or the page of every product: it asks the API for its own."""
    name = "product.html" if request.match_info.get("id") else "index.html"
    return web.FileResponse(PUBLIC / name)


def read_product(body: object) -> dict[str, Any]:
    """Check a product that a visitor sent; the order is that of `UPSERT`."""
    if not isinstance(body, dict):
        raise ValueError("the body is not a JSON object")
    product = {"description": "", "inventory": 0, **body}
    for name in ("name", "category"):
        if not isinstance(product.get(name), str) or not product[name].strip():
            raise ValueError(f"{name} is missing")
    if not isinstance(product["description"], str):
        raise ValueError("description is a text")
    for name, least in (("id", 1), ("inventory", 0)):
        count = product.get(name)
        if type(count) is not int or not least <= count < ID_MAX:
            raise ValueError(f"{name} is a whole number from {least}")
    if type(product.get("price")) not in (int, float) or not product["price"] > 0:
        raise ValueError("price is a number above 0")
    names = ("id", "name", "description", "category", "price", "inventory")
    return {name: product[name] for name in names}


def open_session(request: web.Request) -> D1Session:
    """Go on where this visitor's last request ended."""
    return request.app[CLIENT].database(DATABASE).with_session(request.cookies.get(COOKIE))


def answer(found: dict[str, Any], meta: D1Meta, session: D1Session) -> web.Response:
    """Add who answered, for the page's footer, and the visitor's new bookmark."""
    bookmark = session.get_bookmark()
    served = {
        "region": meta.served_by_region,
        "is_primary": meta.served_by_primary,
        "sql_ms": meta.duration,
        "waited_ms": meta.waited_ms,
        "lag_ms": meta.lag_ms,
        "bookmark": bookmark,
    }
    response = web.json_response({**found, "served": served})
    if bookmark is not None:
        response.set_cookie(COOKIE, bookmark, max_age=COOKIE_S, httponly=True, samesite="Lax")
    return response


def refuse(status: int, message: str) -> web.Response:
    """Answer what went wrong, in a sentence that the page shows."""
    return web.json_response({"error": message}, status=status)


@web.middleware
async def boundary(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn trouble of the database into an answer, and add what every answer has."""
    is_api = request.path.startswith("/api/")
    try:
        response = await handler(request)
    except D1Error as exc:
        log.error("%s %s: %s", request.method, request.path, exc)
        response = refuse(503, "The shop's database does not answer. Try again in a moment.")
    except web.HTTPException as exc:
        if not is_api:
            raise
        response = refuse(exc.status, f"{request.method} {request.path}: {exc.reason}")
    response.headers["Cache-Control"] = "no-store" if is_api else "no-cache"
    response.headers["Content-Security-Policy"] = "default-src 'self'"
    return response


def open_app(node: str) -> web.Application:
    """Return the application of the shop whose database is at `node`."""

    async def client(app: web.Application) -> AsyncIterator[None]:
        async with connect(node) as app[CLIENT]:
            yield

    app = web.Application(middlewares=[boundary], client_max_size=BODY_BYTES_MAX)
    app.cleanup_ctx.append(client)
    app.add_routes(routes)
    app.router.add_static("/", PUBLIC)
    return app


def main() -> None:
    """Serve the shop until a signal ends it."""
    parser = argparse.ArgumentParser(description="The shop, in Python.")
    parser.add_argument("--node", default="http://127.0.0.1:8788", help="a node of d1server")
    parser.add_argument("--port", type=int, default=8797)
    wanted = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    web.run_app(open_app(wanted.node), host="127.0.0.1", port=wanted.port, access_log=None)


if __name__ == "__main__":
    main()
