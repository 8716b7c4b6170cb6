/**
 * Orders over D1's Sessions API. `env.DB01` is workerd's own D1 binding; behind it is d1server.
 *
 *     GET  /api/orders     all orders
 *     POST /api/orders     { "customerId", "orderId", "quantity" } adds or replaces one
 *     POST /api/reset      throws all orders away
 *
 * The header `x-d1-bookmark` carries the session from one request to the next.
 */

import type { D1Database, D1DatabaseSession, D1Result } from "@cloudflare/workers-types";

interface Env {
  DB01: D1Database;
}

interface Order {
  customerId: string;
  orderId: string;
  quantity: number;
}

const BOOKMARK = "x-d1-bookmark";
const NO_TABLE = "no such table: Orders: SQLITE_ERROR";
const CREATE = `CREATE TABLE IF NOT EXISTS Orders (
  customerId TEXT NOT NULL, orderId TEXT NOT NULL, quantity INTEGER NOT NULL,
  PRIMARY KEY (customerId, orderId))`;

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    const bookmark = request.headers.get(BOOKMARK) ?? "first-unconstrained";
    const session = env.DB01.withSession(bookmark);
    try {
      const response = await withTable(session, () => route(request.clone(), session));
      response.headers.set(BOOKMARK, session.getBookmark() ?? "");
      return response;
    } catch (error) {
      console.error(String(error));
      return Response.json({ error: String(error) }, { status: 500 });
    }
  },
};

/** Run `work`; if the table is not there yet, make it and run `work` again. */
async function withTable(session: D1DatabaseSession, work: () => Promise<Response>): Promise<Response> {
  try {
    return await work();
  } catch (error) {
    if (!String(error).includes(NO_TABLE)) throw error;
    await session.prepare(CREATE).run();
    return work();
  }
}

async function route(request: Request, session: D1DatabaseSession): Promise<Response> {
  const startedMs = Date.now();
  const call = `${request.method} ${new URL(request.url).pathname}`;
  if (call === "GET /api/orders") {
    return answer(await session.prepare("SELECT * FROM Orders").all<Order>(), session, startedMs);
  }
  if (call === "POST /api/orders") {
    const order = readOrder(await request.json().catch(() => null));
    if (order === null) {
      return Response.json({ error: "send customerId, orderId and quantity" }, { status: 400 });
    }
    const { customerId, orderId, quantity } = order;
    await session
      .prepare("INSERT OR REPLACE INTO Orders VALUES (?, ?, ?)")
      .bind(customerId, orderId, quantity)
      .run();
    return answer(await session.prepare("SELECT * FROM Orders").all<Order>(), session, startedMs);
  }
  if (call === "POST /api/reset") {
    await session.batch([session.prepare("DROP TABLE IF EXISTS Orders"), session.prepare(CREATE)]);
    return answer(await session.prepare("SELECT * FROM Orders").all<Order>(), session, startedMs);
  }
  const known = "GET /api/orders, POST /api/orders, POST /api/reset";
  return Response.json({ error: `there is no ${call}; there is ${known}` }, { status: 404 });
}

function readOrder(body: unknown): Order | null {
  const { customerId, orderId, quantity } = (body ?? {}) as Partial<Record<keyof Order, unknown>>;
  if (typeof customerId !== "string" || typeof orderId !== "string") return null;
  if (typeof quantity !== "number" || !Number.isSafeInteger(quantity)) return null;
  return { customerId, orderId, quantity };
}

function answer(found: D1Result<Order>, session: D1DatabaseSession, startedMs: number): Response {
  return Response.json({
    orders: found.results,
    servedByRegion: found.meta.served_by_region,
    servedByPrimary: found.meta.served_by_primary,
    d1LatencyMs: Date.now() - startedMs,
    sessionBookmark: session.getBookmark(),
  });
}
