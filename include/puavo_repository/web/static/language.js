// The reader's language: chosen on the page, or as in Airflow, whose choice no request carries, so a
// cookie does.
"use strict";

const LANGUAGE = document.documentElement.lang;
const LANGUAGES = [...document.querySelectorAll("#language option[lang]")].map((one) => one.value);
const CHOSEN = "puavo_repository_language";
const AIRFLOW = "puavo_repository_airflow_language";
const YEAR = 31536000; // seconds
// English is that of the reader's country, as far as the browser knows it.
const LOCALE = LANGUAGE !== "en" ? LANGUAGE
  : navigator.languages.find((one) => one.startsWith("en")) ?? "en-GB";

function cookie(name) {
  return document.cookie.split("; ").find((one) => one.startsWith(`${name}=`))
    ?.slice(name.length + 1) ?? "";
}

function keep(name, value) {
  const path = new URL(document.body.dataset.up, location).pathname; // of this page's own place
  const secure = location.protocol === "https:" ? "; Secure" : "";
  const age = value ? YEAR : 0;
  document.cookie = `${name}=${value}; Path=${path}; Max-Age=${age}; SameSite=Lax${secure}`;
}

// Airflow has no Finnish: a browser whose first language it is was given English.
function inAirflow() {
  const language = localStorage.getItem("i18nextLng")?.split("-")[0] ?? "";
  const first = navigator.languages[0]?.split("-")[0];
  if (language === "en" && first === "fi") return "fi";
  return LANGUAGES.includes(language) ? language : "";
}

// Loads the page anew where it is not in the language that it should be in.
function follow() {
  const wanted = inAirflow();
  if (cookie(AIRFLOW) === wanted) return;
  keep(AIRFLOW, wanted);
  const kept = cookie(AIRFLOW) === wanted; // cookies may be forbidden
  if (kept && !cookie(CHOSEN) && wanted !== LANGUAGE) location.reload();
}

const choice = document.getElementById("language");
choice.value = cookie(CHOSEN);
choice.addEventListener("change", () => {
  keep(CHOSEN, choice.value);
  location.reload();
});
follow();
window.addEventListener("storage", (event) => event.key === "i18nextLng" && follow());
