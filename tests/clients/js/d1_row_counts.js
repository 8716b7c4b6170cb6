// Runs the statements that it reads from its input on Miniflare's own D1, whose SQLite is D1's, and
// prints the rows read and written of each, and the version of workerd.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { Miniflare } from "miniflare";

const statements = JSON.parse(readFileSync(process.argv[2], "utf8"));
const script = "export default { fetch() { return new Response() } }";
const miniflare = new Miniflare({ modules: true, script, d1Databases: { DB: "counts" } });
const database = await miniflare.getD1Database("DB");
const counts = [];
for (const sql of statements) {
  const { meta } = await database.prepare(sql).all();
  counts.push([meta.rows_read, meta.rows_written]);
}
await miniflare.dispose();
const { version } = createRequire(import.meta.url)("workerd/package.json");
console.log(JSON.stringify({ version, counts }));
