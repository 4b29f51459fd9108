// The histogram of norms, and the heat map of tensors over time.

function histogramFigure(element, page, state, colours) {
  const { edges, counts, totals } = page.histogram;
  const many = counts.length > 1;
  const traces = [];
  counts.forEach((row, place) => {
    if (!state.runs[place] || !totals[place]) return;
    const share = (count) => (100 * count) / totals[place];
    // On a logarithmic axis an empty bin lies below the smallest that can be seen.
    const floor = state.logCounts ? share(0.5) : 0;
    const heights = row.map((count) => (count ? share(count) : floor));
    traces.push({
      type: "scatter",
      mode: "lines",
      name: plain(many ? page.runs[place].name : "steps"),
      x: [...edges, edges[edges.length - 1]],
      y: [...heights, heights[heights.length - 1], floor],
      customdata: row.map((count, i) => {
        const bin = `${short(10 ** edges[i])} to ${short(10 ** edges[i + 1])}`;
        return `norm ${bin}: ${whole(count)} of ${whole(totals[place])} steps`;
      }),
      hovertemplate: "%{customdata}",
      line: { shape: "hv", color: colours.runs[place], width: 1.4 },
      fill: "tozeroy",
      fillcolor: clear(colours.runs[place], many ? 0.16 : 0.3),
    });
  });
  const marked = page.suggested.filter((each) => each.value > 0).map((each) => [each, Math.log10(each.value)]);
  const low = Math.min(edges[0], ...marked.map(([, x]) => x));
  const high = Math.max(edges[edges.length - 1], ...marked.map(([, x]) => x));
  const pad = (high - low) * 0.02;
  const layout = layoutOf(element, colours, {
    height: 320,
    x: { title: { text: "gradient norm before clipping" }, range: [low - pad, high + pad], ...decades(low, high), fixedrange: true },
    y: {
      title: { text: "steps" },
      type: state.logCounts ? "log" : "linear",
      ticksuffix: " %",
      rangemode: "tozero",
      autorange: true,
      nticks: 5,
    },
    more: { hovermode: "closest", ...thresholdMarks(marked, high - low, colours) },
  });
  layout.margin.t = 12 + 17 * marked.length;
  return { traces, layout };
}

// Lines with names above the chart, each in a row of its own, so that near ones do not cover each other.
function thresholdMarks(marked, span, colours) {
  const middle = marked.length ? Math.min(...marked.map(([, x]) => x)) : 0;
  return {
    shapes: marked.map(([each, x], i) => ({
      type: "line",
      xref: "x",
      yref: "paper",
      x0: x,
      x1: x,
      y0: 0,
      y1: 1,
      line: { color: colours.ink, width: 1.6, dash: each.used ? "dash" : "solid" },
    })),
    annotations: marked.map(([each, x], i) => ({
      xref: "x",
      yref: "paper",
      x,
      y: 1,
      yshift: 4 + 17 * (marked.length - 1 - i),
      yanchor: "bottom",
      xanchor: x > middle + span * 0.6 ? "right" : "left",
      showarrow: false,
      text: plain(`${each.name} ${short(each.value)}`),
      font: { color: colours.ink, size: 12 },
    })),
  };
}

// The largest norm of the moments that fall into one cell of the screen.
function cellsOf(heat, from, to, most) {
  const { steps, columns, values, names } = heat;
  const first = Math.max(0, placeOf(steps, from) - 1);
  const end = Math.max(first + 1, Math.min(columns, placeOf(steps, to) + 1));
  const group = Math.max(1, Math.ceil((end - first) / most));
  const x = [];
  const spans = [];
  const cells = names.map(() => []);
  for (let start = Math.floor(first / group) * group; start < end; start += group) {
    const stop = Math.min(start + group, columns);
    x.push(steps[start]);
    spans.push(stop - start > 1 ? `steps ${whole(steps[start])} to ${whole(steps[stop - 1])}` : `step ${whole(steps[start])}`);
    cells.forEach((row, place) => {
      let high = null;
      for (let i = start; i < stop; i++) {
        const value = values[place * columns + i];
        if (value > (high ?? 0)) high = value;
      }
      row.push(high);
    });
  }
  return { x, spans, cells };
}

function heatFigure(element, page, state, colours) {
  const { heat } = page;
  const narrow = widthOf(element) < 560;
  const letters = narrow ? 16 : 34;
  const shown = heat.names.map((name) => plain(name.length > letters ? `\u2026${name.slice(1 - letters)}` : name));
  const { x, spans, cells } = cellsOf(heat, state.from, state.to, Math.floor(widthOf(element) / 3));
  const logs = cells.map((row) => row.map((value) => (value > 0 ? Math.log10(value) : null)));
  const known = logs.flat().filter((value) => value !== null);
  const low = known.length ? known.reduce((a, b) => Math.min(a, b)) : 0;
  const high = known.length ? known.reduce((a, b) => Math.max(a, b)) : 1;
  const edge = x.length > 1 ? x[x.length - 1] + (x[1] - x[0]) : x[0] + 1;
  const trace = {
    type: "heatmap",
    x: [...x, edge],
    y: shown.map((_, i) => i),
    z: logs,
    zmin: low,
    zmax: high,
    text: cells.map((row, i) => row.map((value, j) => `${plain(heat.names[i])}<br>${spans[j]}: ${value === null ? "none" : short(value)}`)),
    hovertemplate: "%{text}<extra></extra>",
    colorscale: "Cividis",
    colorbar: {
      ...decades(low, high),
      orientation: "h",
      thickness: 10,
      len: narrow ? 1 : 0.4,
      x: narrow ? 0.5 : 1,
      xanchor: narrow ? "center" : "right",
      y: 1,
      yanchor: "bottom",
      tickfont: { color: colours.quiet, size: 11 },
      ypad: 4,
      outlinewidth: 0,
    },
  };
  const longest = Math.max(...shown.map((name) => name.length));
  const layout = layoutOf(element, colours, {
    height: 90 + 17 * shown.length,
    left: Math.min(narrow ? 118 : 250, 16 + 7 * longest),
    x: stepAxis(state, element),
    y: { tickvals: shown.map((_, i) => i), ticktext: shown, autorange: "reversed", showgrid: false, tickfont: { size: narrow ? 10 : 11, color: colours.quiet } },
    more: { hovermode: "closest" },
  });
  layout.height = 90 + 17 * shown.length;
  layout.margin.t = 30;
  return { traces: [trace], layout };
}
