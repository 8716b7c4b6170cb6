/** kysely with kysely-d1 over `d1server-client`: queries, counts of changed rows, introspection. */

import assert from "node:assert/strict";
import { before, test } from "node:test";

import { connect } from "d1server-client";
import { Kysely, sql } from "kysely";
import { D1Dialect } from "kysely-d1";

const database = process.env.D1SERVER_DATABASE;
const d1 = connect(process.env.D1SERVER_PRIMARY_URL, { database });
const db = new Kysely({ dialect: new D1Dialect({ database: d1 }) });

before(async () => {
  await db.schema
    .createTable("orders")
    .addColumn("id", "integer", (column) => column.primaryKey())
    .addColumn("customer", "text", (column) => column.notNull())
    .addColumn("total", "real")
    .execute();
  await db.schema.createIndex("orders_by_customer").on("orders").column("customer").execute();
});

test("insert, returning, select, update and delete", async () => {
  const inserted = await db.insertInto("orders").values({ customer: "Amara", total: 12.5 }).executeTakeFirst();
  assert.equal(inserted.insertId, 1n);
  assert.equal(inserted.numInsertedOrUpdatedRows, 1n);
  const made = await db
    .insertInto("orders")
    .values([{ customer: "Björn", total: 3 }, { customer: "Chloé", total: null }])
    .returning(["id", "customer"])
    .execute();
  assert.deepEqual(made, [{ id: 2, customer: "Björn" }, { id: 3, customer: "Chloé" }]);

  const updated = await db.updateTable("orders").set({ total: 4 }).where("id", "=", 2).executeTakeFirst();
  assert.equal(updated.numUpdatedRows, 1n);
  const rows = await db.selectFrom("orders").selectAll().where("total", ">=", 4).orderBy("id").execute();
  assert.deepEqual(rows, [
    { id: 1, customer: "Amara", total: 12.5 },
    { id: 2, customer: "Björn", total: 4 },
  ]);
  const deleted = await db.deleteFrom("orders").where("id", "=", 3).executeTakeFirst();
  assert.equal(deleted.numDeletedRows, 1n);
});

test("joins, aggregates and raw SQL", async () => {
  const rows = await db
    .selectFrom("orders as a")
    .innerJoin("orders as b", "a.customer", "b.customer")
    .select(({ fn }) => [fn.countAll().as("n"), fn.sum("a.total").as("total")])
    .execute();
  assert.deepEqual(rows, [{ n: 2, total: 16.5 }]);
  const { rows: raw } = await sql`SELECT ${"é"} AS word, ${null} AS none`.execute(db);
  assert.deepEqual(raw, [{ word: "é", none: null }]);
});

test("upsert", async () => {
  await db
    .insertInto("orders")
    .values({ id: 1, customer: "Amara", total: 20 })
    .onConflict((conflict) => conflict.column("id").doUpdateSet({ total: 20 }))
    .execute();
  const row = await db.selectFrom("orders").select("total").where("id", "=", 1).executeTakeFirst();
  assert.equal(row.total, 20);
});

test("the schema is read", async () => {
  const tables = await db.introspection.getTables();
  const orders = tables.find(({ name }) => name === "orders");
  assert.deepEqual(orders.columns.map(({ name }) => name), ["id", "customer", "total"]);
});

test("errors are D1's; transactions that stay open are refused", async () => {
  await assert.rejects(db.selectFrom("nope").selectAll().execute(), /D1_ERROR: no such table: nope/);
  await assert.rejects(db.transaction().execute(async () => undefined), /[Tt]ransaction/);
});

test("a session reads at the replica what it wrote", async () => {
  const session = connect(process.env.D1SERVER_REPLICA_URL, { database }).withSession();
  const far = new Kysely({ dialect: new D1Dialect({ database: session }) });
  await far.insertInto("orders").values({ id: 50, customer: "Elena", total: 1 }).execute();
  const row = await far.selectFrom("orders").select("customer").where("id", "=", 50).executeTakeFirst();
  assert.deepEqual(row, { customer: "Elena" });
});
