/** A D1 binding in Node itself: Miniflare's `getD1Database`, and wrangler's `getPlatformProxy`. */

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";

import { Miniflare } from "miniflare";
import { getPlatformProxy } from "wrangler";

const { D1SERVER_REPLICA_URL: node, D1SERVER_DATABASE: database, FOLDER: folder } = process.env;

/** Write through a session, and read what it wrote. */
async function check(db, word) {
  const session = db.withSession("first-unconstrained");
  await session.prepare("INSERT INTO words VALUES (?)").bind(word).run();
  const { results } = await session.prepare("SELECT word FROM words WHERE word = ?").bind(word).all();
  assert.deepEqual(results, [{ word }]);
  assert.match(session.getBookmark(), /^[0-9a-f]{8}-[0-9a-f-]+$/);
  await assert.rejects(db.prepare("SELECT * FROM nope").run(), /D1_ERROR: no such table: nope: SQLITE_ERROR/);
}

test("Miniflare's getD1Database", async () => {
  const url = new URL(`${node}/?x-d1-database=${database}`);
  const miniflare = new Miniflare({
    modules: true,
    script: "export default {}",
    d1Databases: { DB: { id: "any", remoteProxyConnectionString: url } },
  });
  try {
    await check(await miniflare.getD1Database("DB"), "miniflare");
  } finally {
    await miniflare.dispose();
  }
});

test("wrangler's getPlatformProxy", async () => {
  const plugin = { package: "d1server-client/wrangler", name: "d1server" };
  const dev = { plugin, options: { url: node, database } };
  const configPath = join(folder, "wrangler.json");
  await writeFile(configPath, JSON.stringify({ unsafe: { bindings: [{ name: "DB", type: "d1", dev }] } }));
  const platform = await getPlatformProxy({ configPath, persist: false });
  try {
    await check(platform.env.DB, "platform");
  } finally {
    await platform.dispose();
  }
});
