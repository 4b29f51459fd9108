// Before anything is painted: light or dark, as was chosen here before or else as the system says.
"use strict";
const KEPT = "gradclip-report-theme";
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

// A page opened from a file may have no storage; then the theme is chosen anew next time.
function theme(chosen) {
  try {
    if (chosen) localStorage.setItem(KEPT, chosen);
    return localStorage.getItem(KEPT) || "auto";
  } catch {
    return chosen || "auto";
  }
}

function showTheme(shown) {
  const dark = shown === "dark" || (shown === "auto" && systemIsDark.matches);
  document.documentElement.dataset.scheme = dark ? "dark" : "light";
}

showTheme(theme());
