// Before anything is painted: light or dark, as was chosen here before or else as the system says.
"use strict";
const root = document.documentElement;
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
const KEPT = "gradclip-report-theme";

// A page opened from a file may have no storage; then the theme is chosen anew next time.
function theme(chosen) {
  try {
    if (chosen) localStorage.setItem(KEPT, chosen);
    return localStorage.getItem(KEPT) || "auto";
  } catch {
    return chosen || "auto";
  }
}

const showTheme = (name) => { root.style.colorScheme = name === "auto" ? "" : name; };
const isDark = () => (root.style.colorScheme || (systemIsDark.matches ? "dark" : "light")) === "dark";

showTheme(theme());
