// The page works without this; with it, it follows Airflow's theme, says how long ago things
// were, copies digests, and shows what changes without being loaded again.
"use strict";

const REFRESH = 10000; // ms

// Airflow's own page, when this one is shown inside it.
function around() {
  try {
    return window.parent !== window ? window.parent.document : null;
  } catch {
    return null; // another origin's frame
  }
}

function theme() {
  const classes = around()?.documentElement.classList;
  let dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  if (classes?.contains("dark") || classes?.contains("light")) {
    dark = classes.contains("dark");
  } else {
    const chosen = localStorage.getItem("theme");
    if (chosen === "dark" || chosen === "light") dark = chosen === "dark";
  }
  document.documentElement.classList.toggle("dark", dark);
}

function ago(moment) {
  const seconds = (new Date(moment) - Date.now()) / 1000;
  const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const [unit, length] = units.find(([, one]) => Math.abs(seconds) >= one) ?? units[3];
  return new Intl.RelativeTimeFormat("en", { numeric: "auto" })
    .format(Math.trunc(seconds / length), unit);
}

function tell() {
  for (const time of document.querySelectorAll("time")) {
    time.title ||= `${time.textContent}, here ${new Date(time.dateTime).toLocaleString()}`;
    time.textContent = ago(time.dateTime);
  }
}

async function copy(button) {
  const text = button.dataset.copy;
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not allowed on plain http
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1500);
}

// A frame may not lead its parent elsewhere, but the parent may follow a link of its own.
function leave(href) {
  const outer = around() ?? document;
  const link = outer.createElement("a");
  link.href = href;
  outer.body.appendChild(link);
  link.click();
  link.remove();
}

// The reader's own permissions decide: Airflow refuses whom it has to refuse.
async function run(button) {
  button.disabled = true;
  const answer = await fetch(`../api/v2/dags/${button.dataset.run}/dagRuns`, {
    method: "POST",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ logical_date: null }),
  });
  button.textContent = answer.ok ? "Started" : `Refused (${answer.status})`;
  if (answer.ok) await refresh();
}

let shown = null;

async function refresh() {
  if (document.hidden) return;
  const answer = await fetch(location.href, { credentials: "same-origin" });
  if (!answer.ok) return;
  const text = await answer.text();
  if (shown !== null && text !== shown) {
    const open = new Map(
      [...document.querySelectorAll("details")].map((one) => [one.id, one.open]));
    const fresh = new DOMParser().parseFromString(text, "text/html");
    for (const one of fresh.querySelectorAll("details")) {
      if (open.has(one.id)) one.open = open.get(one.id);
    }
    document.querySelector("main").replaceWith(fresh.querySelector("main"));
    tell();
  }
  shown = text;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-copy]");
  if (button) copy(button);
  const start = event.target.closest("button[data-run]");
  if (start) run(start);
  const link = event.target.closest("a[target=_top]");
  if (link && around()) {
    event.preventDefault();
    leave(link.href);
  }
});

theme();
const outer = around();
if (outer) {
  new MutationObserver(theme).observe(outer.documentElement, { attributeFilter: ["class"] });
}
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
tell();
setInterval(tell, 30000);
refresh();
setInterval(() => refresh().catch(() => {}), REFRESH); // Airflow restarts: try again later
