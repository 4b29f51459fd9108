// The page comes to life: the library out of its text, the data out of theirs, then every chart.

const FIGURES = {
  norms: normsFigure,
  rate: rateFigure,
  loss: lossFigure,
  histogram: histogramFigure,
  policies: policiesFigure,
  heat: heatFigure,
};

async function library() {
  const script = document.createElement("script");
  script.textContent = new TextDecoder().decode(await inflated(document.getElementById("library").textContent));
  document.head.append(script);
}

async function pageData() {
  const page = JSON.parse(document.getElementById("data").textContent);
  for (const run of page.runs) {
    run.curves = await curvesOf(run.curves, ["before", "after", "threshold", "loss"]);
    if (run.rate) run.rate = await curvesOf(run.rate, ["rate"]);
  }
  if (page.policies) {
    const { policies } = page;
    const { bucket } = policies.curves;
    policies.curves = await curvesOf(policies.curves, ["before"]);
    policies.columns = await Promise.all(policies.thresholds.map((packed) => columnOf(packed, bucket)));
  }
  if (page.heat) {
    page.heat.steps = await stepsOf(page.heat.steps);
    page.heat.values = await unpacked(page.heat.norms, Float32Array);
  }
  return page;
}

// Charts that do not show what they should. They are drawn one after the other, the uppermost first, and the page is the
// reader's in between.
const stale = new Set();
let drawing = null;

function drawOne(page, state, element, colours) {
  stale.delete(element.dataset.chart);
  const { traces, layout } = FIGURES[element.dataset.chart](element, page, state, colours);
  return Plotly.react(element, traces, layout, CONFIG);
}

async function drawStale(page, state, elements) {
  for (let next; (next = elements.find((element) => stale.has(element.dataset.chart))); ) {
    await drawOne(page, state, next, coloursNow());
    await new Promise((done) => setTimeout(done));
  }
  drawing = null;
  delete document.documentElement.dataset.busy;
}

async function start() {
  const page = await pageData();
  await library();
  const state = stateOf(page);
  const elements = [...document.querySelectorAll("[data-chart]")];
  const kinds = elements.map((element) => element.dataset.chart);
  const redraw = (wanted = kinds) => {
    for (const kind of wanted) if (kinds.includes(kind)) stale.add(kind);
    document.documentElement.dataset.busy = "";
    drawing ??= drawStale(page, state, elements);
    return drawing;
  };
  startTheme(redraw, () => elements.forEach((element) => drawOne(page, state, element, coloursNow())));
  await redraw();
  startControls(page, state, redraw);
  // On a phone, bars that come and go change the height alone; and a window that is pulled is not drawn at every pixel.
  let width = innerWidth;
  let pending = 0;
  addEventListener("resize", () => {
    clearTimeout(pending);
    pending = setTimeout(() => {
      if (innerWidth !== width) redraw();
      width = innerWidth;
    }, 120);
  });
  document.documentElement.dataset.charts = "drawn";
}

start().catch((error) => {
  document.documentElement.dataset.charts = "failed";
  for (const element of document.querySelectorAll("[data-chart]")) {
    element.textContent = "This browser cannot draw the charts. The tables hold the main numbers.";
  }
  console.error(error);
});
