"use strict";
// Without this script the frames of a way stand one under the other, and the runs unfold by a click: it adds the slider.
(() => {
  const way = document.getElementById("way");
  if (way) {
    const place = document.getElementById("place"), told = document.getElementById("told"), play = document.getElementById("play");
    const last = Number(place.max), ways = [...way.querySelectorAll(".ways > li")];
    const show = () => {
      const at = Number(place.value);
      ways.forEach((one, k) => {
        const frames = one.querySelectorAll(".frames > li"), now = Math.round(at / (last || 1) * (frames.length - 1));
        frames.forEach((frame, j) => frame.classList.toggle("now", j === now));
        const words = frames[now].dataset.words;
        one.querySelector(".now-words").textContent = words;
        if (k === 0) place.setAttribute("aria-valuetext", `${at + 1} of ${last + 1}: ${words}`);
      });
      told.textContent = `${at + 1} of ${last + 1}`;
    };
    let timer = 0;
    const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; };
    const step = () => { place.value = Number(place.value) + 1; show(); if (Number(place.value) >= last) stop(); };
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (Number(place.value) >= last) place.value = 0;
      play.textContent = "Pause";
      timer = setInterval(step, 160);
      show();
    });
    place.addEventListener("input", () => { stop(); show(); });
    way.classList.add("live");
    show();
  }
  const unfold = () => { // a link to a folded run unfolds it, in browsers that do not do so by themselves
    const there = location.hash && document.getElementById(location.hash.slice(1)), fold = there && there.closest("details.run");
    if (fold && !fold.open) { fold.open = true; there.scrollIntoView(); }
  };
  addEventListener("hashchange", unfold);
  unfold();
})();
