// The list of series: what of it is shown and in which order, and each one's images when opened.
"use strict";

const value = (id) => document.getElementById(id)?.value ?? "";

const ORDERS = {
  name: (a, b) => a.name.localeCompare(b.name),
  newest: (a, b) => b.newest.localeCompare(a.newest) || ORDERS.name(a, b),
  update: (a, b) => b.update - a.update || ORDERS.name(a, b),
};

// Brings the rows of a page, the shown one or a fresh one, into what the reader chose.
function arrange(root) {
  const rows = root.querySelector("#rows");
  if (!rows || !value("sort")) return;
  const words = value("search").toLowerCase().split(/\s+/);
  const kind = value("filter"); // an attribute that the row has
  const every = [...rows.children];
  for (const row of every) {
    const text = `${row.dataset.name} ${row.dataset.words}`.toLowerCase();
    const named = words.every((word) => text.includes(word));
    row.hidden = !named || (kind !== "" && !(kind in row.dataset));
  }
  const order = ORDERS[value("sort")];
  const sorted = [...every].sort((a, b) => order(a.dataset, b.dataset));
  if (sorted.some((row, index) => row !== every[index])) rows.append(...sorted);
}

function count() {
  const every = [...document.querySelectorAll("#rows > details")];
  const found = every.filter((row) => !row.hidden).length;
  const place = document.getElementById("found");
  const text = found < every.length ? say("found", { found, all: every.length }) : "";
  const tools = document.getElementById("tools");
  if (tools) tools.hidden = false; // of no use without this script
  if (place && place.textContent !== text) place.textContent = text;
}

// The images of a series; again while it is open, whenever something has changed.
async function load(details) {
  const part = details.querySelector(".part[data-src]");
  if (!part || !details.open) return;
  const url = new URL(part.dataset.src, location);
  const turn = part.turn = (part.turn ?? 0) + 1; // answers overtake each other
  try {
    const fresh = await ask(url, part.etag);
    if (!fresh || turn !== part.turn) return;
    const found = fresh.querySelector("[data-part]");
    for (const link of found.querySelectorAll("a[href]")) {
      link.href = new URL(link.getAttribute("href"), url);
    }
    tell(found);
    Idiomorph.morph(part, found.childNodes, { morphStyle: "innerHTML" });
    part.dataset.loaded = "";
    part.etag = fresh.etag;
  } catch { // the page itself says that the server does not answer
    etag = null; // when it does, it comes again, and this with it
  }
}

function loadAll() {
  count();
  for (const details of document.querySelectorAll("details.series[open]")) load(details);
}

function choose() {
  arrange(document);
  count();
}

for (const name of ["input", "change"]) {
  document.addEventListener(name, (event) => event.target.closest("#tools") && choose());
}
document.addEventListener("toggle", (event) => {
  if (event.target.matches?.("details.series")) load(event.target);
}, true);
document.addEventListener("merged", loadAll);
document.addEventListener("DOMContentLoaded", choose);
