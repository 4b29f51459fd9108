// The charts over steps: norms, clip rate, loss, and the thresholds that other policies would have set.



function normsFigure(element, page, state, colours) {
  const { runs } = page;
  const many = runs.length > 1;
  const traces = [];
  runs.forEach((run, place) => {
    if (!state.runs[place]) return;
    const colour = colours.runs[place];
    const label = (kind) => (many ? `${run.name}: ${kind}` : kind);
    const view = (column) => viewOf(run.curves, column, state.from, state.to, widthOf(element), state.log);
    const { before, after, threshold } = run.curves;
    // Without a norm after clipping, that before is all there is, and has the colour of the run.
    const cut = many || !after ? colour : colours.cut;
    if (before && state.before) {
      const fill = many ? clear(cut, 0.28) : tint(cut, colours.panel, after ? 0.75 : 0.4);
      const kind = after ? "before clipping" : "norm";
      const shown = view(before);
      const notes = notesOf(shown, run.marks);
      traces.push(...tracesOf(shown, { name: label(kind), colour: cut, fill, width: many ? 1 : 1.1, notes }));
    }
    if (after && state.after) {
      const fill = many ? clear(colour, 0.28) : tint(colour, colours.panel, 0.4);
      const style = { name: label("after clipping"), colour, fill, width: 1.4, dash: many ? "dot" : "solid" };
      traces.push(...tracesOf(view(after), style));
    }
    if (threshold && state.threshold) {
      const style = { name: label("threshold"), colour: many ? colour : colours.ink, width: 1.6, dash: "dash", band: false };
      traces.push(...tracesOf(view(threshold), style));
    }
    if (run.marks.length) traces.push(markTrace(run, state, many ? colour : colours.bad));
  });
  const layout = layoutOf(element, colours, {
    height: 400,
    x: stepAxis(state, element),
    y: { title: { text: "gradient norm" }, ...(state.log ? logAxis(traces) : { autorange: true, rangemode: "tozero" }) },
    more: { yaxis2: { overlaying: "y", range: [0, 1], fixedrange: true, visible: false } },
  });
  return { traces, layout };
}

// Marks at the foot of the chart: steps that did not count have no norm to stand at. What they are is said at the point
// nearest to them, since hovering looks for points of curves.
function markTrace(run, state, colour) {
  const marks = run.marks.filter((mark) => mark.to >= state.from && mark.from <= state.to);
  return {
    type: "scatter",
    mode: "markers",
    x: marks.map((mark) => mark.from),
    y: marks.map(() => 0.022),
    yaxis: "y2",
    hoverinfo: "skip",
    marker: { symbol: "x", size: 7, color: colour },
    cliponaxis: false,
  };
}

function notesOf({ points }, marks) {
  const known = points.map((point, i) => [point, i]).filter(([point]) => point.mid !== null);
  const starts = known.map(([point]) => point.x);
  const noted = new Map();
  for (const mark of marks) {
    if (!known.length || mark.to < points[0].from || mark.from > points[points.length - 1].to) continue;
    const after = Math.min(placeOf(starts, mark.from), known.length - 1);
    const before = Math.max(after - 1, 0);
    const nearest = mark.from - starts[before] < starts[after] - mark.from ? before : after;
    const place = known[nearest][1];
    noted.set(place, [...(noted.get(place) || []), mark]);
  }
  const notes = new Map();
  for (const [place, own] of noted) {
    const steps = own.reduce((sum, mark) => sum + mark.count, 0);
    notes.set(place, steps === 1 ? `step ${whole(own[0].from)} ${plain(own[0].what)}` : `${whole(steps)} steps did not count`);
  }
  return notes;
}

function rateFigure(element, page, state, colours) {
  const many = page.runs.length > 1;
  const traces = [];
  page.runs.forEach((run, place) => {
    if (!run.rate || !state.runs[place]) return;
    const view = viewOf(run.rate, run.rate.rate, state.from, state.to, widthOf(element), false);
    const colour = colours.runs[place];
    const name = many ? run.name : "steps clipped";
    const style = { name, colour, fill: clear(colour, 0.28), width: 1.5, unit: " %" };
    traces.push(...tracesOf(view, style));
  });
  const layout = layoutOf(element, colours, {
    height: 200,
    x: stepAxis(state, element),
    y: { title: { text: "steps clipped" }, range: [0, 102], tickvals: [0, 25, 50, 75, 100], ticktext: ["0 %", "25 %", "50 %", "75 %", "100 %"] },
  });
  return { traces, layout };
}

function lossFigure(element, page, state, colours) {
  const many = page.runs.length > 1;
  const traces = [];
  page.runs.forEach((run, place) => {
    if (!run.curves.loss || !state.runs[place]) return;
    const view = viewOf(run.curves, run.curves.loss, state.from, state.to, widthOf(element), false);
    const colour = colours.runs[place];
    const fill = many ? clear(colour, 0.28) : tint(colour, colours.panel, 0.4);
    traces.push(...tracesOf(view, { name: many ? run.name : "loss", colour, fill, width: 1.2 }));
  });
  const layout = layoutOf(element, colours, {
    height: 220,
    x: stepAxis(state, element),
    y: { title: { text: "loss" }, autorange: true },
  });
  return { traces, layout };
}

function policiesFigure(element, page, state, colours) {
  const { policies } = page;
  const range = [Math.max(state.from, policies.curves.steps[0]), Math.min(state.to, policies.curves.last)];
  if (range[0] >= range[1]) range.splice(0, 2, policies.curves.steps[0], policies.curves.last);
  const own = { ...state, from: range[0], to: range[1] };
  const view = (column) => viewOf(policies.curves, column, own.from, own.to, widthOf(element), true);
  const traces = tracesOf(view(policies.curves.before), {
    name: "recorded norm",
    colour: tint(colours.quiet, colours.panel, 0.6),
    fill: tint(colours.quiet, colours.panel, 0.25),
    width: 1,
  });
  policies.columns.forEach((column, place) => {
    if (!state.policies[place]) return;
    const style = { name: policies.names[place], colour: colours.runs[place % 6], dash: policies.dashes[place] };
    traces.push(...tracesOf(view(column), { ...style, width: 1.8, band: false }));
  });
  const layout = layoutOf(element, colours, {
    height: 320,
    x: stepAxis(own, element),
    y: { title: { text: "threshold" }, ...logAxis(traces) },
  });
  return { traces, layout };
}
