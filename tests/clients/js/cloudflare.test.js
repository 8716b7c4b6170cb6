/** Cloudflare's SDK for TypeScript: each of its ten methods for D1 databases, at the replica. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import Cloudflare from "cloudflare";

const POLLS_MAX = 30; // each is held for up to a second by the node
const account_id = "any";
const asked = [];
const client = new Cloudflare({
  apiToken: "any",
  baseURL: `${process.env.D1SERVER_REPLICA_URL}/client/v4`,
  maxRetries: 3,
  fetch: (url, init) => {
    asked.push(`${init.method.toUpperCase()} ${new URL(url).pathname.split("/").at(-1)}`);
    return fetch(url, init);
  },
});
const databases = client.d1.database;

async function collect(pages) {
  const items = [];
  for await (const item of pages) items.push(item);
  return items;
}

/** Ask until the job has ended. */
async function settled(job, poll) {
  for (let polls = 0; polls < POLLS_MAX && job.status === "active"; polls += 1) job = await poll(job);
  return job;
}

test("databases are made, listed, changed and deleted", async () => {
  const made = await databases.create({ account_id, name: "sdk-ts", primary_location_hint: "apac" });
  const listed = await collect(databases.list({ account_id, name: "sdk-ts", per_page: 1 }));
  assert.deepEqual(listed.map(({ uuid, name }) => [uuid, name]), [[made.uuid, "sdk-ts"]]);
  const got = await databases.get(made.uuid, { account_id, fields: ["uuid", "read_replication"] });
  assert.deepEqual(got, { uuid: made.uuid, read_replication: { mode: "auto" } });
  const off = { account_id, read_replication: { mode: "disabled" } };
  assert.equal((await databases.update(made.uuid, off)).read_replication.mode, "disabled");
  const on = { account_id, read_replication: { mode: "auto" } };
  assert.equal((await databases.edit(made.uuid, on)).read_replication.mode, "auto");
  await databases.delete(made.uuid, { account_id });
  await assert.rejects(databases.get(made.uuid, { account_id }), Cloudflare.NotFoundError);
});

test("statements run; a mistake is told once", async () => {
  const { uuid } = await databases.create({ account_id, name: "sdk-ts-sql" });
  const sql = "CREATE TABLE t (a, b); INSERT INTO t VALUES ('x', 1)";
  const [, inserted] = await collect(databases.query(uuid, { account_id, sql }));
  assert.equal(inserted.meta.changes, 1);
  const batch = [{ sql: "INSERT INTO t (a) VALUES (?)", params: ["y"] }, { sql: "SELECT a, b, a FROM t" }];
  const [, selected] = await collect(databases.raw(uuid, { account_id, batch }));
  assert.deepEqual(selected.results, { columns: ["a", "b", "a"], rows: [["x", 1, "x"], ["y", null, "y"]] });

  asked.length = 0;
  const mistake = databases.query(uuid, { account_id, sql: "SELECT * FROM nope" });
  await assert.rejects(mistake, (error) => {
    assert.ok(error instanceof Cloudflare.BadRequestError);
    assert.deepEqual(error.errors, [{ code: 7500, message: "no such table: nope: SQLITE_ERROR" }]);
    return true;
  });
  assert.deepEqual(asked, ["POST query"]);
});

test("a file goes in and comes out", async () => {
  const { uuid } = await databases.create({ account_id, name: "sdk-ts-files" });
  const file = "CREATE TABLE t (a);\nINSERT INTO t VALUES ('é');\n";
  const etag = createHash("md5").update(file).digest("hex");
  const begun = await databases.import(uuid, { account_id, action: "init", etag });
  const uploaded = await fetch(begun.upload_url, { method: "PUT", body: file });
  assert.equal(uploaded.headers.get("etag").replaceAll('"', ""), etag);
  const ingest = { account_id, action: "ingest", etag, filename: begun.filename };
  const imported = await settled(await databases.import(uuid, ingest), ({ at_bookmark }) =>
    databases.import(uuid, { account_id, action: "poll", current_bookmark: at_bookmark }),
  );
  assert.equal(imported.status, "complete");
  assert.equal(imported.error, undefined);
  assert.equal(imported.result.num_queries, 2);

  const asked = { account_id, output_format: "polling", dump_options: { no_schema: true } };
  const exported = await settled(await databases.export(uuid, asked), ({ at_bookmark }) =>
    databases.export(uuid, { ...asked, current_bookmark: at_bookmark }),
  );
  const text = await (await fetch(exported.result.signed_url)).text();
  assert.match(text, /INSERT INTO "t" \("a"\) VALUES\('é'\);/);
  assert.doesNotMatch(text, /CREATE TABLE/);
});
