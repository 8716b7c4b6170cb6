/**
 * The shop as a Worker. `env.DB01` is workerd's own D1 binding; behind it is d1server.
 *
 * Each request continues the visitor's session: the bookmark travels in a cookie, so the next
 * page shows what the last one wrote, whichever replica answers.
 */

import type { D1Database, D1DatabaseSession, D1Meta, Fetcher } from "@cloudflare/workers-types";

interface Env {
  DB01: D1Database;
  PUBLIC: Fetcher; // the folder ../public
}

interface Product {
  id: number;
  name: string;
  description: string;
  category: string;
  price: number;
  inventory: number;
}

const COOKIE = "product_bookmark";
const COOKIE_S = 3600;
const TRIES_MAX = 5;
const DELAY_MS_FIRST = 50;
const BODY_CHARACTERS_MAX = 10_000;

// D1's texts for "not done, try again"; anything else would fail again.
const PASSING = [
  "Network connection lost",
  "storage caused object to be reset",
  "reset because its code was updated",
];

const UPSERT = `INSERT INTO products (id, name, description, category, price, inventory)
  VALUES (?, ?, ?, ?, ?, ?)
  ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description,
    category = excluded.category, price = excluded.price, inventory = excluded.inventory,
    updated_at = CURRENT_TIMESTAMP`;

/** An answer that is the visitor's mistake. */
class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    const { pathname } = new URL(request.url);
    if (!pathname.startsWith("/api/")) return page(request, env.PUBLIC);
    const session = env.DB01.withSession(readCookie(request) ?? "first-unconstrained");
    try {
      const answer = await route(request, pathname, session);
      return json(answer, 200, session.getBookmark());
    } catch (error) {
      if (error instanceof Refused) return json({ error: error.message }, error.status);
      console.error(String(error));
      return json({ error: "The shop's database does not answer. Try again in a moment." }, 503);
    }
  },
};

async function route(request: Request, path: string, session: D1DatabaseSession): Promise<object> {
  const call = `${request.method} ${path}`;
  if (call === "GET /api/products") return listProducts(session);
  if (call === "POST /api/product") return saveProduct(session, await readProduct(request));
  const id = /^GET \/api\/products\/(\d{1,15})$/.exec(call)?.[1];
  if (id !== undefined) return showProduct(session, Number(id));
  throw new Refused(404, `there is no ${call}`);
}

async function listProducts(session: D1DatabaseSession): Promise<object> {
  const query = session.prepare("SELECT * FROM products ORDER BY id");
  const { results, meta } = await retried(() => query.all<Product>());
  return { products: results, served: served(meta, session) };
}

async function showProduct(session: D1DatabaseSession, id: number): Promise<object> {
  const query = session.prepare("SELECT * FROM products WHERE id = ?").bind(id);
  const { results, meta } = await retried(() => query.all<Product>());
  if (results[0] === undefined) throw new Refused(404, `There is no product ${id}.`);
  return { product: results[0], served: served(meta, session) };
}

async function saveProduct(session: D1DatabaseSession, product: Product): Promise<object> {
  const { id, name, description, category, price, inventory } = product;
  const upsert = session.prepare(UPSERT).bind(id, name, description, category, price, inventory);
  const { meta } = await retried(() => upsert.run()); // twice is the same as once
  return { product, served: served(meta, session) };
}

/** Run a query, again after a growing pause while the database says that it is a passing trouble. */
async function retried<T>(run: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await run();
    } catch (error) {
      if (tries >= TRIES_MAX || !PASSING.some((text) => String(error).includes(text))) throw error;
      const delayMs = DELAY_MS_FIRST * 2 ** (tries - 1) * (0.5 + Math.random() / 2);
      await new Promise((resolve) => setTimeout(resolve, delayMs));
    }
  }
}

async function readProduct(request: Request): Promise<Product> {
  const text = await request.text();
  if (text.length > BODY_CHARACTERS_MAX) throw new Refused(413, "that is too long for a product");
  let body: Partial<Record<keyof Product, unknown>>;
  try {
    body = JSON.parse(text) ?? {};
  } catch {
    throw new Refused(400, "the body is not JSON");
  }
  const { id, name, category, price, inventory = 0, description = "" } = body;
  if (!isCount(id) || id === 0) throw new Refused(400, "id is a whole number from 1");
  if (typeof name !== "string" || name.trim() === "") throw new Refused(400, "name is missing");
  if (typeof category !== "string" || category === "") throw new Refused(400, "category is missing");
  if (typeof price !== "number" || !(price > 0)) throw new Refused(400, "price is a number above 0");
  if (!isCount(inventory)) throw new Refused(400, "inventory is a whole number from 0");
  if (typeof description !== "string") throw new Refused(400, "description is a text");
  return { id, name, description, category, price, inventory };
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

/** Who answered, for the page's footer; the last two are d1server's own. */
function served(meta: D1Meta & Record<string, unknown>, session: D1DatabaseSession): object {
  return {
    region: meta.served_by_region,
    is_primary: meta.served_by_primary,
    sql_ms: meta.duration,
    waited_ms: meta["waited_ms"] ?? 0,
    lag_ms: meta["lag_ms"] ?? 0,
    bookmark: session.getBookmark(),
  };
}

function readCookie(request: Request): string | undefined {
  const cookies = (request.headers.get("cookie") ?? "").split(";").map((one) => one.trim());
  return cookies.find((one) => one.startsWith(`${COOKIE}=`))?.slice(COOKIE.length + 1);
}

function json(answer: object, status: number, bookmark: string | null = null): Response {
  const response = Response.json(answer, { status });
  response.headers.set("cache-control", "no-store");
  if (bookmark !== null) {
    const cookie = `${COOKIE}=${bookmark}; Path=/; Max-Age=${COOKIE_S}; HttpOnly; SameSite=Lax`;
    response.headers.set("set-cookie", cookie);
  }
  return response;
}

const TYPES: Record<string, string> = {
  html: "text/html; charset=utf-8",
  css: "text/css; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  svg: "image/svg+xml",
};

/** A file of ../public; every product has the same page, which asks the API for its own. */
async function page(request: Request, files: Fetcher): Promise<Response> {
  const url = new URL(request.url);
  if (url.pathname === "/") url.pathname = "/index.html";
  if (/^\/products\/\d+$/.test(url.pathname)) url.pathname = "/product.html";
  const file = await files.fetch(url.href);
  const type = TYPES[url.pathname.split(".").at(-1) ?? ""];
  if (!file.ok || type === undefined) return new Response("not found", { status: 404 });
  const headers = {
    "content-type": type,
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'self'",
  };
  return new Response(await file.arrayBuffer(), { headers });
}
