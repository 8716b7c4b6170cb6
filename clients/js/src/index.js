/**
 * D1's database object over HTTP: what a Worker finds as `env.DB`, for any JavaScript program.
 *
 *     import { connect } from "d1server-client";
 *     const db = connect("http://127.0.0.1:8787", { database: "shop" });
 *     const { results } = await db.prepare("SELECT * FROM products WHERE id = ?").bind(3).all();
 *
 * Names, results and error messages are those of the binding, so libraries that were written
 * for it (drizzle-orm/d1, kysely-d1) run on it unchanged. What differs is said where it stands.
 */

import { D1Database } from "./database.js";
import { Transport } from "./transport.js";

export { D1Database, D1DatabaseSession, D1PreparedStatement } from "./database.js";
export { D1Error } from "./errors.js";

/** Return the database called `options.database` of the node at `url`; nobody is asked yet. */
export function connect(url, options) {
  return new D1Database(new Transport(url, options ?? {}));
}
