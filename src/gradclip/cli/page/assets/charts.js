// The charts: figures of plotly, drawn in the range and with the boxes as they are now.
"use strict";
const root = document.documentElement;
const page = JSON.parse(document.getElementById("data").textContent);
const charts = [...document.querySelectorAll("[data-chart]")];
const boxes = Object.fromEntries([...document.querySelectorAll("[data-state]")].map((box) => [box.dataset.state, box]));
const fields = ["from", "to"].map((id) => document.getElementById(id));
const figures = {};
const details = {};
const stale = new Set(); // charts that are not drawn as they should be
const MOST_POINTS = 50_000; // that a curve is drawn with
const CONFIG = { displaylogo: false, doubleClick: false, responsive: true };
const BUTTONS = ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"];
const [first, last] = page.steps;
let shown = page.steps;

const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const inflated = (text) =>
  new Response(new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate")));

// All norms of a run: steps as distances, and rows; of the second, what is not the lesser of the others, in bits.
async function unpacked(packed) {
  const steps = new Float64Array(await inflated(packed.steps).arrayBuffer());
  const bits = new Uint32Array(await inflated(packed.rows).arrayBuffer());
  const count = steps.length;
  for (let i = 1; i < count; i++) steps[i] += steps[i - 1];
  const rows = [0, 1, 2].map((row) => new Float32Array(bits.buffer, 4 * count * row, count));
  for (let i = 0; i < count; i++) bits[count + i] ^= bits[rows[2][i] < rows[0][i] ? 2 * count + i : i];
  return { steps, rows };
}

// Numbers as plotly's Python writes them.
const numbers = ({ dtype, bdata }) => new { f4: Float32Array, f8: Float64Array }[dtype](bytesOf(bdata).buffer);

// Leaves what is shown of a curve, and a point on either side, so that the axis fits it; all points, where these are
// not too many.
function cut(trace, [from, to]) {
  const [run, row] = trace.meta.detail ?? [];
  const all = details[run] ? [[details[run].steps, details[run].rows[row]]] : [];
  for (const [x, y] of [...all, [numbers(trace.x), numbers(trace.y)]]) {
    const start = Math.max(0, x.findLastIndex((step) => step < from));
    const beyond = x.findIndex((step) => step > to);
    const end = beyond < 0 ? x.length : beyond + 1;
    if (end - start > MOST_POINTS) continue;
    trace.x = x.subarray(start, end);
    trace.y = y.subarray(start, end);
    return;
  }
}

// The points of a curve that have a gap on either side, which no line reaches.
function dots({ x, y, connectgaps, line, ...trace }, isLog) {
  const drawn = Array.from(y, (value) => Number.isFinite(value) && (value > 0 || !isLog));
  const joined = connectgaps && drawn.indexOf(true) !== drawn.lastIndexOf(true);
  const isAlone = (_, i) => drawn[i] && !joined && (connectgaps || !(drawn[i - 1] || drawn[i + 1]));
  const marker = { color: line.color, size: 5 };
  const points = { x: x.filter(isAlone), y: y.filter(isAlone), mode: "markers", marker };
  return points.x.length ? [{ ...trace, ...points, name: "", hoverinfo: "skip", hovertemplate: null }] : [];
}

function draw(element) {
  const { data, layout } = structuredClone(figures[element.dataset.chart]);
  const { steps, log, narrow } = layout.meta;
  if (steps) {
    const both = [Math.max(shown[0], steps[0]), Math.min(shown[1], steps[1])];
    const range = both[0] < both[1] ? both : steps;
    layout.xaxis.range = range;
    if (range[1] - range[0] < 8) layout.xaxis.dtick = 1;
  }
  if (log) layout.yaxis.type = boxes[log].checked ? "log" : "linear";
  if (narrow && element.clientWidth < 560) layout.yaxis.ticktext = narrow;
  // Fingers move the page, unless a button says that they move the chart.
  layout.dragmode = element.layout?.dragmode ?? (matchMedia("(pointer: coarse)").matches ? false : "zoom");
  for (const trace of data) {
    trace.visible = trace.meta.show.every((name) => boxes[name]?.checked ?? true);
  }
  const curves = data.filter((trace) => trace.type === "scatter" && trace.x.bdata);
  for (const trace of curves) cut(trace, layout.xaxis.range);
  data.push(...curves.flatMap((trace) => dots(trace, layout.yaxis.type === "log")));
  const bar = steps ? { displayModeBar: true, modeBarButtons: [BUTTONS] } : { displayModeBar: false };
  return Plotly.react(element, data, layout, { ...CONFIG, ...bar });
}

// They are drawn one after the other, the uppermost first, and the page is the reader's in between.
async function redraw(wanted = charts) {
  for (const element of wanted) stale.add(element);
  const closer = shown === page.steps ? [] : Object.entries(page.details);
  for (const [run, packed] of closer) details[run] ??= await unpacked(packed);
  for (const element of wanted) {
    await new Promise((done) => setTimeout(done));
    if (stale.delete(element)) await draw(element);
  }
}

// Shows at least two steps, within the run; a range that hits an end keeps its width.
function show(from, to) {
  const width = Math.min(Math.max(to - from, 2), last - first);
  const start = Math.min(Math.max(from, first), last - width);
  shown = [start, start + width];
  fields.forEach((field, end) => { field.value = Math.round(shown[end]); });
  redraw(charts.filter((element) => element.layout.meta.steps));
}

function listen() {
  for (const field of fields) {
    field.addEventListener("change", () => {
      const [from, to] = fields.map((each) => each.valueAsNumber);
      show(...(to > from ? [from, to] : shown));
    });
  }
  for (const [name, box] of Object.entries(boxes)) {
    const isConcerned = (each) => name.startsWith("runs.") || each.closest("section") === box.closest("section");
    box.addEventListener("change", () => redraw(charts.filter(isConcerned)));
  }
  for (const element of charts) {
    element.on("plotly_relayout", (change) => {
      if ("xaxis.range[0]" in change) show(change["xaxis.range[0]"], change["xaxis.range[1]"]);
      if ("xaxis.range" in change) show(first, last); // by the button that resets it
    });
    element.on("plotly_doubleclick", () => show(first, last));
  }
  const fit = (width) => charts.forEach((element) => Plotly.relayout(element, { width }));
  addEventListener("beforeprint", () => fit(660));
  addEventListener("afterprint", () => fit(null));
}

async function start() {
  const script = document.createElement("script");
  script.textContent = await inflated(page.plotly).text();
  document.head.append(script);
  for (const [name, text] of Object.entries(page.figures)) figures[name] = await inflated(text).json();
  await redraw();
  listen();
  root.dataset.charts = "drawn";
}

start().catch((error) => {
  root.dataset.charts = "failed";
  for (const element of charts) {
    element.textContent = "This browser cannot draw the charts. The tables hold the main numbers.";
  }
  console.error(error);
});
