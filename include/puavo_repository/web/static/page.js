// The page works without its scripts; with them it follows Airflow's theme, says how long ago
// things were, shows what changes without being loaded again, and says so when it can no longer
// know: what is shown as good is good now. What changes is merged into the page (idiomorph), so
// that focus, scroll, what is open or typed, and a click half made stay as they are.
"use strict";

const IN_BACKGROUND = 3; // times as long between two looks
const OLD = 3; // looks that may be missed
const HELD = 3000; // ms for which the button of the mouse may hold up what is new
const WORDS = JSON.parse(document.getElementById("words").textContent);

const main = () => document.getElementById("page");

// A sentence of the page's language, with what is missing in it.
function say(name, values = {}) {
  return WORDS[name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

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
  const numeric = unit === "second" ? "auto" : "always"; // a day is 24 hours, and not yesterday
  return new Intl.RelativeTimeFormat(LANGUAGE, { numeric })
    .format(Math.trunc(seconds / length), unit);
}

const SHOWN = {
  ago,
  moment: (at) => at.toLocaleString(LOCALE, { dateStyle: "medium", timeStyle: "short" }),
  clock: (at) => at.toLocaleTimeString(LOCALE, { hour: "2-digit", minute: "2-digit" }),
  weekday: (at) =>
    at.toLocaleString(LOCALE, { weekday: "long", hour: "2-digit", minute: "2-digit" }),
};

// Moments in words, in the reader's own time; the exact one, and UTC, when one points at it.
function tell(root) {
  for (const time of root.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    time.title ||= `${SHOWN.moment(at)} (${time.textContent})`;
    time.textContent = SHOWN[time.dataset.show](at);
  }
}

let etag = null; // of what is shown
let title = document.title;
let known = Date.now(); // when the server last said what is shown
let asked = 0;
let asking = false;
let trouble = ""; // why it says nothing
let waiting = null; // what is to be shown when the button of the mouse is let go
let pressed = 0; // since when it is
let again = false; // whether to ask once more when this answer is there

function period() {
  return 1000 * main().dataset.refresh * (document.hidden ? IN_BACKGROUND : 1);
}

// What the server says now as a document, or null for what it said before. Throws what people are
// told.
async function ask(url, before = null) {
  let answer, text;
  try {
    answer = await fetch(url, {
      redirect: "manual", // to a login
      cache: "no-store",
      headers: before ? { "If-None-Match": before } : {},
      signal: AbortSignal.timeout(20000),
    });
    text = await answer.text();
  } catch {
    throw say("lost");
  }
  if (answer.type === "opaqueredirect" || answer.status === 401) throw say("out");
  if (answer.status === 403) throw say("denied");
  if (answer.status === 304) return null;
  const fresh = new DOMParser().parseFromString(text, "text/html");
  if (!fresh.querySelector("main#page")) { // somebody else's page; ours may say that it has nothing
    throw answer.ok ? say("out") : say("status", { status: answer.status });
  }
  fresh.etag = answer.headers.get("ETag");
  return fresh;
}

async function refresh() {
  if (asking) {
    again = true; // what is under way may have been asked before something was done
    return;
  }
  asking = true;
  again = false;
  asked = Date.now();
  try {
    const fresh = await ask(location.href, etag);
    known = Date.now();
    trouble = "";
    if (fresh) show(fresh);
  } catch (why) {
    trouble = `${why}`;
  } finally {
    asking = false;
    mark();
  }
  if (again) await refresh();
}

// Another version of the program has another script, another language other words: then all of it
// is loaded anew.
function replaced(fresh) {
  if (fresh.documentElement.lang !== LANGUAGE) return true;
  const scripts = (page) => [...page.querySelectorAll("script[src], link[rel=stylesheet]")]
    .map((one) => one.getAttribute("src") ?? one.getAttribute("href")).join();
  return scripts(fresh) !== scripts(document);
}

function show(fresh) {
  const held = Date.now() - pressed < HELD;
  waiting = held ? fresh : null;
  if (held) return; // or the button that is pressed may be another one when it is let go
  if (replaced(fresh)) return location.reload();
  etag = fresh.etag;
  title = fresh.title;
  merge(main(), fresh.querySelector("main"));
  document.dispatchEvent(new Event("merged"));
}

// What the reader did stays: sections that are open, what they wrote, what a button answered.
const KEPT = "[data-keep], [data-busy], [data-loaded]";

function merge(old, fresh) {
  const before = told(old);
  const focus = document.activeElement;
  const place = focus.closest("section[id], main");
  const height = focus.getBoundingClientRect().top;
  tell(fresh);
  arrange(fresh); // see series.js
  Idiomorph.morph(old, fresh, {
    callbacks: {
      beforeNodeMorphed: (node) => !node.matches?.(KEPT),
      beforeAttributeUpdated: (name, node) => !(name === "open" && node.localName === "details"),
    },
  });
  if (place && document.activeElement === document.body) {
    const next = place.isConnected ? place : main(); // what had the focus is gone
    next.tabIndex = -1;
    next.focus({ preventScroll: true });
  }
  if (place && focus.isConnected && height > 0 && height < window.innerHeight) {
    window.scrollBy(0, focus.getBoundingClientRect().top - height); // where it was
  }
  announce(before, told(old));
}

const told = (root) => new Map(
  [...root.querySelectorAll("[data-say]")].map((one) => [one.id, one.dataset.say]));

// To those who cannot see it: what stands otherwise now, and not the whole page.
function announce(before, now) {
  const news = [...now].filter(([id, text]) => text && before.get(id) !== text);
  if (news.length) {
    document.getElementById("said").textContent = news.map(([, text]) => text).join(". ");
  }
}

// Says whether what is shown is known to be so now: in the page and its title.
function mark() {
  const why = trouble || (Date.now() - known > OLD * period() ? say("silent") : "");
  const banner = document.getElementById("stale");
  document.documentElement.classList.toggle("stale", why !== "");
  banner.hidden = why === "";
  if (why) {
    const at = new Date(known);
    const text = say("as_of", { when: SHOWN.moment(at), why });
    if (banner.dataset.why !== why) { // said once, and not with each second that goes by
      banner.replaceChildren(text);
      if (why === say("out")) {
        const login = document.createElement("a");
        [login.href, login.target, login.textContent] = [`${document.body.dataset.up}../`, "_top", say("login")];
        banner.append(" ", login);
      }
    }
  }
  banner.dataset.why = why;
  name(why ? `${why} – ${title}` : title);
}

// Inside Airflow's page, the tab has its title.
const earlier = around()?.title;

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

function released() {
  pressed = 0;
  setTimeout(() => waiting && show(waiting)); // after the click that this makes
}

function start() {
  theme();
  const outer = around();
  if (outer) {
    new MutationObserver(theme).observe(outer.documentElement, { attributeFilter: ["class"] });
  }
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
  tell(document);
  returned();
  setInterval(() => tell(document), 30000);
  setInterval(tick, 1000 * Math.min(1, main().dataset.refresh / 2));
  document.addEventListener("pointerdown", () => { pressed = Date.now(); });
  for (const end of ["pointerup", "pointercancel", "dragend", "blur"]) {
    window.addEventListener(end, released);
  }
  document.addEventListener("visibilitychange", () => document.hidden || returned());
  window.addEventListener("pageshow", (event) => event.persisted && returned());
  window.addEventListener("online", returned);
  window.addEventListener("offline", () => {
    trouble = say("lost");
    mark();
  });
  window.addEventListener("pagehide", () => {
    if (around()) around().title = earlier;
  });
}

document.addEventListener("DOMContentLoaded", start); // when all scripts are there
