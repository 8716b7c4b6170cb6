/**
 * Miniflare 4 with the Worker of `binding_worker.js`, until it is told to stop:
 *
 *     node miniflare_server.js PORT '{"d1Databases": {"DB": {"id": "x", "remote": URL}}}'
 *
 * `remote` stands for `remoteProxyConnectionString`, which Miniflare takes as an object only.
 */

import { fileURLToPath } from "node:url";

import { Miniflare } from "miniflare";

const [port, text] = process.argv.slice(2);
const { d1Databases = {}, ...bindings } = JSON.parse(text);
const databases = Object.entries(d1Databases).map(([name, { id, remote }]) => [
  name,
  { id, remoteProxyConnectionString: new URL(remote) },
]);
const miniflare = new Miniflare({
  host: "127.0.0.1",
  port: Number(port),
  modules: true,
  scriptPath: fileURLToPath(new URL("binding_worker.js", import.meta.url)),
  compatibilityDate: "2026-07-01",
  d1Databases: Object.fromEntries(databases),
  ...bindings,
});
process.on("SIGTERM", () => miniflare.dispose().then(() => process.exit(0)));
await miniflare.ready;
