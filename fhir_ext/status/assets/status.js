// Replaces the sections of the page that changed, every two seconds, unless the reader paused
// it. A section in which somebody works or has selected text waits until they leave it.
"use strict";

const PERIOD = 2000;
const PATIENCE = 10000;

const button = document.getElementById("pause");
const updates = document.getElementById("updates");
const lost = document.getElementById("lost");
let paused = recall();
let shownAt = new Date();

function recall() {
  try {
    return sessionStorage.getItem("paused") === "yes";
  } catch {
    return false; // Storage is blocked: the choice holds for this page only.
  }
}

function remember() {
  try {
    sessionStorage.setItem("paused", paused ? "yes" : "no");
  } catch {
    // As above.
  }
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function describe(waiting) {
  button.textContent = paused ? "Resume updates" : "Pause updates";
  if (paused) say(updates, "Paused");
  else if (waiting.length) say(updates, `Waits while you use it: ${waiting.join(", ")}`);
  else say(updates, "Updates every 2 s");
}

function inUse(section) {
  const selection = document.getSelection();
  const selected = selection && !selection.isCollapsed && selection.containsNode(section, true);
  return selected || section.contains(document.activeElement);
}

function show(page) {
  const waiting = [];
  for (const fresh of page.querySelectorAll("main > section")) {
    const old = document.getElementById(fresh.id);
    if (!old || old.outerHTML === fresh.outerHTML) continue;
    if (inUse(old)) waiting.push(old.querySelector("h2").textContent.trim());
    else old.replaceWith(fresh);
  }
  describe(waiting);
}

async function update() {
  try {
    const answer = await fetch(location.href, {
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE),
    });
    if (!answer.ok) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (paused) return; // While the answer was under way.
    show(page);
    shownAt = new Date();
    say(lost, "");
  } catch {
    const time = shownAt.toISOString().slice(11, 19);
    say(lost, `This service does not answer. What you see is as of ${time} UTC.`);
  }
}

async function run() {
  for (;;) {
    await new Promise((resume) => setTimeout(resume, PERIOD));
    if (!paused && !document.hidden) await update();
  }
}

button.hidden = false;
button.addEventListener("click", () => {
  paused = !paused;
  remember();
  describe([]);
});
describe([]);
run();
