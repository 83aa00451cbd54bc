// Replaces the main part every two seconds unless paused, or somebody works in it.
"use strict";
const main = document.getElementById("main");
const pause = document.getElementById("pause");
let paused = false;

pause.hidden = false;
pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
  pause.textContent = paused ? "Resume updates" : "Pause updates";
});

async function update() {
  const busy = main.contains(document.activeElement) || String(document.getSelection());
  if (paused || busy || document.hidden) return;
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    main.replaceChildren(...page.getElementById("main").childNodes);
  } catch {
    // The service is away; the next round tries again.
  }
}
setInterval(update, 2000);
