// What the reader can do: copy, and ask Airflow for something, with their own permissions.
"use strict";

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
    button.focus();
  }
  button.classList.add("done");
  document.getElementById("said").textContent = say("copied");
  setTimeout(() => button.classList.remove("done"), 1500);
}

// A frame may not lead its parent elsewhere, but the parent may follow a link of its own.
function leave(link) {
  const outer = around();
  const copied = outer.createElement("a");
  copied.href = link.href;
  copied.rel = link.rel;
  if (link.target !== "_top") copied.target = link.target;
  outer.body.appendChild(copied);
  copied.click();
  copied.remove();
}

const SAID = 120000; // ms for which an answer stays

// Where a button is answered; it stays when the button is gone.
const beside = (button) => button.closest(".actions").querySelector(".answer");

// Airflow's answer in a sentence; it stays while the page goes on.
function tellAt(place, text, bad = false, link = null) {
  const words = document.createTextNode(text);
  place.replaceChildren(words);
  place.classList.toggle("bad", bad);
  setTimeout(() => words.isConnected && place.replaceChildren(), SAID);
  if (link) {
    const there = document.createElement("a");
    [there.href, there.textContent] = link;
    place.append(" ", there);
  }
}

function send(method, url, body) {
  const headers = { "Content-Type": "application/json" };
  return fetch(url, { method, headers, body: JSON.stringify(body), redirect: "manual" });
}

async function refusal(answer) {
  const known = {
    0: "logged_out", // led to a login
    401: "logged_out", 403: "may_not", 404: "absent", 409: "taken",
  }[answer.status];
  if (known) return say(known);
  const detail = await answer.json().then((found) => found.detail, () => "");
  return say("refused", {
    status: answer.status, detail: typeof detail === "string" ? detail : JSON.stringify(detail),
  });
}

async function act(button, place) {
  const { method, path, done, opens, options, result, link, auto } = button.dataset;
  const body = JSON.parse(button.dataset.body);
  button.dataset.busy = "";
  button.setAttribute("aria-disabled", "true");
  try {
    if (options) body.conf = await checkedOptions(document.getElementById(options));
    const url = new URL(`${document.body.dataset.up}../api/v2/${path}`, location);
    const answer = await send(method, url, body);
    const run = encodeURIComponent(body.dag_run_id);
    if (!answer.ok) {
      tellAt(place, await refusal(answer), answer.status !== 409);
    } else {
      tellAt(place, done, false, result && [result + run, link]);
      // Who goes back does not come to what is pressed by itself.
      if (opens) location[auto === undefined ? "assign" : "replace"](opens + run);
    }
  } catch (why) {
    tellAt(place, typeof why === "string" ? why : say("not_sent"), true);
  }
  delete button.dataset.busy;
  button.removeAttribute("aria-disabled");
  etag = null; // what came meanwhile left the button out
  await refresh();
}

// Asks first where clients will see something else.
function confirmed(button) {
  const { confirm, yes } = button.dataset;
  const place = beside(button);
  if (!confirm) return act(button, place);
  const dialog = document.getElementById("confirm");
  const agree = document.getElementById("yes");
  document.getElementById("question").textContent = confirm;
  agree.textContent = yes;
  dialog.onclick = (event) => {
    if (!event.target.closest("button")) return;
    dialog.close();
    if (event.target === agree) act(button, place);
  };
  dialog.showModal();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.getAttribute("aria-disabled") === "true") return;
  if (button?.dataset.copy) copy(button);
  if (button?.dataset.path) confirmed(button);
  const link = event.target.closest("a[target]");
  if (link && around()) {
    event.preventDefault();
    leave(link);
  }
});
