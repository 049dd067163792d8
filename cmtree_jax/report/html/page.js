"use strict";
(() => {
  const root = document.body;
  const specs = JSON.parse(document.getElementById("figures").textContent);
  const places = [...document.querySelectorAll("[data-figure]")];

  /* Colours are names of the page's own, so that figures follow its theme. */
  function themed(value, style, isColor) {
    if (typeof value === "string") {
      return isColor && value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
    }
    if (Array.isArray(value)) return value.map((one) => themed(one, style, isColor));
    if (value && typeof value === "object") {
      return Object.fromEntries(
        Object.entries(value).map(([name, one]) => [name, themed(one, style, /color/.test(name))]),
      );
    }
    return value;
  }

  function layoutOf(spec, style) {
    const text = "--text", line = "--line";
    const base = {
      autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(root).fontFamily, size: 13, color: text },
      margin: { l: 56, r: 12, t: 8, b: 48 },
      hoverlabel: { bgcolor: "--card", bordercolor: line, font: { color: text, size: 13 }, align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: "--soft", activecolor: text },
      legend: { font: { size: 12.5 } },
    };
    const made = { ...base, ...spec.layout };
    const axis = { gridcolor: line, zerolinecolor: "--soft", linecolor: line, tickcolor: line };
    for (const name of ["xaxis", "yaxis", ...Object.keys(made).filter((key) => /^[xy]axis\d+$/.test(key))]) {
      made[name] = { ...axis, ...made[name] };
    }
    return themed(made, style);
  }

  function hasWebGL() {
    const canvas = document.createElement("canvas");
    return Boolean(canvas.getContext("webgl"));
  }
  const webgl = places.length > 0 && hasWebGL();

  /* Points know their leaf by its number; those without a text are told by it. */
  function told(trace, leaves) {
    const bytes = Uint8Array.from(atob(trace.leaf.bdata), (one) => one.charCodeAt(0));
    const numbers = [...new Int16Array(bytes.buffer)];
    trace.customdata = numbers.map((one) => leaves[one][0]);
    trace.text = numbers.map((one, i) => trace.text[i] || leaves[one][1]);
    delete trace.leaf;
  }

  /* The text of a tile is black or white, whichever stands out more against it: one of
     them always has the 4.5 to 1 of WCAG, 1.4.3. */
  function readable(trace) {
    const { colorscale, cmin, cmax, colors } = trace.marker;
    const scale = colorscale.map(([at, hex]) => [at, [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16))]);
    const inks = colors.map((one) => {
      const at = Math.min(1, Math.max(0, (one - cmin) / (cmax - cmin)));
      const high = Math.max(1, scale.findIndex(([end]) => at <= end));
      const [[begin, low], [end, up]] = [scale[high - 1], scale[high]];
      const [r, g, b] = low.map((x, i) => {
        const c = (x + ((up[i] - x) * (at - begin)) / (end - begin)) / 255;
        return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
      });
      const luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b;
      return (luminance + 0.05) ** 2 > 1.05 * 0.05 ? "#000000" : "#ffffff";
    });
    trace.insidetextfont = { color: inks };
  }

  function draw(place) {
    const spec = specs[place.dataset.figure];
    if (!spec || !place.offsetWidth) return;
    if (spec.narrow && place.offsetWidth < 600) place.style.height = `${spec.narrow}px`;
    const style = getComputedStyle(root);
    const data = themed(spec.data, style).map((trace) =>
      trace.type === "scattergl" && !webgl ? { ...trace, type: "scatter" } : trace,
    );
    for (const trace of data) if (trace.leaf) told(trace, spec.leaves);
    for (const trace of data) if (trace.type === "icicle") readable(trace);
    if (spec.shown) data[0].values = spec.switch[spec.shown];
    Plotly.react(place, data, layoutOf(spec, style), {
      responsive: true,
      displaylogo: false,
      /* Of the map alone; a narrow screen has fingers instead. */
      displayModeBar: Boolean(spec.leaves) && place.offsetWidth > 700,
      modeBarButtons: [["pan2d", "zoom2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
    });
    if (spec.nodes && !place.dataset.linked) {
      place.dataset.linked = "yes";
      place.on("plotly_click", (event) => choose(spec.nodes, event.points[0].customdata, true));
      place.on("plotly_icicleclick", (event) => {
        choose(spec.nodes, event.points[0].id, true);
        return false; /* no zoom */
      });
    }
  }
  const drawAll = () => places.forEach(draw);

  /* A node: its entry in the list is marked, and what it holds is shown beside. */
  function choose(list, path, reveal) {
    const entry = document.querySelector(`[data-node="${CSS.escape(`${list}:${path}`)}"]`);
    if (!entry) return;
    for (const one of document.querySelectorAll(`.node.chosen[data-node^="${CSS.escape(list)}:"]`)) {
      one.classList.remove("chosen");
    }
    entry.classList.add("chosen");
    const detail = document.querySelector(`[data-detail="${CSS.escape(list)}"]`);
    if (!detail) return;
    const title = document.createElement("h3");
    const text = (kind) => entry.querySelector(`summary ${kind}`).textContent;
    title.textContent = `${text(".path")} ${text(".weight")}: ${text(".terms")}`;
    detail.replaceChildren(title, entry.querySelector(".node-body").cloneNode(true));
    detail.scrollTop = 0;
    if (reveal && detail.getBoundingClientRect().top > innerHeight - 80) {
      detail.scrollIntoView({ block: "nearest" });
    }
  }
  for (const entry of document.querySelectorAll(".node")) {
    entry.addEventListener("toggle", () => {
      if (!entry.open) return;
      const [list, path] = entry.dataset.node.split(":");
      choose(list, path, false);
    });
  }
  for (const tree of document.querySelectorAll(".tree")) {
    tree.addEventListener("keydown", (event) => {
      const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!by || event.target.tagName !== "SUMMARY") return;
      const all = [...tree.querySelectorAll("summary")];
      const next = all[all.indexOf(event.target) + by];
      if (next) { next.focus(); event.preventDefault(); }
    });
  }

  for (const group of document.querySelectorAll("[data-for]")) {
    const name = group.dataset.for;
    for (const button of group.querySelectorAll("[data-switch]")) {
      button.addEventListener("click", () => {
        for (const one of group.querySelectorAll("[data-switch]")) {
          one.setAttribute("aria-pressed", String(one === button));
        }
        specs[name].shown = button.dataset.switch;
        draw(places.find((place) => place.dataset.figure === name));
      });
    }
  }

  for (const filter of document.querySelectorAll("[data-filter]")) {
    filter.hidden = false;
    filter.querySelector("input").addEventListener("input", (event) => {
      const wanted = event.target.value.trim().toLowerCase();
      for (const row of filter.parentElement.querySelectorAll("tbody tr")) {
        row.hidden = !row.textContent.toLowerCase().includes(wanted);
      }
    });
  }
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
  for (const fold of document.querySelectorAll("details:not(.node)")) {
    fold.addEventListener("toggle", () => fold.querySelectorAll("[data-figure]").forEach(draw));
  }

  const themes = ["as the system", "light", "dark"];
  const button = document.getElementById("theme");
  let theme = 0;
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = (theme + 1) % themes.length;
    root.classList.toggle("light", theme === 1);
    root.classList.toggle("dark", theme === 2);
    button.textContent = `Theme: ${themes[theme]}`;
    drawAll();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

  drawAll();
  for (const detail of document.querySelectorAll("[data-detail]")) {
    choose(detail.dataset.detail, detail.dataset.first, false);
  }
  document.documentElement.dataset.drawn = "yes"; /* for whoever waits for it */
})();
