/** `d1server-client` at nodes that ask for tokens: what each kind of token may do. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect, D1Error } from "d1server-client";

const { D1SERVER_REPLICA_URL: url, EDIT_TOKEN, READ_TOKEN } = process.env;
const open = (token) => connect(url, { database: "shop", token });

test("a token that may edit reads and writes", async () => {
  const db = open(EDIT_TOKEN);
  await db.exec("DELETE FROM t");
  await db.prepare("INSERT INTO t VALUES (?)").bind("x").run();
  assert.equal(await db.prepare("SELECT a FROM t").first("a"), "x");
});

test("a token that may read cannot write, through no door", async () => {
  const db = open(READ_TOKEN);
  assert.equal(await db.prepare("SELECT a FROM t").first("a"), "x");
  const insert = db.prepare("INSERT INTO t VALUES ('y')");
  for (const write of [
    () => insert.run(),
    () => insert.all(),
    () => db.batch([insert]),
    () => db.withSession().batch([db.prepare("SELECT 1"), insert]),
    () => db.exec("INSERT INTO t VALUES ('y')"),
  ]) {
    await assert.rejects(write(), (error) => error instanceof D1Error && error.outcome === "refused");
  }
  assert.equal(await db.prepare("SELECT count(*) AS n FROM t").first("n"), 1);
});

test("without a token, and with a wrong one, nothing is answered", async () => {
  for (const token of [undefined, "d1s_wrong"]) {
    await assert.rejects(open(token).prepare("SELECT 1").all(), /^Error: D1_ERROR: .*token/);
  }
});
