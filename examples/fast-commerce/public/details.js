/** The details page: one product, and a form that changes it. */

import { ask, draw, priceText, say, showServed, stockText } from "/shop.js";

const id = Number(location.pathname.split("/").at(-1));
const at = (name) => document.getElementById(name);
let shown;

function show(product) {
  shown = product;
  document.title = `${product.name} · Fast Commerce`;
  at("name").textContent = product.name;
  at("category").textContent = product.category;
  at("price").textContent = priceText(product.price);
  at("description").textContent = product.description;
  at("stock").textContent = stockText(product.inventory);
  at("stock").classList.toggle("low", product.inventory < 5);
  draw(at("art"), product);
  for (const field of ["name", "price", "inventory"]) at("form").elements[field].value = product[field];
  at("product").hidden = at("edit").hidden = false;
}

async function load() {
  const { product, served } = await ask(`/api/products/${id}`);
  show(product);
  showServed(served);
  say("");
}

async function save(event) {
  event.preventDefault();
  const form = at("form").elements;
  const body = {
    ...shown,
    name: form.name.value.trim(),
    price: form.price.valueAsNumber,
    inventory: form.inventory.valueAsNumber,
  };
  at("saved").textContent = "Saving …";
  try {
    const { served } = await ask("/api/product", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    await load();
    at("saved").textContent = `Saved by the ${served.is_primary ? "primary" : "replica"} in ${served.region}.`;
  } catch (error) {
    at("saved").textContent = error.message;
  }
}

at("form").addEventListener("submit", save);
try {
  await load();
} catch (error) {
  say(error.message, true);
}
