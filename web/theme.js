// Before the first paint, so that nothing flashes. The choice (system, light, dark) is kept in this browser.
"use strict";
(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const names = ["system", "light", "dark"];
  let choice = "system";
  try { choice = localStorage.getItem("theme") || "system"; } catch { /* no storage: not kept */ }
  if (!names.includes(choice)) choice = "system";
  const apply = () => {
    document.documentElement.dataset.theme = choice === "system" ? (system.matches ? "dark" : "light") : choice;
    dispatchEvent(new Event("themechange"));
  };
  system.addEventListener("change", apply);
  apply();
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => { button.textContent = "Theme: " + choice; };
    button.addEventListener("click", () => {
      choice = names[(names.indexOf(choice) + 1) % names.length];
      try { localStorage.setItem("theme", choice); } catch { /* not kept */ }
      apply();
      show();
    });
    show();
  });
})();
