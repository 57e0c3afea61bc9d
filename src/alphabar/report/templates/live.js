"use strict";
// The page of `alphabar export RUN --to page.html`: controls, tiles, and the workers that draw (live_worker.js).
(() => {
  const $ = (id) => document.getElementById(id), section = $("live"), about = JSON.parse(section.dataset.about);
  const [, h, w] = about.image_shape, H = h - 2 * about.padding, W = w - 2 * about.padding;
  const opened = performance.now(), TILES = 16, part = () => (state.gpu ? TILES : 4); // images of a job: several are faster than as many jobs of one; a GPU compiles for each number
  const scale = Math.max(1, Math.round(224 / W)); // of saved images
  const state = { seed: 0, first: 0, chosen: [0, 1], next: 0, job: 0, id: 0, queue: [], workers: [], finals: [], done: 0, since: 0 };
  const fit = () => about.samplers[$("calls").value];
  const say = (text) => { $("state").textContent = text; };
  const fail = (text) => { section.classList.add("dead"); say("The images cannot be drawn here: " + text); section.dataset.ready = "failed"; };

  // gzip -> bytes, from the page or from a file next to it
  async function bytes(id) {
    const at = $("blob-" + id);
    let body;
    if (at.dataset.src) body = (await fetch(at.dataset.src)).body;
    else {
      const text = at.textContent.trim(), raw = Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      at.textContent = "";
      body = new Blob([raw]).stream();
    }
    return new Response(body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  }

  const show = (canvas, rgba) => { canvas.width = W; canvas.height = H; canvas.getContext("2d").putImageData(new ImageData(rgba, W, H), 0, 0); };
  const address = (place) => {
    const of = { seed: state.seed, index: state.first + place, place };
    if (about.classes.length) of.label = $("class").value === "all" ? of.index % about.classes.length : Number($("class").value);
    return of;
  };
  const words = (of) => `image ${of.index} of seed ${of.seed}` + (of.label === undefined ? "" : `, ${about.classes[of.label] ?? "no class"}`);

  const tiles = Array.from({ length: TILES }, (_, place) => {
    const item = document.createElement("li"), button = document.createElement("button"), canvas = document.createElement("canvas");
    button.type = "button"; canvas.width = W; canvas.height = H;
    button.append(canvas); item.append(button); $("tiles").append(item);
    button.addEventListener("click", () => { state.chosen[state.next] = place; state.next = 1 - state.next; mark(); between(); });
    return { button, canvas };
  });
  function mark() {
    tiles.forEach(({ button }, place) => {
      const ends = ["A", "B"].filter((_, k) => state.chosen[k] === place).join("");
      if (ends) button.dataset.end = ends; else delete button.dataset.end;
      button.setAttribute("aria-label", words(address(place)) + (ends ? `, chosen as ${ends}` : ""));
    });
  }

  // Jobs wait in a queue, and each worker takes the next one; those of an earlier setting are dropped.
  function feed() {
    for (const worker of state.workers) {
      if (worker.busy || !worker.loaded || !state.queue.length) continue;
      worker.busy = state.queue.shift();
      worker.busy.id = ++state.id;
      worker.postMessage({ id: state.id, fit: worker.busy.fit, images: worker.busy.images });
    }
  }
  function renew(kind) { // drops the jobs of a kind and gives the number of the new ones
    state.queue = state.queue.filter((job) => job.kind !== kind);
    state.job += 1;
    for (const worker of state.workers) if (worker.busy && worker.busy.kind === kind) worker.postMessage({ cancel: worker.busy.id });
    return state.job;
  }
  function drawAll() {
    const job = renew("tiles"), places = tiles.map((_, k) => k), parts = state.gpu || state.workers.some((worker) => worker.warm) ? [] : [places.splice(0, 1)];
    while (places.length) parts.push(places.splice(0, part()));
    Object.assign(state, { current: job, finals: [], done: 0, since: performance.now() });
    $("tiles").setAttribute("aria-busy", "true");
    $("save").disabled = true;
    state.queue.unshift(...parts.map((part) => ({ kind: "tiles", job, fit: fit(), images: part.map(address) })));
    mark();
    between();
  }
  function between() {
    const [a, b] = state.chosen.map(address), t = $("between").value / 100, job = renew("between");
    $("between-words").textContent = `${Math.round(100 * t)} %`;
    $("between").setAttribute("aria-valuetext", `${Math.round(100 * t)} percent from A to B`);
    state.middle = job;
    $("from").setAttribute("aria-label", "A: " + words(a));
    $("to").setAttribute("aria-label", "B: " + words(b));
    state.queue.push({ kind: "between", job, fit: fit(), images: [{ ...a, to: b, between: t, place: "middle", label: t < 0.5 ? a.label : b.label }] });
    feed();
  }
  function received(worker, data) {
    if (!state.workers.includes(worker)) return;
    if (data.error) return failed(data.error);
    if (data.loaded) { worker.loaded = true; return feed(); }
    const job = worker.busy;
    if (data.done) { worker.busy = null; worker.warm = true; return feed(); }
    if (!job || data.id !== job.id) return;
    const last = data.step + 1 === job.fit.sigmas.length;
    if (job.kind === "between") {
      if (job.job === state.middle) { show($("middle"), data.found[0]); $("middle-words").textContent = last ? "between" : `call ${data.step + 1} of ${job.fit.sigmas.length}`; }
    } else if (job.job === state.current) {
      data.places.forEach((place, k) => {
        show(tiles[place].canvas, data.found[k]);
        state.chosen.forEach((chosen, end) => { if (chosen === place) show($(end ? "to" : "from"), data.found[k]); });
        if (last) state.finals[place] = data.found[k];
      });
      if (last) finished(data.places.length, job.fit);
    }
  }
  function finished(n, used) {
    const now = performance.now(), root = document.documentElement.dataset;
    root.first ??= Math.round(now - opened);
    state.done += n;
    const seconds = (now - state.since) / 1000, threads = state.workers.filter((worker) => worker.loaded).length;
    const where = state.gpu ? "the GPU" : `${threads} core${threads > 1 ? "s" : ""}`;
    if (state.done < TILES) return say(`${state.done} of ${TILES} images`);
    root.rate = (TILES / seconds).toFixed(2);
    section.dataset.ready = String(state.current);
    $("tiles").setAttribute("aria-busy", "false");
    $("save").disabled = false;
    say(`${TILES} images of ${used.sigmas.length} network call${used.sigmas.length > 1 ? "s" : ""} in ${seconds.toFixed(1)} s, ${(TILES / seconds).toFixed(1)} a second, on ${where}`);
    if (!state.grown) { state.grown = true; grow(); }
  }

  function controls() {
    const used = fit(), n = used.sigmas.length;
    $("calls-words").textContent = `${n}, ${used.name}`;
    $("calls").setAttribute("aria-valuetext", `${n} network call${n > 1 ? "s" : ""}, sampler ${used.name}`);
  }
  function save(canvas, name) {
    const link = document.createElement("a");
    canvas.toBlob((blob) => { link.href = URL.createObjectURL(blob); link.download = name; link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 10000); });
  }
  function enlarged(sources, columns) { // drawn side by side, each pixel a square
    const sheet = document.createElement("canvas"), g = sheet.getContext("2d"), rows = Math.ceil(sources.length / columns);
    sheet.width = columns * W * scale; sheet.height = rows * H * scale; g.imageSmoothingEnabled = false;
    sources.forEach((from, k) => g.drawImage(from, (k % columns) * W * scale, Math.floor(k / columns) * H * scale, W * scale, H * scale));
    return sheet;
  }
  $("calls").addEventListener("input", () => { controls(); drawAll(); });
  $("class")?.addEventListener("change", drawAll);
  $("more").addEventListener("click", () => { state.first += TILES; drawAll(); });
  $("seed").addEventListener("change", () => {
    const value = Math.floor(Number($("seed").value));
    state.seed = Number.isSafeInteger(value) && value >= 0 ? value : 0;
    $("seed").value = state.seed; state.first = 0;
    drawAll();
  });
  $("between").addEventListener("input", between);
  $("save").addEventListener("click", () => save(enlarged(tiles.map(({ canvas }) => canvas), 4), `seed${state.seed}-from${state.first}.png`));
  $("save-one").addEventListener("click", () => save(enlarged([$("middle")], 1), `between-${state.chosen.map((k) => state.first + k).join("-")}.png`));

  let source, files;
  function start() {
    const worker = new Worker(source);
    worker.onmessage = ({ data }) => received(worker, data);
    worker.onerror = (e) => received(worker, { error: e.message || "this browser starts no worker" });
    state.workers.push(worker);
    worker.postMessage({ about, provider: state.gpu ? "webgpu" : "wasm", ...files });
  }
  function grow() { // the other cores, once the first images are there
    const cores = Math.min(4, Math.max(1, (navigator.hardwareConcurrency || 2) - (about.parameters > 2e7 ? 2 : 0)));
    while (!state.gpu && state.workers.length < cores) start();
  }
  async function begin(gpu) {
    state.workers.forEach((worker) => worker.terminate());
    Object.assign(state, { gpu, workers: [] });
    try {
      const kind = gpu ? "_gpu" : "", [worker, model, wasm] = await Promise.all(["worker" + kind, "model", "wasm" + kind].map(bytes));
      source = URL.createObjectURL(new Blob([worker], { type: "text/javascript" }));
      files = { model, wasm };
      start();
      drawAll();
      say("Drawing …");
    } catch (e) { failed(String(e.message || e)); }
  }
  function failed(why) { // on a GPU: the processor can do the same
    if (state.gpu) { console.warn("WebGPU: " + why); return begin(false); }
    fail(typeof DecompressionStream === "undefined" ? "this browser is too old; use one of 2023 or later" : why);
  }
  async function adapter() { // a GPU, where the page has the files for one and WebAssembly can wait for its results
    if (!$("blob-wasm_gpu") || !("Suspending" in WebAssembly)) return null;
    return navigator.gpu?.requestAdapter().catch(() => null);
  }
  window.alphabarLive = { state, finals: () => state.finals.map((rgba) => Array.from(rgba)) };
  for (const id of ["from", "middle", "to"]) { $(id).width = W; $(id).height = H; }
  controls();
  mark();
  adapter().then((found) => begin(Boolean(found)));
})();
