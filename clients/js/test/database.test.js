/** The database object against real nodes, a primary and a replica: what D1's binding would do. */

import assert from "node:assert/strict";
import { before, test } from "node:test";

import { connect, D1Error } from "../src/index.js";
import { newDatabase, PRIMARY } from "./nodes.js";

const BOOKMARK = /^[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{32}$/;
let db;
let replica;

before(async () => {
  ({ primary: db, replica } = await newDatabase());
  await db.exec(
    "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT UNIQUE, data BLOB)\n" +
      "INSERT INTO t VALUES (1, 'one', x'0102ff'), (2, 'two', NULL)",
  );
});

test("all and run give rows as objects, with D1's meta", async () => {
  for (const method of ["all", "run"]) {
    const { success, results, meta } = await db.prepare("SELECT * FROM t ORDER BY id")[method]();
    assert.equal(success, true);
    assert.deepEqual(results, [
      { id: 1, name: "one", data: [1, 2, 255] },
      { id: 2, name: "two", data: null },
    ]);
    assert.deepEqual(Object.keys(results[0]), ["id", "name", "data"]);
    assert.equal(meta.served_by_primary, true);
    assert.equal(typeof meta.duration, "number");
    assert.equal(meta.changed_db, false);
  }
});

test("a write tells what it changed", async () => {
  const { meta } = await db.prepare("INSERT INTO t VALUES (?, ?, NULL)").bind(7, "seven").run();
  assert.equal(meta.changes, 1);
  assert.equal(meta.last_row_id, 7);
  assert.equal(meta.changed_db, true);
  await db.prepare("DELETE FROM t WHERE id = 7").run();
});

test("first gives a row, a value, null for no row, and an error for no such column", async () => {
  const statement = db.prepare("SELECT id, name, data FROM t WHERE id = ?");
  assert.deepEqual(await statement.bind(2).first(), { id: 2, name: "two", data: null });
  assert.equal(await statement.bind(2).first("name"), "two");
  assert.equal(await statement.bind(2).first("data"), null);
  assert.equal(await statement.bind(99).first(), null);
  assert.equal(await statement.bind(99).first("nope"), null);
  await assert.rejects(statement.bind(2).first("nope"), {
    message: "D1_COLUMN_NOTFOUND: Column not found (nope)",
  });
});

test("raw gives arrays, keeps equal names, and names the columns on demand", async () => {
  const statement = db.prepare("SELECT 1 AS a, 2 AS a");
  assert.deepEqual(await statement.raw(), [[1, 2]]);
  assert.deepEqual(await statement.raw({ columnNames: true }), [["a", "a"], [1, 2]]);
  const empty = db.prepare("SELECT id FROM t WHERE 0");
  assert.deepEqual(await empty.raw(), []);
  assert.deepEqual(await empty.raw({ columnNames: true }), [["id"]]);
});

test("values come back as D1 sends them", async () => {
  const echoed = async (value) => (await db.prepare("SELECT ? AS v").bind(value).first()).v;
  assert.equal(await echoed("é\u0000😀"), "é\u0000😀");
  assert.equal(await echoed(1.5), 1.5);
  assert.equal(await echoed(true), 1);
  assert.equal(await echoed(Number.NaN), null);
  assert.deepEqual(await echoed(new Uint8Array([0, 255]).buffer), [0, 255]);
  assert.deepEqual(await echoed(new Uint8Array(0)), []);
});

test("a batch is one transaction", async () => {
  const insert = db.prepare("INSERT INTO t (id, name) VALUES (?, ?)");
  const results = await db.batch([
    insert.bind(10, "ten"),
    db.prepare("SELECT name FROM t WHERE id = ?").bind(10),
  ]);
  assert.deepEqual(results.map(({ results: rows }) => rows), [[], [{ name: "ten" }]]);

  const failing = db.batch([insert.bind(11, "eleven"), insert.bind(12, "ten")]);
  await assert.rejects(failing, /^Error: D1_ERROR: UNIQUE constraint failed: t.name: SQLITE_CONST/);
  assert.equal(await db.prepare("SELECT 1 FROM t WHERE id = 11").first(), null);
});

test("every number is a double, as in JavaScript", async () => {
  const row = await db.prepare("SELECT typeof(?1) AS type, ?1 / 2 AS half").bind(5).first();
  assert.deepEqual(row, { type: "real", half: 2.5 });
});

test("of several statements in one the last one's result stands, also in a batch", async () => {
  const two = db.prepare("SELECT 1 AS a; SELECT 2 AS b");
  assert.deepEqual((await two.all()).results, [{ b: 2 }]);
  const results = await db.batch([two, db.prepare("SELECT 3 AS c")]);
  assert.deepEqual(results.map(({ results: rows }) => rows), [[{ b: 2 }], [{ c: 3 }]]);
});

test("a batch takes only statements", async () => {
  await assert.rejects(db.batch([{ sql: "SELECT 1" }]), D1Error);
});

test("exec counts lines and names the first one when it fails", async () => {
  const done = await db.exec("SELECT 1\nSELECT 2\n");
  assert.equal(done.count, 2);
  assert.equal(typeof done.duration, "number");
  await assert.rejects(db.exec("SELECT 1;\nSELEC 2;"), (error) => {
    assert.match(error.message, /^D1_EXEC_ERROR: Error in line 1: SELECT 1;: near "SELEC": syntax/);
    assert.equal(`D1_EXEC_ERROR: ${error.cause.message}`, error.message);
    return true;
  });
});

test("an error has D1's message, and its cause the text alone", async () => {
  await assert.rejects(db.prepare("SELECT * FROM nope").all(), (error) => {
    assert.ok(error instanceof D1Error);
    assert.match(error.message, /^D1_ERROR: no such table: nope/);
    assert.match(error.message, /: SQLITE_ERROR$/);
    assert.equal(`D1_ERROR: ${error.cause.message}`, error.message);
    assert.equal(error.outcome, "refused");
    return true;
  });
});

test("a session reads its own writes at a replica and never goes back", async () => {
  const session = replica.withSession();
  assert.equal(session.getBookmark(), null);
  const insert = session.prepare("INSERT INTO t (id, name) VALUES (?, ?)");
  let seen = "";
  for (let id = 100; id < 110; id += 1) {
    await insert.bind(id, `n${id}`).run();
    const written = session.getBookmark();
    assert.match(written, BOOKMARK);
    const row = await session.prepare("SELECT name FROM t WHERE id = ?").bind(id).first();
    assert.deepEqual(row, { name: `n${id}` });
    assert.ok(session.getBookmark() >= written && written > seen);
    seen = session.getBookmark();
  }
  const continued = replica.withSession(seen);
  assert.equal(await continued.prepare("SELECT count(*) AS n FROM t WHERE id >= 100").first("n"), 10);
});

test("without a session the primary answers, with one the replica does", async () => {
  const at = async (on) => (await on.prepare("SELECT 1").all()).meta.served_by_primary;
  const bookmark = await (async () => {
    const session = db.withSession("first-primary");
    await session.prepare("SELECT 1").all();
    return session.getBookmark();
  })();
  assert.equal(await at(replica), true);
  assert.equal(await at(replica.withSession("first-primary")), true);
  assert.equal(await at(replica.withSession(bookmark)), false);
  assert.equal(await at(replica.withSession("  ")), false);
});

test("a session keeps the larger bookmark also when answers arrive out of order", async () => {
  const session = replica.withSession();
  await Promise.all([
    ...Array.from({ length: 8 }, (_, at) =>
      session.prepare("INSERT INTO t (id, name) VALUES (?, ?)").bind(200 + at, `m${at}`).run(),
    ),
    ...Array.from({ length: 8 }, () => session.prepare("SELECT 1").all()),
  ]);
  const all = await session.prepare("SELECT count(*) AS n FROM t WHERE id >= 200").first("n");
  assert.equal(all, 8);
});

test("a bookmark that is none is refused", async () => {
  const session = replica.withSession("yesterday");
  await assert.rejects(session.prepare("SELECT 1").all(), /^Error: D1_ERROR: .*yesterday/);
});

test("dump is refused with a word on what to do", async () => {
  await assert.rejects(db.dump(), /^Error: D1_DUMP_ERROR: .*export/);
});

test("an unknown database is an error, and no database a mistake of the caller", async () => {
  const unknown = connect(PRIMARY, { database: "nobody made this" });
  await assert.rejects(unknown.prepare("SELECT 1").all(), /^Error: D1_ERROR: .*nobody made this/);
  assert.throws(() => connect(PRIMARY, {}), TypeError);
  assert.throws(() => connect("no url", { database: "a" }), TypeError);
});
