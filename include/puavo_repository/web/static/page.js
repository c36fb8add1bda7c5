// The page works without this; with it, it follows Airflow's theme, says how long ago things
// were, copies digests, shows what changes without being loaded again, and says so when it can no
// longer know: what is shown as good is good now.
"use strict";

const REFRESH = 1000 * document.documentElement.dataset.refresh; // ms, while somebody looks
const IN_BACKGROUND = 6; // times as long
const OLD = 3; // refreshes that may be missed

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
  try {
    const answer = await fetch(`../api/v2/dags/${button.dataset.run}/dagRuns`, {
      method: "POST",
      credentials: "same-origin",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ logical_date: null }),
    });
    button.textContent = answer.ok ? "Started" : `Refused (${answer.status})`;
    if (answer.ok) await refresh();
  } catch {
    button.textContent = "Not started: connection lost";
  }
}

let shown = document.querySelector("main").outerHTML; // before times become "2 hours ago"
let title = document.title;
let icon = document.querySelector("link[rel=icon]").getAttribute("href");
let known = Date.now(); // when the server last said what is shown
let asked = 0;
let asking = false;
let trouble = ""; // why it says nothing

function period() {
  return document.hidden ? IN_BACKGROUND * REFRESH : REFRESH;
}

// What the server says now, as a document. Throws what people are told.
async function ask() {
  let answer, text;
  try {
    answer = await fetch(location.href, {
      credentials: "same-origin",
      redirect: "manual", // to a login
      cache: "no-store",
      signal: AbortSignal.timeout(20000),
    });
    text = await answer.text();
  } catch {
    throw "connection lost";
  }
  if (answer.type === "opaqueredirect" || answer.status === 401) throw "logged out";
  if (answer.status === 403) throw "no permission to see it any more";
  if (!answer.ok) throw `the server answers ${answer.status}`;
  const fresh = new DOMParser().parseFromString(text, "text/html");
  if (!fresh.querySelector("main#page")) throw "logged out"; // somebody else's page
  return fresh;
}

async function refresh() {
  if (asking) return;
  asking = true;
  asked = Date.now();
  try {
    const fresh = await ask();
    known = Date.now();
    trouble = "";
    show(fresh);
  } catch (why) {
    trouble = `${why}`;
  } finally {
    asking = false;
    mark();
  }
}

function show(fresh) {
  const main = fresh.querySelector("main");
  title = fresh.title;
  icon = fresh.querySelector("link[rel=icon]").getAttribute("href");
  if (main.outerHTML === shown) return;
  shown = main.outerHTML;
  const open = new Map(
    [...document.querySelectorAll("details")].map((one) => [one.id, one.open]));
  for (const one of main.querySelectorAll("details")) {
    if (open.has(one.id)) one.open = open.get(one.id);
  }
  document.querySelector("main").replaceWith(main);
  tell();
}

// Says whether what is shown is known to be so now: in the page, its title and its icon.
function mark() {
  const why = trouble || (Date.now() - known > OLD * period() ? "no answer" : "");
  const banner = document.getElementById("stale");
  document.documentElement.classList.toggle("stale", why !== "");
  banner.hidden = why === "";
  if (why) {
    const at = new Date(known);
    banner.textContent = `As of ${at.toLocaleString()} (${ago(at)}): ${why}. `;
    if (why === "logged out") {
      const login = banner.appendChild(document.createElement("a"));
      [login.href, login.target, login.textContent] = ["../", "_top", "Log in"];
    }
  }
  name(why ? `${why} – ${title}` : title);
  const wanted = why ? icon.replace(/icon(-\w+)?\.svg/, "icon-unknown.svg") : icon;
  const link = document.querySelector("link[rel=icon]");
  if (link.getAttribute("href") !== wanted) link.setAttribute("href", wanted);
}

// Inside Airflow's page, the tab has its title.
const before = around()?.title;

function name(text) {
  document.title = text;
  const outer = around();
  if (outer) outer.title = text;
}

// Also in the background, where the browser calls it less often.
function tick() {
  mark();
  if (Date.now() - asked >= period()) refresh();
}

function returned() {
  mark();
  refresh();
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
returned();
setInterval(tick, REFRESH / 2);
document.addEventListener("visibilitychange", () => document.hidden || returned());
window.addEventListener("pageshow", (event) => event.persisted && returned());
window.addEventListener("pagehide", () => {
  if (around()) around().title = before;
});
