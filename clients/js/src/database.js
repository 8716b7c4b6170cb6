/**
 * Databases, sessions and statements, shaped as D1's binding shapes them.
 *
 * A session sends the largest bookmark it has seen with every query, and so never reads an
 * older state than before. Bookmarks have a fixed width in lower-case hex: the order of their
 * texts is their age.
 */

import { D1Error, QUERY, refusal } from "./errors.js";
import { isSurelyRead } from "./readonly.js";
import { rowObjects, wireValue } from "./values.js";

const FIRST_UNCONSTRAINED = "first-unconstrained";
const CONSTRAINTS = new Set(["first-primary", FIRST_UNCONSTRAINED, "first-unconditional"]);

/** What statements run on: a transport, and the bookmark to send (null: always the primary). */
class Channel {
  #transport;
  #token;

  constructor(transport, token) {
    this.#transport = transport;
    this.#token = token;
  }

  get bookmark() {
    return CONSTRAINTS.has(this.#token) ? null : this.#token;
  }

  run(statements, isRead) {
    return this.#transport.run(statements, {
      bookmark: this.#token,
      isRepeatable: isRead && statements.every(({ sql }) => isSurelyRead(sql)),
      onBookmark: (bookmark) => this.#absorb(bookmark),
    });
  }

  #absorb(bookmark) {
    if (this.#token === null) return;
    if (CONSTRAINTS.has(this.#token) || bookmark > this.#token) this.#token = bookmark;
  }
}

/** One statement of SQL with its parameters; a value: `bind` returns another one. */
export class D1PreparedStatement {
  #channel;
  #sql;
  #params;

  constructor(channel, sql, params = []) {
    this.#channel = channel;
    this.#sql = sql;
    this.#params = params;
  }

  bind(...values) {
    return new D1PreparedStatement(this.#channel, this.#sql, values.map(wireValue));
  }

  /** For writes: never sent again once it may have arrived. */
  async run() {
    return resultOf((await this.#send(false))[0]);
  }

  async all() {
    return resultOf((await this.#send(true))[0]);
  }

  async first(column) {
    const row = (await this.all()).results[0];
    if (row === undefined) return null;
    if (column === undefined) return row;
    if (row[column] === undefined) {
      throw refusal("D1_COLUMN_NOTFOUND: ", `Column not found (${column})`);
    }
    return row[column];
  }

  async raw(options) {
    const [{ columns, rows }] = await this.#send(true);
    return options?.columnNames ? [columns, ...rows] : rows;
  }

  #send(isRead) {
    return this.#channel.run([{ sql: this.#sql, params: this.#params }], isRead);
  }

  /** What a batch sends for `statement`. */
  static onWire(statement) {
    if (!(#sql in statement)) {
      throw refusal(QUERY, "batch() takes statements that prepare() made");
    }
    return { sql: statement.#sql, params: statement.#params };
  }
}

/** A database as one session sees it. */
export class D1DatabaseSession {
  #channel;

  constructor(channel) {
    this.#channel = channel;
  }

  prepare(sql) {
    return new D1PreparedStatement(this.#channel, sql);
  }

  /** Run the statements as one transaction: all of them, or none. */
  async batch(statements) {
    const results = await this.#channel.run(statements.map(D1PreparedStatement.onWire), true);
    return results.map(resultOf);
  }

  /** The largest bookmark seen; null before the first answer. */
  getBookmark() {
    return this.#channel.bookmark;
  }
}

/** A database without a session: the primary answers everything. */
export class D1Database {
  #transport;
  #session;

  constructor(transport) {
    this.#transport = transport;
    this.#session = new D1DatabaseSession(new Channel(transport, null));
  }

  prepare(sql) {
    return this.#session.prepare(sql);
  }

  async batch(statements) {
    return this.#session.batch(statements);
  }

  /** Run each line of `text` as a statement, all as one transaction. */
  async exec(text) {
    const lines = text.trim().split("\n");
    const statements = lines.map((sql) => ({ sql, params: [] }));
    try {
      const results = await new Channel(this.#transport, null).run(statements, false);
      return {
        count: results.length,
        duration: results.reduce((sum, { meta }) => sum + meta.duration, 0),
      };
    } catch (error) {
      if (!(error instanceof D1Error) || error.outcome !== "refused") throw error;
      throw refusal("D1_EXEC_ERROR: ", `Error in line 1: ${lines[0]}: ${error.cause.message}`);
    }
  }

  /** Begin at "first-primary", "first-unconstrained" or a bookmark of an earlier session. */
  withSession(constraintOrBookmark) {
    const token = constraintOrBookmark?.trim() || FIRST_UNCONSTRAINED;
    return new D1DatabaseSession(new Channel(this.#transport, token));
  }

  async dump() {
    throw refusal("D1_DUMP_ERROR: ", "dump() is gone from D1; export the database as SQL instead");
  }
}

function resultOf({ columns, rows, meta }) {
  return { success: true, meta, results: rowObjects({ columns, rows }) };
}
