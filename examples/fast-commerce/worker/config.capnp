# The Worker of this folder on workerd, with d1server behind its D1 binding.
#
#   npx esbuild index.ts --bundle --format=esm --outfile=dist/worker.js
#   npx workerd serve config.capnp
#
# The binding's requests carry no database: the header that workerd adds names it. With tokens
# switched on, a second header (name = "authorization", value = "Bearer ...") goes beside it.

using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "shop", worker = .shop),
    (name = "d1", external = (
      address = "127.0.0.1:8788",
      http = (injectRequestHeaders = [(name = "x-d1-database", value = "fast-commerce")]))),
    (name = "public", disk = "../public"),
  ],
  sockets = [(name = "http", address = "127.0.0.1:8798", http = (), service = "shop")],
);

const shop :Workerd.Worker = (
  modules = [(name = "worker.js", esModule = embed "dist/worker.js")],
  compatibilityDate = "2026-11-01",
  bindings = [
    (name = "DB01", wrapped = (
      moduleName = "cloudflare-internal:d1-api",
      innerBindings = [(name = "fetcher", service = "d1")])),
    (name = "PUBLIC", service = "public"),
  ],
);
