// Numbers out of text: see pack.py for the way in.

async function inflated(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The bytes come in planes, the first bytes of all numbers first.
async function unpacked(text, Kind) {
  const planes = await inflated(text);
  const size = Kind.BYTES_PER_ELEMENT;
  const count = planes.length / size;
  const bytes = new Uint8Array(planes.length);
  for (let plane = 0; plane < size; plane++) {
    for (let i = 0, from = plane * count; i < count; i++) bytes[i * size + plane] = planes[from + i];
  }
  return new Kind(bytes.buffer);
}

async function stepsOf(text) {
  const steps = await unpacked(text, Float64Array);
  for (let i = 1; i < steps.length; i++) steps[i] += steps[i - 1];
  return steps;
}

// A column: low, mid and high are one array where every step is kept apart.
async function columnOf(packed, base, like) {
  const read = async (part) => {
    const values = await unpacked(packed[part], Float32Array);
    if (!packed.like) return values;
    const bits = new Int32Array(values.buffer);
    const others = new Int32Array(like[part].buffer);
    for (let i = 0; i < bits.length; i++) bits[i] ^= others[i];
    return values;
  };
  const mid = await read("mid");
  const apart = !("low" in packed);
  const low = apart ? mid : await read("low");
  const high = apart ? mid : await read("high");
  return { ratio: packed.bucket / base, apart, low, mid, high };
}

// Curves over common steps.
async function curvesOf(packed, names) {
  const curves = { steps: await stepsOf(packed.steps), last: packed.last, count: packed.count, apart: packed.bucket === 1 };
  for (const name of names) {
    if (packed[name]) curves[name] = await columnOf(packed[name], packed.bucket, curves.before);
  }
  return curves;
}
