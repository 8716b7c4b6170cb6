/** drizzle-orm/d1 over `d1server-client`: queries, joins, blobs, batches, raw, and refusals. */

import assert from "node:assert/strict";
import { before, test } from "node:test";

import { connect } from "d1server-client";
import { and, count, desc, eq, gte, relations, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import { blob, integer, real, sqliteTable, text } from "drizzle-orm/sqlite-core";

const products = sqliteTable("products", {
  id: integer("id").primaryKey({ autoIncrement: true }),
  name: text("name").notNull().unique(),
  price: real("price").notNull(),
  isSold: integer("is_sold", { mode: "boolean" }).notNull().default(true),
  addedAt: integer("added_at", { mode: "timestamp" }),
  tags: text("tags", { mode: "json" }),
  photo: blob("photo", { mode: "buffer" }),
});
const reviews = sqliteTable("reviews", {
  id: integer("id").primaryKey(),
  productId: integer("product_id").notNull().references(() => products.id),
  stars: integer("stars").notNull(),
});
const schema = {
  products,
  reviews,
  productsRelations: relations(products, ({ many }) => ({ reviews: many(reviews) })),
  reviewsRelations: relations(reviews, ({ one }) => ({
    product: one(products, { fields: [reviews.productId], references: [products.id] }),
  })),
};

const database = process.env.D1SERVER_DATABASE;
const d1 = connect(process.env.D1SERVER_PRIMARY_URL, { database });
const db = drizzle(d1, { schema });

before(async () => {
  await db.run(sql`CREATE TABLE products (id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE, price REAL NOT NULL, is_sold INTEGER NOT NULL DEFAULT 1,
    added_at INTEGER, tags TEXT, photo BLOB)`);
  await db.run(sql`CREATE TABLE reviews (id INTEGER PRIMARY KEY,
    product_id INTEGER NOT NULL REFERENCES products, stars INTEGER NOT NULL)`);
});

test("insert returning, select, update, delete", async () => {
  const addedAt = new Date("2026-01-05T09:00:00Z");
  const [cup] = await db
    .insert(products)
    .values({ name: "Cup", price: 9, addedAt, tags: ["blue", "small"] })
    .returning();
  assert.deepEqual(cup, {
    id: 1, name: "Cup", price: 9, isSold: true, addedAt, tags: ["blue", "small"], photo: null,
  });
  await db.insert(products).values([{ name: "Pot", price: 34.5 }, { name: "Jug", price: 15.5 }]);

  const dear = await db
    .select({ name: products.name })
    .from(products)
    .where(and(gte(products.price, 10), eq(products.isSold, true)))
    .orderBy(desc(products.price));
  assert.deepEqual(dear, [{ name: "Pot" }, { name: "Jug" }]);

  const updated = await db.update(products).set({ price: 16 }).where(eq(products.name, "Jug"));
  assert.equal(updated.meta.changes, 1);
  await db.delete(products).where(eq(products.name, "Jug"));
  assert.deepEqual(await db.select({ n: count() }).from(products), [{ n: 2 }]);
});

test("blobs go in and come out as bytes", async () => {
  const photo = Buffer.from([0, 1, 254, 255]);
  await db.update(products).set({ photo }).where(eq(products.id, 1));
  const row = await db.select({ photo: products.photo }).from(products).where(eq(products.id, 1)).get();
  assert.deepEqual([...row.photo], [...photo]);
});

test("upsert by onConflictDoUpdate", async () => {
  const pot = { name: "Pot", price: 35 };
  await db
    .insert(products)
    .values(pot)
    .onConflictDoUpdate({ target: products.name, set: { price: pot.price } });
  const row = await db.query.products.findFirst({ where: eq(products.name, "Pot") });
  assert.equal(row.price, 35);
});

test("joins and relational queries", async () => {
  await db.insert(reviews).values([{ productId: 1, stars: 5 }, { productId: 1, stars: 3 }]);
  const joined = await db
    .select({ name: products.name, stars: reviews.stars })
    .from(reviews)
    .innerJoin(products, eq(products.id, reviews.productId))
    .orderBy(reviews.stars);
  assert.deepEqual(joined, [{ name: "Cup", stars: 3 }, { name: "Cup", stars: 5 }]);

  const nested = await db.query.products.findMany({
    columns: { name: true },
    with: { reviews: { columns: { stars: true } } },
    orderBy: products.name,
  });
  assert.deepEqual(nested, [
    { name: "Cup", reviews: [{ stars: 5 }, { stars: 3 }] },
    { name: "Pot", reviews: [] },
  ]);
});

test("a batch is one transaction", async () => {
  const [inserted, rows] = await db.batch([
    db.insert(products).values({ name: "Tray", price: 27 }).returning({ id: products.id }),
    db.select({ name: products.name }).from(products).where(eq(products.name, "Tray")),
  ]);
  assert.equal(inserted.length, 1);
  assert.deepEqual(rows, [{ name: "Tray" }]);

  const failing = db.batch([
    db.insert(products).values({ name: "Tin", price: 11 }),
    db.insert(products).values({ name: "Tray", price: 1 }),
  ]);
  await assert.rejects(failing, /UNIQUE constraint failed: products.name/);
  assert.equal(await db.query.products.findFirst({ where: eq(products.name, "Tin") }), undefined);
});

test("prepared queries with placeholders; raw SQL", async () => {
  const query = db
    .select({ name: products.name })
    .from(products)
    .where(eq(products.id, sql.placeholder("id")))
    .prepare();
  assert.deepEqual(await query.all({ id: 1 }), [{ name: "Cup" }]);
  assert.deepEqual(await db.all(sql`SELECT 1 AS a, 'x' AS b`), [{ a: 1, b: "x" }]);
  assert.deepEqual(await db.values(sql`SELECT 1, 'x'`), [[1, "x"]]);
});

test("transactions that stay open are refused, as by D1", async () => {
  await assert.rejects(db.transaction(async () => undefined), (error) => {
    assert.match(`${error.message} ${error.cause?.message}`, /transaction/i);
    return true;
  });
});

test("a session reads at the replica what it wrote", async () => {
  const replica = connect(process.env.D1SERVER_REPLICA_URL, { database });
  const session = replica.withSession();
  const shop = drizzle(session, { schema });
  await shop.insert(products).values({ name: "Kettle", price: 56 });
  const row = await shop.query.products.findFirst({ where: eq(products.name, "Kettle") });
  assert.equal(row.price, 56);
  assert.notEqual(session.getBookmark(), null);
});
