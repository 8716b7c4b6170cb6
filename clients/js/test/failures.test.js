/** A server that fails by script: what is sent again, what is not, and what the caller is told. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";

import { connect } from "../src/index.js";
import { answerOk, HANG_UP } from "./script.js";

const QUICK = { delayMsFirst: 1, delayMsMax: 4 };

/** Run `play(db, requests)` against a server that answers by `script`, one step per request. */
async function against(script, play, options = {}) {
  const requests = [];
  const server = createServer(async (request, response) => {
    const chunks = await request.toArray();
    requests.push({ headers: request.headers, url: request.url, body: Buffer.concat(chunks).toString() });
    const step = script[Math.min(requests.length, script.length) - 1];
    if (step === HANG_UP) return request.socket.destroy();
    response.writeHead(step.status ?? 200, step.headers ?? {});
    response.end(typeof step.body === "string" ? step.body : JSON.stringify(step.body));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  try {
    const url = `http://127.0.0.1:${server.address().port}`;
    await play(connect(url, { database: "shop", retry: QUICK, ...options }), requests);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

const NOT_NOW = { status: 503, headers: { "x-should-retry": "true" }, body: { error: "busy" } };
const LOST = { status: 503, headers: { "x-should-retry": "false" }, body: { error: "log failed" } };

test("a read whose answer is lost is sent again", () =>
  against([HANG_UP, HANG_UP, answerOk()], async (db, requests) => {
    assert.deepEqual((await db.prepare("SELECT 1 AS a").all()).results, [{ a: 1 }]);
    assert.equal(requests.length, 3);
  }));

test("a write whose answer is lost is not, and the caller is told", () =>
  against([HANG_UP, answerOk()], async (db, requests) => {
    await assert.rejects(db.prepare("INSERT INTO t VALUES (1)").run(), (error) => {
      assert.match(error.message, /^Network connection lost\./);
      assert.equal(error.outcome, "unknown");
      return true;
    });
    assert.equal(requests.length, 1);
  }));

test("run() is never repeated, whatever its SQL looks like; nor a batch with one write", () =>
  against([HANG_UP], async (db, requests) => {
    await assert.rejects(db.prepare("SELECT 1").run(), /Network connection lost/);
    const batch = [db.prepare("SELECT 1"), db.prepare("DELETE FROM t")];
    await assert.rejects(db.batch(batch), /Network connection lost/);
    assert.equal(requests.length, 2);
  }));

test("what the server did not do is sent again, also a write", () =>
  against([NOT_NOW, NOT_NOW, answerOk()], async (db, requests) => {
    assert.equal((await db.prepare("DELETE FROM t").run()).success, true);
    assert.equal(requests.length, 3);
  }));

test("D1's own words for a request that was not done are enough", () =>
  against([{ body: { success: false, error: "Network connection lost. busy" } }, answerOk()], async (db) => {
    assert.equal((await db.prepare("DELETE FROM t").run()).success, true);
  }));

test("tries are bounded, and then the outcome is told", () =>
  against([NOT_NOW], async (db, requests) => {
    await assert.rejects(db.prepare("SELECT 1").all(), { outcome: "not done" });
    assert.equal(requests.length, 5);
  }));

test("`x-should-retry: false` ends it, also for a read", () =>
  against([LOST], async (db, requests) => {
    await assert.rejects(db.prepare("SELECT 1").all(), {
      message: "D1_ERROR: log failed",
      outcome: "unknown",
    });
    assert.equal(requests.length, 1);
  }));

test("a page of a proxy is no answer", () =>
  against([{ status: 502, body: "<html>bad gateway</html>" }], async (db) => {
    const text = /^Error: D1_ERROR: Failed to parse body as JSON, got: <html>/;
    await assert.rejects(db.prepare("SELECT 1").all(), text);
  }));

test("a server that does not answer in time is given up", () =>
  against(
    [HANG_UP],
    async (db) => {
      await assert.rejects(db.prepare("DELETE FROM t").run(), /lost. \(TimeoutError\)/);
    },
    { timeoutMs: 20, fetch: (_, { signal }) => new Promise((_resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason));
    }) },
  ));

test("a connection that is refused is tried again, and named", async () => {
  const closed = createServer().listen(0, "127.0.0.1");
  await once(closed, "listening");
  const url = `http://127.0.0.1:${closed.address().port}`;
  closed.close();
  const db = connect(url, { database: "shop", retry: { ...QUICK, triesMax: 2 } });
  await assert.rejects(db.prepare("DELETE FROM t").run(), {
    message: "Network connection lost. (ECONNREFUSED)",
    outcome: "not done",
  });
});

test("the token goes with every request", () =>
  against(
    [answerOk()],
    async (db, requests) => {
      await db.prepare("SELECT 1").all();
      assert.equal(requests[0].headers.authorization, "Bearer secret");
    },
    { token: "secret" },
  ));

test("a bookmark older than the session's is ignored, one with an error is kept", () =>
  against(
    [
      answerOk("00000001-00000002"),
      answerOk("00000001-00000001"),
      { status: 400, headers: { "x-cf-d1-session-commit-token": "00000001-00000003" }, body: { error: "no" } },
    ],
    async (db, requests) => {
      const session = db.withSession("first-primary");
      await session.prepare("SELECT 1").all();
      assert.equal(session.getBookmark(), "00000001-00000002");
      await session.prepare("SELECT 1").all();
      assert.equal(session.getBookmark(), "00000001-00000002");
      await assert.rejects(session.prepare("SELECT 1").all());
      assert.equal(session.getBookmark(), "00000001-00000003");
      const sent = requests.map(({ headers }) => headers["x-cf-d1-session-commit-token"]);
      assert.deepEqual(sent, ["first-primary", "00000001-00000002", "00000001-00000002"]);
    },
  ));
