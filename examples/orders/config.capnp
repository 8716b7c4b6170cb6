# The Worker of this folder on workerd, with d1server behind its D1 binding.
#
#   npx esbuild index.ts --bundle --format=esm --outfile=dist/worker.js
#   npx workerd serve config.capnp

using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "orders", worker = .orders),
    (name = "d1", external = (
      address = "127.0.0.1:8788",
      http = (injectRequestHeaders = [(name = "x-d1-database", value = "orders")]))),
  ],
  sockets = [(name = "http", address = "127.0.0.1:8798", http = (), service = "orders")],
);

const orders :Workerd.Worker = (
  modules = [(name = "worker.js", esModule = embed "dist/worker.js")],
  compatibilityDate = "2026-11-01",
  bindings = [
    (name = "DB01", wrapped = (
      moduleName = "cloudflare-internal:d1-api",
      innerBindings = [(name = "fetcher", service = "d1")])),
  ],
);
