// What a run is asked for with: the choices of a rollback, the options of any other run.
"use strict";

const checked = (root, name) =>
  [...root.querySelectorAll(`[name="${name}"]:checked`)].map((one) => one.value);

// Only series that the chosen generation has otherwise can be chosen; all of them is all.
function offer(root) {
  const chosen = root.querySelector("[name=generation]:checked")?.closest(".choice");
  // Of no generation yet, any can.
  const differs = (name) => chosen?.querySelector(`[data-series="${CSS.escape(name)}"]`) !== null;
  const all = root.querySelector('[name=series][value="*"]');
  for (const one of root.querySelectorAll("[name=series]")) {
    if (one === all) continue;
    one.disabled = all.checked || !differs(one.value);
    if (one.disabled) one.checked = false;
  }
}

function goOn(button) {
  const root = button.closest("[data-choose]");
  const [number] = checked(root, "generation");
  const series = checked(root, "series");
  if (number === undefined || !series.length) return tellAt(beside(button), root.dataset.missing, true);
  const query = new URLSearchParams({ generation: number });
  for (const one of series) query.append("series", one);
  location.assign(`${root.dataset.choose}&${query}`);
}

document.addEventListener("change", (event) => {
  const root = event.target.closest("[data-choose]");
  if (root) offer(root);
});
document.addEventListener("click", (event) => event.target.id === "go-on" && goOn(event.target));
// Who comes from the page wants to see what there is: the dry run needs no other click.
document.addEventListener("DOMContentLoaded", () => document.querySelector("[data-auto]")?.click());

// What was typed: texts by their fields, and true for a box that is checked.
function typed(root) {
  const every = [...root.querySelectorAll("[name]")];
  return Object.fromEntries(every.map((one) =>
    [one.name, one.type === "checkbox" ? one.checked : one.value]));
}

// Has the server check what was typed; returns the params of the run. Throws what people are told.
async function checkedOptions(root) {
  const answer = await send("POST", root.dataset.check, typed(root));
  if (!answer.ok) throw await refusal(answer);
  const { conf, refused } = await answer.json();
  for (const place of root.querySelectorAll("[id^=refused-]")) {
    const name = place.id.slice("refused-".length);
    place.textContent = refused[name] ?? "";
    root.querySelector(`[name="${name}"]`)?.setAttribute("aria-invalid", name in refused);
  }
  const [first] = Object.keys(refused);
  if (first === undefined) return conf;
  root.querySelector(`[name="${first}"]`)?.focus();
  throw say("unusable");
}

// Answers overtake each other: one that fits what was typed earlier is not shown.
async function suggest(field) {
  const asked = field.value;
  const answer = await fetch(field.dataset.folders + encodeURIComponent(asked || "/"));
  if (!answer.ok) return;
  const found = await answer.json();
  if (field.value === asked) field.list.replaceChildren(...found.map((one) => new Option(one)));
}

for (const kind of ["input", "focusin"]) {
  document.addEventListener(kind, (event) => {
    if (event.target.matches?.("[data-folders]")) suggest(event.target);
  });
}
