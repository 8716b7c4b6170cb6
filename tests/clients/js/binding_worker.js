/** A Worker that uses all of its D1 binding `env.DB`: a path is a step, the answer what it gave. */

const steps = {
  /** Each way to run a statement. Leaves a table `t` with three rows. */
  async statements(db) {
    const made = await db.exec("DROP TABLE IF EXISTS t\nCREATE TABLE t (id INTEGER PRIMARY KEY, a, b)");
    const insert = db.prepare("INSERT INTO t (a, b) VALUES (?, ?)");
    const run = await insert.bind("one", new Uint8Array([1, 2, 255])).run();
    const batch = await db.batch([
      insert.bind(2.5, null),
      insert.bind(true, "é"),
      db.prepare("SELECT count(*) AS n FROM t"),
    ]);
    const all = await db.prepare("SELECT id, a, b FROM t ORDER BY id").all();
    return {
      made: made.count,
      run: run.meta,
      batch: batch.map(({ results, meta }) => [results, meta.changes]),
      all: all.results,
      raw: await db.prepare("SELECT a, a FROM t WHERE id = ?").bind(1).raw({ columnNames: true }),
      first: await db.prepare("SELECT a, b FROM t WHERE id = 3").first(),
      column: await db.prepare("SELECT a, b FROM t WHERE id = 3").first("b"),
      none: await db.prepare("SELECT a FROM t WHERE id = 99").first(),
    };
  },

  /** What goes wrong, as texts, and how many rows there are after it. */
  async mistakes(db) {
    const told = (promise) => promise.then(() => "no error", ({ message }) => message);
    const insert = db.prepare("INSERT INTO t (rowid) VALUES (?)");
    return {
      all: await told(db.prepare("SELECT * FROM nope").all()),
      run: await told(insert.bind(1).run()),
      batch: await told(db.batch([insert.bind(50), insert.bind(1)])),
      exec: await told(db.exec("INSERT INTO t (rowid) VALUES (51)\nSELEC 1")),
      count: await db.prepare("SELECT count(*) FROM t").first("count(*)"),
    };
  },

  /** A session writes, and another one goes on at its bookmark. */
  async session(db) {
    const session = db.withSession();
    const before = session.getBookmark();
    await session.prepare("INSERT INTO t (a) VALUES ('in session')").run();
    const bookmark = session.getBookmark();
    const next = db.withSession(bookmark);
    const found = await next.prepare("SELECT a FROM t WHERE a = 'in session'").all();
    return {
      before,
      bookmark,
      region: found.meta.served_by_region,
      results: found.results,
      later: next.getBookmark(),
    };
  },

  /** One query, and what came of it. */
  async query(db) {
    const answered = db.prepare("SELECT count(*) AS n FROM t").all();
    return { told: await answered.then(({ results }) => results, ({ message }) => message) };
  },

  async ready() {
    return {};
  },
};

export default {
  async fetch(request, env) {
    const step = steps[new URL(request.url).pathname.slice(1)];
    return step ? Response.json(await step(env.DB)) : new Response("no such step", { status: 404 });
  },
};
