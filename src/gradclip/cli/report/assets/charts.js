// The charts: figures of plotly, drawn with the colours, the range and the boxes as they are now.
const page = JSON.parse(document.getElementById("data").textContent);
const charts = [...document.querySelectorAll("[data-chart]")];
const boxes = Object.fromEntries([...document.querySelectorAll("[data-state]")].map((box) => [box.dataset.state, box]));
const figures = {};
const details = {};
const CONFIG = { displayModeBar: false, responsive: true, doubleClick: false };
const MOST_POINTS = 50_000; // that a curve is drawn with
let shown = page.steps;
let widest = Infinity; // of a chart

const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const inflated = (text) =>
  new Response(new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate")));

// All norms of a run: steps as distances, and rows; of the second, what is not the lesser of the others, in bits.
async function loadDetail(run) {
  const packed = page.details[run];
  const steps = new Float64Array(await inflated(packed.steps).arrayBuffer());
  const bits = new Uint32Array(await inflated(packed.rows).arrayBuffer());
  const count = steps.length;
  for (let i = 1; i < count; i++) steps[i] += steps[i - 1];
  const rows = [0, 1, 2].map((row) => new Float32Array(bits.buffer, 4 * count * row, count));
  for (let i = 0; i < count; i++) bits[count + i] ^= bits[rows[2][i] < rows[0][i] ? 2 * count + i : i];
  details[run] = { steps, rows };
}

// Numbers as plotly's Python writes them.
const numbers = ({ dtype, bdata }) => new { f4: Float32Array, f8: Float64Array }[dtype](bytesOf(bdata).buffer);

// Leaves what is shown of a curve, and a point on either side, so that the axis fits it; all points, where these are
// not too many.
function cut(trace, [from, to]) {
  const [run, row] = trace.meta.detail ?? [];
  const all = details[run] ? [[details[run].steps, details[run].rows[row]]] : [];
  for (const [x, y] of [...all, [numbers(trace.x), numbers(trace.y)]]) {
    const first = Math.max(0, x.findLastIndex((step) => step < from));
    const beyond = x.findIndex((step) => step > to);
    const end = beyond < 0 ? x.length : beyond + 1;
    if (end - first > MOST_POINTS) continue;
    trace.x = x.subarray(first, end);
    trace.y = y.subarray(first, end);
    return;
  }
}

function figureOf(element) {
  const style = getComputedStyle(root);
  const coloured = (key, value) => {
    const [, name, clear] = /color$/.test(key) ? /^var\((.+?)(-clear)?\)$/.exec(value) ?? [] : [];
    if (!name) return value;
    const [light, dark] = style.getPropertyValue(name).match(/#\w+/g);
    return (isDark() ? dark : light) + (clear ? "66" : ""); // so much of it that others shine through
  };
  const { data, layout } = JSON.parse(figures[element.dataset.chart], coloured);
  const { steps, log, narrow } = layout.meta;
  if (steps) {
    const both = [Math.max(shown[0], steps[0]), Math.min(shown[1], steps[1])];
    const range = both[0] < both[1] ? both : steps;
    layout.xaxis.range = range;
    if (range[1] - range[0] < 8) layout.xaxis.dtick = 1;
  }
  if (log) layout.yaxis.type = boxes[log].checked ? "log" : "linear";
  if (narrow && element.clientWidth < 560) layout.yaxis.ticktext = narrow;
  layout.width = Math.min(element.clientWidth, widest);
  layout.dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
  for (const trace of data) {
    trace.visible = trace.meta.show.every((name) => boxes[name]?.checked ?? true);
    if (trace.type === "scatter" && trace.x.bdata) cut(trace, layout.xaxis.range);
  }
  return { data, layout };
}

function draw(element) {
  const { data, layout } = figureOf(element);
  return Plotly.react(element, data, layout, CONFIG);
}

// They are drawn one after the other, the uppermost first, and the page is the reader's in between.
const stale = new Set();
let drawing = null;

function redraw(wanted = charts) {
  for (const element of wanted) stale.add(element);
  root.dataset.busy = "";
  drawing ??= drawStale().finally(() => { drawing = null; });
  return drawing;
}

async function drawStale() {
  const wanted = page.details.flatMap((packed, run) => (packed && !details[run] && shown !== page.steps ? [run] : []));
  await Promise.all(wanted.map(loadDetail));
  for (let next; (next = charts.find((element) => stale.has(element))); ) {
    stale.delete(next);
    await draw(next);
    await new Promise((done) => setTimeout(done));
  }
  delete root.dataset.busy;
}
