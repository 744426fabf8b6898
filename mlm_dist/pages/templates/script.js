// Values under the pointer. Without this script, the browser shows the titles of the strips after a moment.
for (const figure of document.querySelectorAll("figure.chart")) {
  const tip = figure.appendChild(document.createElement("output"));
  tip.className = "tip";
  tip.hidden = true;
  for (const svg of figure.querySelectorAll("svg")) {
    const strips = [...svg.querySelectorAll(".strip")];
    for (const strip of strips) {
      const title = strip.querySelector("title");
      strip.dataset.text = title.textContent;
      title.remove();
    }
    const hide = () => {
      tip.hidden = true;
      for (const strip of strips) strip.classList.remove("shown");
    };
    const show = (event) => {
      hide();
      const strip = event.target.closest(".strip");
      if (!strip) return;
      strip.classList.add("shown");
      tip.textContent = strip.dataset.text;
      tip.hidden = false;
      const at = strip.getBoundingClientRect(), box = figure.getBoundingClientRect();
      const middle = at.left + at.width / 2 - box.left;
      const left = middle + 12 + tip.offsetWidth > box.width ? middle - 12 - tip.offsetWidth : middle + 12;
      tip.style.left = Math.max(left, 0) + "px";
      tip.style.top = at.top - box.top + "px";
    };
    svg.addEventListener("pointermove", show);
    svg.addEventListener("pointerdown", show);
    svg.addEventListener("pointerleave", hide);
  }
}
