/** The nodes that the tests ask, from the environment; `make test-clients` starts them. */

import { connect } from "../src/index.js";

function needed(name) {
  const url = process.env[name];
  if (!url) throw new Error(`${name} is not set: run these tests with \`make test-clients\``);
  return url;
}

export const PRIMARY = needed("D1SERVER_PRIMARY_URL");
export const REPLICA = needed("D1SERVER_REPLICA_URL");

/** Make a new, empty database and return connections to it through both nodes. */
export async function newDatabase() {
  const name = `js-${crypto.randomUUID()}`;
  const response = await fetch(`${PRIMARY}/db`, { method: "POST", body: JSON.stringify({ name }) });
  if (!response.ok) throw new Error(await response.text());
  return {
    primary: connect(PRIMARY, { database: name }),
    replica: connect(REPLICA, { database: name }),
  };
}
