// What a chart shows of a column: the numbers themselves, or the smallest, the median and the largest of each pixel.

// The place of the first step that is not below a value.
function placeOf(steps, value) {
  let low = 0;
  let high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

function medianOf(values) {
  values.sort();
  const half = values.length >> 1;
  return values.length % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// Returns points {x, from, to, low, mid, high}; null where nothing is known. `positive` leaves out what a logarithmic
// axis has no place for. One more point on either side lets the lines leave the chart.
function viewOf(curves, column, from, to, width, positive) {
  const { steps } = curves;
  const { ratio } = column;
  const first = Math.floor(Math.max(0, placeOf(steps, from) - 1) / ratio);
  const end = Math.min(column.mid.length, Math.ceil((placeOf(steps, to) + 2) / ratio));
  const most = column.apart ? 2 * width : width;
  const group = end - first <= most ? 1 : Math.ceil((end - first) / width);
  const scratch = new Float32Array(group);
  const points = [];
  for (let start = Math.floor(first / group) * group; start < end; start += group) {
    const stop = Math.min(start + group, column.mid.length);
    let known = 0;
    let low = Infinity;
    let high = -Infinity;
    for (let i = start; i < stop; i++) {
      if (!(column.high[i] > (positive ? 0 : -Infinity))) continue;
      if (column.low[i] < low && (!positive || column.low[i] > 0)) low = column.low[i];
      if (column.high[i] > high) high = column.high[i];
      if (!positive || column.mid[i] > 0) scratch[known++] = column.mid[i];
    }
    const opening = start * ratio;
    const closing = Math.min(stop * ratio, steps.length);
    const last = closing >= steps.length ? curves.last : curves.apart ? steps[closing - 1] : steps[closing] - 1;
    points.push({
      x: steps[(opening + closing - 1) >> 1],
      from: steps[opening],
      to: last,
      low: high === -Infinity ? null : Math.min(low, high),
      mid: known ? medianOf(scratch.subarray(0, known)) : high === -Infinity ? null : high,
      high: high === -Infinity ? null : high,
    });
  }
  return { points, exact: group === 1 && column.apart };
}

// The outline of all columns, as polygons with gaps between them.
function outlineOf(points) {
  const x = [];
  const y = [];
  for (let i = 0; i < points.length; ) {
    if (points[i].mid === null) {
      i++;
      continue;
    }
    let end = i;
    while (end < points.length && points[end].mid !== null) end++;
    for (let j = i; j < end; j++) {
      x.push(points[j].x);
      y.push(points[j].high);
    }
    for (let j = end - 1; j >= i; j--) {
      x.push(points[j].x);
      y.push(points[j].low);
    }
    x.push(null);
    y.push(null);
    i = end;
  }
  return { x, y };
}
