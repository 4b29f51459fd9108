// Before anything is painted: light or dark, as was chosen here before or else as the system says.

const THEME_KEPT = "gradclip-report-theme";
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

function keptTheme() {
  try {
    return localStorage.getItem(THEME_KEPT) || "auto";
  } catch {
    return "auto"; // a page opened from a file may have no storage
  }
}

function keepTheme(theme) {
  try {
    localStorage.setItem(THEME_KEPT, theme);
  } catch {
    // then it is chosen anew next time
  }
}

function showTheme(theme) {
  const dark = theme === "dark" || (theme === "auto" && systemIsDark.matches);
  document.documentElement.dataset.scheme = dark ? "dark" : "light";
}

showTheme(keptTheme());
