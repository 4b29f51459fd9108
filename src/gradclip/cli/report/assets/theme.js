// Light, dark, or as the system says; the charts take their colours from the style sheet.

// What is drawn for paper is drawn at once, and no wider than paper is.
let paper = false;
const PAPER_WIDTH = 660;
const LEAST_WIDTH = 240;

function widthOf(element) {
  const width = Math.max(element.clientWidth, LEAST_WIDTH);
  return paper ? Math.min(width, PAPER_WIDTH) : width;
}

function startTheme(redraw, drawNow) {
  let theme = keptTheme();
  const show = () => {
    showTheme(theme);
    redraw();
  };
  for (const input of document.querySelectorAll('input[name="theme"]')) {
    input.checked = input.value === theme;
    input.addEventListener("change", () => {
      theme = input.value;
      keepTheme(theme);
      show();
    });
  }
  systemIsDark.addEventListener("change", show);
  // Paper is light, whatever the screen is.
  addEventListener("beforeprint", () => {
    paper = true;
    showTheme("light");
    drawNow();
  });
  addEventListener("afterprint", () => {
    paper = false;
    show();
  });
}

function coloursNow() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    page: read("--page"),
    panel: read("--panel"),
    ink: read("--ink"),
    quiet: read("--quiet"),
    grid: read("--grid"),
    cut: read("--cut"),
    bad: read("--bad"),
    runs: [1, 2, 3, 4, 5, 6].map((i) => read(`--run-${i}`)),
    font: getComputedStyle(document.body).fontFamily,
  };
}

// A colour so much of the way from the background, without transparency: what is drawn over another stays clean.
function tint(colour, background, share) {
  const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const under = channels(background);
  const mixed = channels(colour).map((value, i) => Math.round(value * share + under[i] * (1 - share)));
  return `rgb(${mixed.join(",")})`;
}

function clear(colour, opacity) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return `rgba(${r},${g},${b},${opacity})`;
}
