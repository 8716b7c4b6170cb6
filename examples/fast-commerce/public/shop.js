/** What both pages share: asking the API, money, pictures, and telling who answered. */

const money = new Intl.NumberFormat("en-US", { style: "currency", currency: "USD" });

export const priceText = (price) => money.format(price);

export function stockText(inventory) {
  if (inventory === 0) return "Sold out";
  return inventory < 5 ? `Only ${inventory} left` : `${inventory} in stock`;
}

/** Ask the API; return its JSON. Throws an Error with the API's own message. */
export async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The shop cannot be reached. Try again in a moment.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ?? `The shop answered with status ${response.status}.`);
  return answer;
}

/** Fill the footer: which node ran the query, and what it took. */
export function showServed({ region, is_primary, waited_ms, lag_ms, sql_ms, bookmark }) {
  const footer = document.getElementById("served");
  const facts = [
    ["Region", region, "region"],
    ["Node", is_primary ? "primary" : "replica", "role"],
    ["Waited for your bookmark", `${Math.round(waited_ms)} ms`, "waited"],
    ["Behind the primary", is_primary ? "—" : `${Math.round(lag_ms)} ms`, "lag"],
    ["SQL", `${sql_ms.toFixed(2)} ms`, "sql"],
    ["Bookmark", bookmark ?? "none yet", "bookmark"],
  ];
  footer.querySelector("dl").replaceChildren(
    ...facts.map(([term, value, name]) => {
      const pair = element("div", { className: name });
      pair.append(element("dt", { textContent: term }), element("dd", { textContent: value }));
      return pair;
    }),
  );
  footer.dataset.role = is_primary ? "primary" : "replica";
  footer.hidden = false;
}

export function element(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}

/** Say something in the page's status line; an empty text takes the line away. */
export function say(text, isError = false) {
  const line = document.getElementById("message");
  line.textContent = text;
  line.classList.toggle("error", isError);
  line.hidden = text === "";
}

// Two for each category, taken in turn. The colours are the style sheet's.
const PICTURES = {
  Lighting: [
    '<path d="M62 96h76l22 50H40z" fill="var(--art-1)" opacity=".18"/><path d="M74 44h52l16 46H58z" fill="var(--art-1)"/><path d="M97 90h6v54h-6z" fill="var(--art-2)"/><rect x="70" y="142" width="60" height="9" rx="4.5" fill="var(--art-2)"/>',
    '<path d="M72 66h56l26 86H46z" fill="var(--art-1)" opacity=".16"/><path d="M80 26h40l14 36H66z" fill="var(--art-1)"/><path d="M100 62v52M100 108l-30 44M100 108l30 44" fill="none" stroke="var(--art-2)" stroke-width="6" stroke-linecap="round"/>',
  ],
  Seating: [
    '<path d="M66 36h14v112H66zM66 92h72v14H66zM126 100h12v48h-12z" fill="var(--art-2)"/><rect x="72" y="76" width="62" height="18" rx="8" fill="var(--art-1)"/><rect x="76" y="36" width="14" height="44" rx="6" fill="var(--art-1)"/>',
    '<path d="M62 128h10v22H62zM128 128h10v22h-10z" fill="var(--art-2)"/><rect x="58" y="38" width="84" height="80" rx="20" fill="var(--art-3)"/><rect x="44" y="78" width="28" height="54" rx="13" fill="var(--art-3)"/><rect x="128" y="78" width="28" height="54" rx="13" fill="var(--art-3)"/><rect x="66" y="92" width="68" height="40" rx="10" fill="var(--art-1)"/>',
  ],
  Tables: [
    '<ellipse cx="100" cy="78" rx="50" ry="10" fill="var(--art-2)"/><path d="M95 84h10v48h-10z" fill="var(--art-2)"/><path d="M100 124l-30 24M100 124l30 24" stroke="var(--art-2)" stroke-width="8" stroke-linecap="round"/><path d="M84 54h22v18H84z" fill="var(--art-1)"/><path d="M106 58h5a4.5 4.5 0 0 1 0 9h-5" fill="none" stroke="var(--art-1)" stroke-width="4"/>',
    '<rect x="22" y="80" width="156" height="13" rx="6" fill="var(--art-2)"/><path d="M38 93h12l-6 56H34zM150 93h12l4 56h-10z" fill="var(--art-2)"/><path d="M92 52h16l-3 28H95z" fill="var(--art-1)"/><path d="M100 52c0-14-12-16-16-26M100 52c0-14 10-18 18-22M100 52V26" fill="none" stroke="var(--art-3)" stroke-width="5" stroke-linecap="round"/>',
  ],
  Kitchen: [
    '<path d="M58 62h70v62a22 22 0 0 1-22 22H80a22 22 0 0 1-22-22z" fill="var(--art-1)"/><path d="M128 78h8a17 17 0 0 1 0 34h-8" fill="none" stroke="var(--art-1)" stroke-width="9"/><path d="M78 50c-6-8 6-10 0-18M93 50c-6-8 6-10 0-18M108 50c-6-8 6-10 0-18" fill="none" stroke="var(--art-2)" stroke-width="4" stroke-linecap="round"/>',
    '<path d="M62 74q38-22 76 0l12 66a8 8 0 0 1-8 9H58a8 8 0 0 1-8-9z" fill="var(--art-1)"/><path d="M134 108l37-32-4 24-27 36z" fill="var(--art-1)"/><path d="M70 68c0-46 60-46 60 0" fill="none" stroke="var(--art-2)" stroke-width="8"/><circle cx="100" cy="58" r="7" fill="var(--art-2)"/>',
  ],
  Garden: [
    '<path d="M62 98h76l-9 50H71z" fill="var(--art-1)"/><rect x="56" y="88" width="88" height="15" rx="4" fill="var(--art-1)"/><path d="M100 88V52" stroke="var(--art-3)" stroke-width="5"/><path d="M100 66c-26 2-36-12-36-26 22-2 36 8 36 26zM100 56c0-18 12-28 34-26 0 16-10 28-34 26z" fill="var(--art-3)"/>',
  ],
};
const PARCEL = [
  '<path d="M52 70l48-22 48 22v58l-48 22-48-22z" fill="var(--art-1)"/><path d="M52 70l48 22 48-22M100 92v58" fill="none" stroke="var(--art-2)" stroke-width="5"/>',
];

/** Put a product's picture into `place`; it says nothing that the text does not. */
export function draw(place, { id, category }) {
  const pictures = Object.hasOwn(PICTURES, category) ? PICTURES[category] : PARCEL;
  const picture = pictures[(id + 1) % pictures.length];
  place.innerHTML = `<svg viewBox="0 0 200 180" aria-hidden="true">${picture}</svg>`;
}
