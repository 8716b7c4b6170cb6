/** Compiled, never run: our types where Cloudflare's are wanted. */

import type * as cloudflare from "@cloudflare/workers-types";
import { connect, type D1Result } from "d1server-client";

const db: cloudflare.D1Database = connect("http://127.0.0.1:8787", {
  database: "shop",
});
const ours = connect("http://127.0.0.1:8787", { database: "shop", token: "t" });

const meta: cloudflare.D1Meta = (await ours.prepare("SELECT 1").all()).meta;

interface Product {
  id: number;
  name: string;
}

const all: D1Result<Product> = await ours.prepare("SELECT * FROM products").all<Product>();
const one: Product | null = await ours.prepare("SELECT * FROM products").bind(1).first<Product>();
const name: string | null = await ours.prepare("SELECT name FROM products").first<string>("name");
const rows: [number, string][] = await ours.prepare("SELECT 1, 'a'").raw<[number, string]>();
const named: [string[], ...unknown[][]] = await ours.prepare("SELECT 1").raw({ columnNames: true });
const bookmark: string | null = ours.withSession("first-primary").getBookmark();

export { all, bookmark, db, meta, name, named, one, rows };
