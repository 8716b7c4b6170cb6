/**
 * A binding plugin for `wrangler dev` and Miniflare: in development a Worker's `env.DB` is a
 * database of a node. In wrangler.jsonc:
 *
 *     "unsafe": { "bindings": [{
 *       "name": "DB",
 *       "type": "d1",
 *       "dev": {
 *         "plugin": { "package": "d1server-client/wrangler", "name": "d1server" },
 *         "options": { "url": "http://127.0.0.1:8788", "database": "shop" }
 *       }
 *     }] }
 *
 * The binding itself is workerd's own; this only says where its requests go. The token is the
 * option `token` or, so that it stays out of the file, D1SERVER_TOKEN. An `https:` node's certificate
 * is checked with the system's CAs and those in the file NODE_EXTRA_CA_CERTS, as Node does it.
 */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

import { connect } from "./index.js";

const NAME = "d1server";
const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^]+?-----END CERTIFICATE-----/g;

/** Return [name, { url, database, token }] for each binding of a Worker that this plugin makes. */
function bindingsOf(options) {
  const entries = Array.isArray(options) // Miniflare 4 hands the plugin's own, Miniflare 5 all
    ? options.map(({ name, options: own }) => [name, own])
    : Object.entries(options?.config?.env ?? {})
        .filter(([, binding]) => binding.dev?.plugin?.name === NAME)
        .map(([name, binding]) => [name, binding.dev.options ?? {}]);
  return entries.map(([name, own]) => {
    if (typeof own?.url !== "string" || typeof own?.database !== "string") {
      throw new TypeError(`${name}: d1server-client/wrangler needs the options "url" and "database"`);
    }
    return [name, { token: process.env.D1SERVER_TOKEN, ...own }];
  });
}

/** The name of workerd's service for a database, the same for each binding to it. */
function serviceName({ url, database, token }) {
  const parts = JSON.stringify([url, database, token ?? null]);
  return `d1server:${createHash("sha256").update(parts).digest("hex")}`;
}

/** Where workerd sends the requests: the node, with headers that say which database is meant. */
function externalServer({ url, database, token }) {
  const { protocol, hostname, host, port } = new URL(url);
  const injectRequestHeaders = [{ name: "x-d1-database", value: database }];
  if (token) injectRequestHeaders.push({ name: "authorization", value: `Bearer ${token}` });
  if (protocol === "http:") {
    return { address: port ? host : `${host}:80`, http: { injectRequestHeaders } };
  }
  const extra = process.env.NODE_EXTRA_CA_CERTS;
  const trustedCertificates = extra ? readFileSync(extra, "utf8").match(CERTIFICATE) ?? [] : [];
  const https = {
    options: { injectRequestHeaders },
    tlsOptions: { trustBrowserCas: true, trustedCertificates },
    certificateHost: hostname,
  };
  return { address: port ? host : `${host}:443`, https };
}

const plugin = {
  bindingTypeDescription: "d1server database",
  options: { parse: (options) => options }, // Miniflare 4 asks for a schema
  getBindings: (options) =>
    bindingsOf(options).map(([name, own]) => ({
      name,
      wrapped: {
        moduleName: "cloudflare-internal:d1-api",
        innerBindings: [{ name: "fetcher", service: { name: serviceName(own) } }],
      },
    })),
  getNodeBindings: (options) =>
    Object.fromEntries(bindingsOf(options).map(([name, own]) => [name, connect(own.url, own)])),
  getServices: ({ options }) =>
    bindingsOf(options).map(([, own]) => ({ name: serviceName(own), external: externalServer(own) })),
};

export const plugins = { [NAME]: plugin };
