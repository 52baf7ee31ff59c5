// Live numbers, and three small comforts. Every page works without them. Text of others is only ever set as textContent.
"use strict";

(() => {
  const url = document.body.dataset.live;
  const status = document.getElementById("live-status");
  let source = null;

  function draw(svg, series) {
    const most = Math.max(...series, 1);
    const step = 300 / Math.max(series.length - 1, 1);
    const points = series.map((value, at) => `${(at * step).toFixed(1)},${(72 - (value / most) * 64).toFixed(1)}`);
    if (points.length === 1) points.push(`300,${points[0].split(",")[1]}`);
    svg.querySelector(".curve").setAttribute("points", points.join(" "));
    svg.querySelector(".area").setAttribute("points", `0,76 ${points.join(" ")} 300,76`);
  }

  function show(update) {
    for (const place of document.querySelectorAll("[data-value]")) {
      const value = update.values[place.dataset.value];
      if (value !== undefined && place.textContent !== value) place.textContent = value;
    }
    for (const svg of document.querySelectorAll("[data-series]")) {
      const series = update.series[svg.dataset.series];
      if (series && series.length) draw(svg, series);
    }
    for (const hint of document.querySelectorAll("[data-names]")) {
      if (update.values.names !== undefined) hint.hidden = hint.dataset.names === update.values.names;
    }
    if (status && status.textContent !== update.problem) status.textContent = update.problem;
    if (status) status.hidden = !update.problem;
  }

  function open() {
    if (!url || source) return;
    source = new EventSource(url);
    source.onmessage = (event) => show(JSON.parse(event.data));
    source.addEventListener("out", () => { close(); location.reload(); });
    source.onerror = () => {
      if (status && source && source.readyState === EventSource.CLOSED) {
        status.textContent = "The figures are not updated any more. Reload the page.";
        status.hidden = false;
      }
    };
  }

  function close() {
    if (source) source.close();
    source = null;
  }

  // A browser has few connections for each server: a page that nobody sees leaves its own to the others.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", () => { if (!document.hidden) open(); });

  for (const all of document.querySelectorAll("[data-check-all]")) {
    all.closest("[hidden]")?.removeAttribute("hidden");
    all.addEventListener("change", () => {
      for (const box of document.querySelectorAll(`input[name="${CSS.escape(all.dataset.checkAll)}"]`)) box.checked = all.checked;
    });
  }

  for (const field of document.querySelectorAll("[data-filter]")) {
    field.closest("[hidden]")?.removeAttribute("hidden");
    const rows = document.querySelectorAll(`#${CSS.escape(field.dataset.filter)} tbody tr`);
    const count = document.getElementById("filter-count");
    field.addEventListener("input", () => {
      const wanted = field.value.trim().toLowerCase();
      let shown = 0;
      for (const row of rows) {
        row.hidden = !row.dataset.name.includes(wanted);
        if (!row.hidden) shown += 1;
      }
      if (count) count.textContent = wanted ? `${shown} of ${rows.length} shown` : "";
    });
  }
})();
