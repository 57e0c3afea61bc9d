"use strict";
// Draws images in a worker of the page: the addressed noise of alphabar.core.seeds, the sampler of alphabar.sampling.fitted, and
// the network on ONNX Runtime Web, which stands before this file as `ort`.

// Philox4x64-10 (Salmon et al. 2011) with the key (seed, index) and the counter (0, 0, stream, draw), as NumPy's, in 32-bit words.
const hi32 = (a, b) => { // upper half of the product of two 32-bit words
  const a0 = a & 0xffff, a1 = a >>> 16, b0 = b & 0xffff, b1 = b >>> 16, p = a0 * b1, q = a1 * b0;
  return (a1 * b1 + (p >>> 16) + (q >>> 16) + ((((a0 * b0) >>> 16) + (p & 0xffff) + (q & 0xffff)) >>> 16)) >>> 0;
};
const product = (out, al, ah, bl, bh) => { // 64 x 64 -> 128 bits, four words, the lowest first
  const c1 = hi32(al, bl) + (Math.imul(ah, bl) >>> 0) + (Math.imul(al, bh) >>> 0);
  const c2 = hi32(ah, bl) + hi32(al, bh) + (Math.imul(ah, bh) >>> 0) + Math.floor(c1 / 2 ** 32);
  out[0] = Math.imul(al, bl); out[1] = c1; out[2] = c2; out[3] = hi32(ah, bh) + Math.floor(c2 / 2 ** 32);
};
const split = (v) => [v >>> 0, Math.floor(v / 2 ** 32)];

function words(seed, index, draw, stream) { // a function that gives the next 32-bit word
  const key = [...split(seed), ...split(index)], at = split(draw), c = new Uint32Array(8), p = new Uint32Array(4), q = new Uint32Array(4);
  let block = 0, left = 0;
  const make = () => {
    c.set([...split(++block), 0, 0, stream, 0, ...at]);
    let [k0, k1, k2, k3] = key;
    for (let round = 0; round < 10; round++) {
      product(p, c[0], c[1], 0xe14c6c93, 0xd2e7470e);
      product(q, c[4], c[5], 0x95121157, 0xca5a8263);
      const c2 = c[2], c3 = c[3], c6 = c[6], c7 = c[7];
      c[0] = q[2] ^ c2 ^ k0; c[1] = q[3] ^ c3 ^ k1; c[2] = q[0]; c[3] = q[1];
      c[4] = p[2] ^ c6 ^ k2; c[5] = p[3] ^ c7 ^ k3; c[6] = p[0]; c[7] = p[1];
      let sum = (k0 >>> 0) + 0x7f4a7c15; k1 = (k1 + 0x9e3779b9 + (sum >= 2 ** 32)) >>> 0; k0 = sum >>> 0;
      sum = (k2 >>> 0) + 0x84caa73b; k3 = (k3 + 0xbb67ae85 + (sum >= 2 ** 32)) >>> 0; k2 = sum >>> 0;
    }
    left = 8;
  };
  return () => { if (!left) make(); return c[8 - left--]; };
}

// Standard normal numbers by the ziggurat of Marsaglia & Tsang (2000) with 256 layers, as NumPy's for float32.
const R = 3.6541528853610088, AREA = 0.00492867323399, UNITS = 2 ** 23;
const inside = new Uint32Array(256), width = new Float32Array(256), height = new Float32Array(256);
{
  let x = R, y = Math.exp(-0.5 * R * R);
  inside[0] = R * y / AREA * UNITS; width[0] = AREA / y / UNITS; height[0] = 1;
  width[255] = R / UNITS; height[255] = y;
  for (let i = 254; i > 0; i--) {
    const next = Math.sqrt(-2 * Math.log(AREA / x + y));
    inside[i + 1] = next / x * UNITS; width[i] = next / UNITS; y = Math.exp(-0.5 * next * next); height[i] = y; x = next;
  }
  inside[1] = 0;
}
function normal(n, seed, index, draw, stream) {
  const f = Math.fround, out = new Float32Array(n), next = words(seed, index, draw, stream), unit = () => (next() >>> 8) / 2 ** 24;
  for (let k = 0; k < n; k++) {
    for (;;) {
      const r = next(), i = r & 255, m = r >>> 9, x = f(m * width[i]) * (r & 256 ? -1 : 1);
      if (m < inside[i]) { out[k] = x; break; }
      if (i > 0) {
        if (f(f(f(height[i - 1] - height[i]) * unit()) + height[i]) < Math.exp(-0.5 * x * x)) { out[k] = x; break; }
        continue;
      }
      let far, y;
      do { far = f(f(-1 / R) * f(Math.log1p(-unit()))); y = f(-Math.log1p(-unit())); } while (!(y + y > f(far * far)));
      out[k] = ((m >>> 8) & 1 ? -1 : 1) * (f(R) + far);
      break;
    }
  }
  return out;
}
const START = 0, STEP = 1; // streams

