// What is shown is chosen by buttons, boxes and fields, so that keys reach it; and by dragging over a chart.
const fields = ["from", "to"].map((id) => document.getElementById(id));
const [first, last] = page.steps;

// At least two steps, within the run; a range that hits an end keeps its width.
function show(from, to) {
  const width = Math.min(Math.max(to - from, 2), last - first);
  const start = Math.min(Math.max(from, first), last - width);
  shown = [start, start + width];
  showFields();
  redraw(charts.filter((element) => element.layout.meta.steps));
}

function showFields() {
  fields.forEach((field, end) => { field.value = Math.round(shown[end]); });
  document.getElementById("all").disabled = shown[0] === first && shown[1] === last;
}

function startControls() {
  const moves = { closer: [0.5, 0], wider: [2, 0], earlier: [1, -0.5], later: [1, 0.5], all: [Infinity, 0] };
  for (const [id, [factor, by]] of Object.entries(moves)) {
    document.getElementById(id).addEventListener("click", () => {
      const width = shown[1] - shown[0];
      const middle = (shown[0] + shown[1]) / 2 + by * width;
      show(middle - (width * factor) / 2, middle + (width * factor) / 2);
    });
  }
  for (const field of fields) {
    field.addEventListener("change", () => {
      const [from, to] = fields.map((each) => each.valueAsNumber);
      if (to > from) show(from, to);
      else showFields();
    });
  }
  for (const [name, box] of Object.entries(boxes)) {
    const isConcerned = (each) => name.startsWith("runs.") || each.closest("section") === box.closest("section");
    box.addEventListener("change", () => redraw(charts.filter(isConcerned)));
  }
  for (const element of charts) {
    element.on("plotly_relayout", (change) => {
      if ("xaxis.range[0]" in change) show(change["xaxis.range[0]"], change["xaxis.range[1]"]);
    });
    element.on("plotly_doubleclick", () => show(first, last));
  }
  showFields();
}

function startTheme() {
  for (const input of document.querySelectorAll("input[name=theme]")) {
    input.checked = input.value === theme();
    input.addEventListener("change", () => {
      showTheme(theme(input.value));
      redraw();
    });
  }
  systemIsDark.addEventListener("change", () => redraw());
  // Paper is light, whatever the screen is, and drawn for at once.
  const paper = (name, width) => {
    showTheme(name);
    widest = width;
    charts.forEach(draw);
  };
  addEventListener("beforeprint", () => paper("light", 660));
  addEventListener("afterprint", () => paper(theme(), Infinity));
}

async function start() {
  const script = document.createElement("script");
  script.textContent = await inflated(page.plotly).text();
  document.head.append(script);
  for (const [name, text] of Object.entries(page.figures)) figures[name] = await inflated(text).text();
  startTheme();
  await redraw();
  startControls();
  root.dataset.charts = "drawn";
}

start().catch((error) => {
  root.dataset.charts = "failed";
  for (const element of charts) {
    element.textContent = "This browser cannot draw the charts. The tables hold the main numbers.";
  }
  console.error(error);
});
