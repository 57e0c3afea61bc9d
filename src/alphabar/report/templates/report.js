"use strict";
// Without this script all frames are shown one below the other, and a click unfolds a run. The script adds the slider.
(() => {
  const section = document.getElementById("trajectory");
  if (section) {
    const slider = document.getElementById("place"), position = document.getElementById("position"), play = document.getElementById("play");
    const last = Number(slider.max), runs = [...section.querySelectorAll(".runs > li")];
    const show = () => {
      const at = Number(slider.value);
      runs.forEach((run, k) => {
        const frames = run.querySelectorAll(".frames > li"), now = Math.round(at / (last || 1) * (frames.length - 1));
        frames.forEach((frame, j) => frame.classList.toggle("now", j === now));
        const words = frames[now].dataset.words;
        run.querySelector(".now-words").textContent = words;
        if (k === 0) slider.setAttribute("aria-valuetext", `${at + 1} of ${last + 1}: ${words}`);
      });
      position.textContent = `${at + 1} of ${last + 1}`;
    };
    let timer = 0;
    const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; };
    const step = () => { slider.value = Number(slider.value) + 1; show(); if (Number(slider.value) >= last) stop(); };
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (Number(slider.value) >= last) slider.value = 0;
      play.textContent = "Pause";
      timer = setInterval(step, 160);
      show();
    });
    slider.addEventListener("input", () => { stop(); show(); });
    section.classList.add("live");
    show();
  }
  const unfold = () => { // a link to a folded run opens it, also in browsers that do not do so themselves
    const target = location.hash && document.getElementById(location.hash.slice(1)), folded = target && target.closest("details.run");
    if (folded && !folded.open) { folded.open = true; target.scrollIntoView(); }
  };
  addEventListener("hashchange", unfold);
  unfold();
})();
