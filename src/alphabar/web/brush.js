// The brush of the tab Restore. The mask is what is painted on the canvas of #brush, which has a pixel for each of the picture.
() => {
  const at = (selector) => document.querySelector(selector);
  const canvas = () => at("#brush canvas");
  const file = { of: null, data: "" }; // a picture from disk, and the canvas that it was chosen for
  let last = null; // where the stroke is
  const fill = (x, y, w, h, erase) => {
    const pen = canvas().getContext("2d", { willReadFrequently: true });
    pen.fillStyle = "#ff8c1a";
    erase ? pen.clearRect(x, y, w, h) : pen.fillRect(x, y, w, h);
  };
  const dot = (x, y) => {
    const size = Number(at("#brush-size").value);
    for (let i = Math.floor(y - size / 2); i <= y + size / 2; i++)
      for (let j = Math.floor(x - size / 2); j <= x + size / 2; j++)
        if ((j + 0.5 - x) ** 2 + (i + 0.5 - y) ** 2 <= Math.max(0.5, (size / 2) ** 2)) fill(j, i, 1, 1, at("#brush-erase").checked);
  };
  const line = (event, from) => { // to where the pointer is now, which is returned
    const c = canvas(), box = c.getBoundingClientRect();
    const to = [((event.clientX - box.left) / box.width) * c.width, ((event.clientY - box.top) / box.height) * c.height];
    const [x, y] = from ?? to, n = Math.ceil(2 * Math.hypot(to[0] - x, to[1] - y)) || 1;
    for (let k = 1; k <= n; k++) dot(x + ((to[0] - x) * k) / n, y + ((to[1] - y) * k) / n);
    return to;
  };
  document.addEventListener("pointerdown", (event) => {
    if (!canvas() || event.target !== canvas()) return;
    last = line(event, null);
    event.preventDefault();
  });
  document.addEventListener("pointermove", (event) => last && canvas() && (last = line(event, last)));
  document.addEventListener("pointerup", () => (last = null));
  document.addEventListener("click", (event) => {
    const shape = event.target.dataset?.fill, c = canvas();
    if (!shape || !c) return;
    fill(0, 0, c.width, c.height, true);
    const [w, h] = [c.width, c.height], [a, b] = [w >> 2, h >> 2];
    if (shape === "box") fill(a, b, w - 2 * a, h - 2 * b, false);
    if (shape === "half") fill(w >> 1, 0, w - (w >> 1), h, false);
  });
  document.addEventListener("change", (event) => {
    const chosen = event.target.id === "brush-file" && event.target.files[0];
    if (!chosen || !canvas()) return;
    const reader = new FileReader();
    reader.onload = () => {
      const picture = new Image(), c = canvas();
      picture.onload = () => {
        const fits = picture.naturalWidth === c.width && picture.naturalHeight === c.height;
        at("#brush-note").textContent = fits ? "" :
          `Your picture has ${picture.naturalHeight} x ${picture.naturalWidth} pixels (height x width), and this run makes ` +
          `${c.height} x ${c.width}.`;
        if (!fits) return;
        c.parentElement.querySelector("img")?.remove();
        picture.alt = "your picture";
        c.before(picture);
        c.closest("figure").querySelector("figcaption").textContent = `your picture, ${chosen.name}`;
        Object.assign(file, { of: picture, data: reader.result });
      };
      picture.onerror = () => (at("#brush-note").textContent = "Your browser cannot show that file.");
      picture.src = reader.result;
    };
    reader.readAsDataURL(chosen);
    event.target.value = "";
  });
  window.alphabarBrush = () => {
    const c = canvas();
    if (!c) return "";
    const { data } = c.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, c.width, c.height);
    let mask = "";
    for (let k = 3; k < data.length; k += 4) mask += data[k] ? "1" : "0";
    return JSON.stringify({ mask, file: file.of?.isConnected ? file.data : "" });
  };
}
