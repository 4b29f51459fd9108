// What all charts share: axes, fonts, hover, and how a curve becomes traces.

const CONFIG = { displayModeBar: false, responsive: false, doubleClick: false, scrollZoom: false, showAxisDragHandles: false };

// Names come from files, and the library reads markup in texts.
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

// Made once: they are slow to make, and there are thousands of numbers to write.
const FOUR_DIGITS = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 4 });
const WHOLE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

function short(value) {
  if (value === null || !Number.isFinite(value)) return "not finite";
  if (value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-4)) return String(Number(value.toPrecision(4)));
  return FOUR_DIGITS.format(value);
}

const whole = (value) => WHOLE.format(value);

function layoutOf(element, colours, { height, left, right, x, y, more }) {
  const narrow = widthOf(element) < 560;
  const axis = {
    gridcolor: colours.grid,
    linecolor: colours.grid,
    zeroline: false,
    automargin: false,
    tickfont: { color: colours.quiet, size: narrow ? 11 : 12 },
    title: { font: { color: colours.quiet, size: narrow ? 11 : 12 }, standoff: 8 },
  };
  const mergedAxis = (own) => ({ ...axis, ...own, title: { ...axis.title, ...(own.title || {}) } });
  return {
    width: widthOf(element),
    height: narrow ? Math.round(height * 0.85) : height,
    margin: { l: left ?? (narrow ? 48 : 60), r: right ?? 36, t: 8, b: 44 },
    paper_bgcolor: colours.panel,
    plot_bgcolor: colours.panel,
    font: { family: colours.font, size: 12, color: colours.ink },
    showlegend: false,
    hovermode: "x unified",
    hoverdistance: 24,
    hoverlabel: {
      bgcolor: colours.panel,
      bordercolor: colours.quiet,
      font: { family: colours.font, size: 12, color: colours.ink },
      namelength: 28,
    },
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    xaxis: mergedAxis({ showgrid: false, ...x }),
    yaxis: mergedAxis({ fixedrange: true, ...y }),
    ...more,
  };
}

function stepAxis(state, element) {
  return {
    title: { text: "step" },
    range: [state.from, state.to],
    tickformat: ",d",
    ticks: "outside",
    ticklen: 4,
    tickangle: 0,
    dtick: state.to - state.from < 8 ? 1 : undefined,
    nticks: Math.max(3, Math.floor(widthOf(element) / 90)),
    unifiedhovertitle: { text: "step %{x:,d}" },
  };
}

// A line, and behind it the span from smallest to largest where a pixel stands for several steps.
function tracesOf(view, { name, colour, fill, width, dash, unit, band, notes }) {
  const { points, exact } = view;
  const noted = (text, i) => (notes && notes.has(i) ? `${text}<br>${notes.get(i)}` : text);
  const outline = exact || band === false ? { x: [], y: [] } : outlineOf(points);
  const traces = [
    {
      type: "scatter",
      mode: "lines",
      x: outline.x,
      y: outline.y,
      fill: "toself",
      fillcolor: fill,
      line: { color: fill, width: 1 },
      hoverinfo: "skip",
      connectgaps: false,
    },
    {
      type: "scatter",
      mode: points.length === 1 ? "markers" : "lines",
      name: plain(name),
      x: points.map((point) => point.x),
      y: points.map((point) => point.mid),
      customdata: points.map((point, i) =>
        exact || point.mid === null || point.low === point.high
          ? noted(short(point.mid) + (unit || ""), i)
          : noted(`${short(point.low)} to ${short(point.high)}${unit || ""}, median ${short(point.mid)}`, i),
      ),
      hovertemplate: "%{customdata}",
      line: { color: colour, width, dash },
      marker: { color: colour, size: 6 },
      connectgaps: band === false,
    },
  ];
  return traces;
}

// A logarithmic axis over what traces show: whole decades where there are several.
function logAxis(traces) {
  let low = Infinity;
  let high = 0;
  for (const { y, yaxis } of traces) {
    if (yaxis) continue;
    for (const value of y) {
      if (value > high) high = value;
      if (value !== null && value > 0 && value < low) low = value;
    }
  }
  return { type: "log", autorange: true, dtick: high / low > 50 ? Math.ceil(Math.log10(high / low) / 7) : undefined };
}

// Powers of ten between two logarithms, for axes that hold logarithms.
function decades(low, high) {
  const values = [];
  const texts = [];
  const span = high - low;
  const parts = span < 1.2 ? [1, 2, 3, 5, 7] : span < 2.5 ? [1, 2, 5] : span < 4 ? [1, 3] : [1];
  const each = Math.max(1, Math.ceil(span / 8));
  for (let power = Math.floor(low); power <= Math.ceil(high); power += each) {
    for (const part of parts) {
      const value = part * 10 ** power;
      if (Math.log10(value) < low - 1e-9 || Math.log10(value) > high + 1e-9) continue;
      values.push(Math.log10(value));
      texts.push(short(value));
    }
  }
  return { tickvals: values, ticktext: texts };
}
