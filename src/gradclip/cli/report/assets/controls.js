// What is shown: the range of steps, scales and curves. Everything is a button, a box or a field, so keys reach it.

function stateOf(page) {
  const firsts = page.runs.filter((run) => run.curves.count).map((run) => run.curves.steps[0]);
  const lasts = page.runs.filter((run) => run.curves.count).map((run) => run.curves.last);
  const first = firsts.length ? Math.min(...firsts) : 0;
  const last = Math.max(first + 1, ...lasts);
  return {
    first,
    last,
    from: first,
    to: last,
    log: true,
    logCounts: false,
    before: true,
    after: page.runs.length === 1,
    threshold: true,
    runs: page.runs.map(() => true),
    policies: page.policies ? page.policies.names.map(() => true) : [],
  };
}

// Which charts a choice changes.
const OVER_STEPS = ["norms", "rate", "loss", "policies", "heat"];
const CHANGES = { log: ["norms"], before: ["norms"], after: ["norms"], threshold: ["norms"], logCounts: ["histogram"] };
CHANGES.runs = ["norms", "rate", "loss", "histogram"];
CHANGES.policies = ["policies"];

function startControls(page, state, redraw) {
  const fields = { from: document.getElementById("from"), to: document.getElementById("to") };
  const show = () => {
    fields.from.value = Math.round(state.from);
    fields.to.value = Math.round(state.to);
    document.getElementById("all").disabled = state.from === state.first && state.to === state.last;
  };
  // At least two steps, within the run; a range that hits an end keeps its width.
  const setRange = (from, to) => {
    const width = Math.max(2, Math.min(to - from, state.last - state.first));
    state.from = Math.min(Math.max(from, state.first), state.last - width);
    if (state.from < state.first) state.from = state.first;
    state.to = Math.min(state.from + width, state.last);
    show();
    return redraw(OVER_STEPS);
  };
  const zoom = (factor) => {
    const middle = (state.from + state.to) / 2;
    const half = ((state.to - state.from) * factor) / 2;
    return setRange(middle - half, middle + half);
  };
  const move = (share) => {
    const by = (state.to - state.from) * share;
    return setRange(state.from + by, state.to + by);
  };
  const actions = {
    closer: () => zoom(0.5),
    wider: () => zoom(2),
    earlier: () => move(-0.5),
    later: () => move(0.5),
    all: () => setRange(state.first, state.last),
  };
  for (const [id, action] of Object.entries(actions)) document.getElementById(id).addEventListener("click", action);
  for (const field of Object.values(fields)) {
    field.addEventListener("change", () => {
      const [from, to] = [Number(fields.from.value), Number(fields.to.value)];
      if (Number.isFinite(from) && Number.isFinite(to) && to > from) setRange(from, to);
      else show();
    });
  }
  for (const box of document.querySelectorAll("input[data-state]")) {
    const [name, place] = box.dataset.state.split(".");
    box.checked = place === undefined ? state[name] : state[name][place];
    box.addEventListener("change", () => {
      if (place === undefined) state[name] = box.checked;
      else state[name][place] = box.checked;
      redraw(CHANGES[name]);
    });
  }
  // Dragging over one chart zooms all that share its steps; a double click shows all again.
  for (const element of document.querySelectorAll("[data-chart]")) {
    element.on("plotly_relayout", (change) => {
      const [from, to] = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
      if (from !== undefined && to !== undefined) setRange(Number(from), Number(to));
    });
    element.on("plotly_doubleclick", () => setRange(state.first, state.last));
  }
  show();
}
