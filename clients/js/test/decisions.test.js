/** What is decided without a server: what a text of SQL is, what is sent again, what binds. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { isSurelyRead } from "../src/readonly.js";
import { mayRepeat, nextDelayMs, Outcome, outcomeOfAnswer, outcomeOfFailure, RETRY } from "../src/retry.js";
import { rowObjects, wireValue } from "../src/values.js";

test("every doubt about a text of SQL makes it a write", () => {
  const reads = [
    "SELECT 1",
    "  select * from t;  ",
    "EXPLAIN SELECT 1",
    "WITH a AS (SELECT 1) SELECT * FROM a",
    "SELECT 'INSERT; DELETE'",
    "-- note\nSELECT 1",
    "/* ; */ SELECT 1 -- ;",
    "SELECT [a;b] FROM t",
  ];
  const writes = [
    "",
    "INSERT INTO t VALUES (1)",
    "SELECT 1; DELETE FROM t",
    "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a",
    "SELECT 'open",
    "SELECT 1 /* open",
    "PRAGMA table_list",
    "SELECTED",
    "VALUES (1)",
  ];
  for (const sql of reads) assert.equal(isSurelyRead(sql), true, sql);
  for (const sql of writes) assert.equal(isSurelyRead(sql), false, sql);
});

test("an answer is repeated only where nothing can be done twice", () => {
  const of = (status, shouldRetry, isError = true) => outcomeOfAnswer(status, { isError, shouldRetry });
  assert.equal(of(200, undefined, false), Outcome.DONE);
  assert.equal(of(200, undefined), Outcome.REFUSED); // D1's binding: errors come with status 200
  assert.equal(of(400, undefined), Outcome.REFUSED);
  assert.equal(of(503, true), Outcome.NOT_DONE);
  assert.equal(of(429, undefined), Outcome.NOT_DONE);
  assert.equal(of(503, false), Outcome.FINAL);
  assert.equal(of(502, undefined), Outcome.UNKNOWN); // a proxy's word

  assert.equal(mayRepeat(Outcome.NOT_DONE, false), true);
  assert.equal(mayRepeat(Outcome.UNKNOWN, true), true);
  assert.equal(mayRepeat(Outcome.UNKNOWN, false), false);
  assert.equal(mayRepeat(Outcome.FINAL, true), false);
  assert.equal(mayRepeat(Outcome.REFUSED, true), false);
});

test("only a connection that never stood surely sent nothing", () => {
  const failed = (...codes) => ({ cause: { errors: codes.map((code) => ({ code })) } });
  assert.equal(outcomeOfFailure({ cause: { code: "ECONNREFUSED" } }), Outcome.NOT_DONE);
  assert.equal(outcomeOfFailure(failed("ECONNREFUSED", "ECONNREFUSED")), Outcome.NOT_DONE);
  assert.equal(outcomeOfFailure(failed("ECONNREFUSED", "ETIMEDOUT")), Outcome.UNKNOWN);
  assert.equal(outcomeOfFailure({ cause: { code: "UND_ERR_SOCKET" } }), Outcome.UNKNOWN);
  assert.equal(outcomeOfFailure(new Error("no cause")), Outcome.UNKNOWN);
});

test("tries and their total time are bounded, and a server's retry-after is obeyed", () => {
  const next = (tries, elapsedMs, retryAfterMs = 0) =>
    nextDelayMs(RETRY, { tries, elapsedMs, retryAfterMs, chance: 0 });
  assert.equal(next(1, 0), 25);
  assert.equal(next(2, 0), 50);
  assert.equal(next(1, 0, 1000), 1000);
  assert.equal(next(5, 0), null);
  assert.equal(next(1, 19_990), null);
});

test("parameters are bound by D1's rules", () => {
  const bytes = new Uint8Array([9, 1, 2, 9]);
  assert.equal(wireValue(true), 1);
  assert.equal(wireValue(false), 0);
  assert.equal(wireValue(null), null);
  assert.deepEqual(wireValue(bytes.buffer), [9, 1, 2, 9]);
  assert.deepEqual(wireValue(bytes.subarray(1, 3)), [1, 2]);
  assert.deepEqual(wireValue(new DataView(bytes.buffer, 2)), [2, 9]);
  assert.deepEqual(wireValue([0, 255]), [0, 255]);
  assert.deepEqual(wireValue([]), []);
  for (const bad of [undefined, 1n, {}, [256], [-1], [1.5], ["a"], Symbol("s"), () => 1]) {
    assert.throws(() => wireValue(bad), /^Error: D1_TYPE_ERROR: Type '\w+' not supported/);
  }
});

test("of equal column names the last one stands in an object", () => {
  assert.deepEqual(rowObjects({ columns: ["a", "a", "b"], rows: [[1, 2, 3]] }), [{ a: 2, b: 3 }]);
});
