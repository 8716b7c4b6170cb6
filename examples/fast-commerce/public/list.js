/** The list page. */

import { ask, draw, element, priceText, say, showServed, stockText } from "/shop.js";

function card({ id, name, category, price, inventory }) {
  const link = element("a", { href: `/products/${id}`, className: "card" });
  const art = element("div", { className: "art" });
  draw(art, { id, category });
  const stock = element("p", { className: "stock", textContent: stockText(inventory) });
  stock.classList.toggle("low", inventory < 5);
  link.append(
    art,
    element("p", { className: "category", textContent: category }),
    element("h2", { textContent: name }),
    element("p", { className: "price", textContent: priceText(price) }),
    stock,
  );
  const item = element("li", {});
  item.append(link);
  return item;
}

try {
  const { products, served } = await ask("/api/products");
  document.getElementById("products").replaceChildren(...products.map(card));
  say(products.length === 0 ? "There are no products yet." : "");
  showServed(served);
} catch (error) {
  say(error.message, true);
}