// Noise of one image; `between` goes from one address to another on the circle, which keeps its variance.
function noise(n, of, draw, stream) {
  const a = normal(n, of.seed, of.index, draw, stream);
  if (!of.to || !of.between) return a;
  const b = normal(n, of.to.seed, of.to.index, draw, stream), t = of.between * Math.PI / 2, c = Math.cos(t), s = Math.sin(t);
  return a.map((v, k) => c * v + s * b[k]);
}

// x_{i+1} = keep_i x_i + sum_j mix_ij x0_hat_j + fresh_i z_i (alphabar.sampling.fitted), for a batch of images side by side.
async function draw(denoise, fit, images, size, onStep) {
  const f = Math.fround, n = images.length, x = new Float32Array(n * size), estimates = [];
  const add = (i, stream, scale) => images.forEach((of, k) => {
    const z = noise(size, of, i, stream);
    for (let p = 0; p < size; p++) x[k * size + p] += f(scale * z[p]);
  });
  add(0, START, f(fit.sigmas[0]));
  for (let i = 0; i < fit.sigmas.length; i++) {
    const x0_hat = await denoise(x, fit.sigmas[i]);
    if (fit.clip) for (let p = 0; p < x0_hat.length; p++) x0_hat[p] = Math.min(fit.clip, Math.max(-fit.clip, x0_hat[p]));
    estimates.push(x0_hat);
    const keep = f(fit.keep[i]);
    for (let p = 0; p < x.length; p++) x[p] *= keep;
    fit.mix[i].forEach((value, j) => {
      const b = f(value), e = estimates[j];
      if (b) for (let p = 0; p < x.length; p++) x[p] += f(b * e[p]);
    });
    if (fit.fresh[i] > 0) add(i, STEP, f(fit.fresh[i]));
    if (!(await onStep(i, i + 1 < fit.sigmas.length ? x0_hat : x))) return;
  }
}

// x in [-1, 1], channels first, without the padding of the training -> RGBA pixels of one image.
function pixels(x, first, about) {
  const [c, h, w] = about.image_shape, cut = about.padding, H = h - 2 * cut, W = w - 2 * cut, out = new Uint8ClampedArray(4 * H * W);
  for (let r = 0; r < H; r++) for (let q = 0; q < W; q++) for (let k = 0; k < 4; k++) {
    const channel = c >= 3 ? k : k < 3 ? 0 : c === 2 ? 1 : 4; // grey, grey and alpha, colour, colour and alpha
    const v = channel < c ? x[first + (channel * h + r + cut) * w + q + cut] : 1;
    out[4 * (r * W + q) + k] = (Math.min(1, Math.max(-1, v)) + 1) * 127.5; // Uint8ClampedArray rounds halves to even
  }
  return out;
}

let ready, cancelled = 0;
async function load({ model, wasm, about, provider }) {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = wasm;
  const session = await ort.InferenceSession.create(new Uint8Array(model), {
    executionProviders: [provider], logSeverityLevel: 3,
    graphOptimizationLevel: provider === "wasm" ? "disabled" : "all", // of the processor they take 0.6 s and make no call faster
  });
  const size = about.image_shape.reduce((a, b) => a * b, 1);
  const denoise = (labels) => async (x, sigma) => {
    const n = x.length / size, feeds = { x: new ort.Tensor("float32", x, [n, ...about.image_shape]) };
    feeds.sigma = new ort.Tensor("float32", new Float32Array(n).fill(sigma), [n]);
    if (about.classes.length) feeds.labels = new ort.Tensor("int64", BigInt64Array.from(labels, BigInt), [n]);
    return (await session.run(feeds)).x0_hat.data;
  };
  return { denoise, size, about };
}
const breathe = () => new Promise((resolve) => setTimeout(resolve)); // so that a cancelled job ends between two calls
if (typeof ort !== "undefined") {
  onmessage = async ({ data }) => {
    try {
      if (data.about) { ready = load(data); await ready; return postMessage({ loaded: true }); }
      if (data.cancel) { cancelled = data.cancel; return; }
      const { denoise, size, about } = await ready;
      await draw(denoise(data.images.map((of) => of.label ?? 0)), data.fit, data.images, size, async (i, x) => {
        const found = data.images.map((_, k) => pixels(x, k * size, about));
        postMessage({ id: data.id, step: i, places: data.images.map((of) => of.place), found });
        await breathe();
        return cancelled !== data.id;
      });
      postMessage({ id: data.id, done: true });
    } catch (e) { postMessage({ error: String(e && e.message || e) }); }
  };
}
