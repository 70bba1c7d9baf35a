"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f7f7f", "#8b4513", "#6a3d9a", "#b2182b"];
const colour = (index, count) => count <= COLOURS.length ? COLOURS[index] : `hsl(${(index * 360 / count).toFixed(0)} ${index % 2 ? 85 : 55}% ${index % 3 ? 45 : 58}%)`;
// Plotly reads some HTML in texts: names must stay what they are.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const cut = (text, most = 34) => text.length > most ? `${text.slice(0, most - 1)}…` : text;
const number = (value, digits = 3) => value == null ? "" : value.toFixed(digits);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => element("option", { value, textContent: text })));
  if (chosen !== undefined) select.value = chosen;
}

// ---- Charts: drawn when they come into view, again when the colours change.

const drawers = new Map();
const shown = new Set();

function layout(extra = {}) {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue("--text").trim(), line = style.getPropertyValue("--line").trim();
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  const { xaxis, yaxis, ...others } = extra;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: text, size: 12 },
    margin: { l: 48, r: 12, t: 36, b: 40 }, legend: { orientation: "h", y: -0.25 }, hovermode: "closest",
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...others,
  };
}

function chart(target, make) {
  drawers.set(target, make);
  if (shown.has(target)) draw(target); else watcher.observe(target);
}

function draw(target) {
  const made = drawers.get(target)();
  if (!made) return Plotly.purge(target);
  Plotly.react(target, made.traces, layout(made.layout), { responsive: true, displaylogo: false, displayModeBar: false, ...made.config });
  target.removeAllListeners?.("plotly_click");
  if (made.click) target.on("plotly_click", (event) => made.click(event.points[0]));
}

function first(target) {
  if (shown.has(target)) return;
  shown.add(target);
  watcher.unobserve(target);
  draw(target);
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) first(entry.target);
}, { rootMargin: "200px" });
addEventListener("beforeprint", () => [...drawers.keys()].forEach(first));

const redraw = () => shown.forEach(draw);
const errors = (points) => ({ type: "data", symmetric: false, thickness: 1,
  array: points.map((one) => one.interval ? one.interval[1] - one.score : 0),
  arrayminus: points.map((one) => one.interval ? one.score - one.interval[0] : 0) });

byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

for (const target of document.querySelectorAll("[data-curve]")) {
  const one = data.curves[target.dataset.curve];
  const place = new Map(data.runs.map((run, index) => [run.name, index]));
  chart(target, () => ({
    traces: one.lines.map((line) => ({ x: line.x, y: line.y, name: plain(cut(line.run)), mode: line.x.length > 1 ? "lines" : "markers",
      line: { color: colour(place.get(line.run), place.size), width: 1.6 } })),
    layout: { title: { text: plain(one.title), font: { size: 14 } }, xaxis: { title: { text: "step" } }, showlegend: one.lines.length > 1 },
  }));
}

const models = [...new Set(data.rows.map((row) => row.model))];
const colourOf = (model) => colour(models.indexOf(model), models.length);

for (const target of document.querySelectorAll("[data-noise]")) {
  const one = data.robustness[target.dataset.noise];
  chart(target, () => ({
    traces: one.noise.map((line) => ({ x: line.points.map((point) => point.x), y: line.points.map((point) => point.score),
      error_y: errors(line.points), name: plain(cut(line.model)) + (line.area == null ? "" : `, area ${number(line.area)}`),
      line: { color: colourOf(line.model) } })),
    layout: { title: { text: plain(`${one.task}, ${one.protocol}`), font: { size: 14 } }, yaxis: { title: { text: "score" } },
      xaxis: { title: { text: "signal to noise, dB" }, autorange: "reversed" }, showlegend: true, legend: { orientation: "h", y: -0.42 },
      shapes: one.noise.map((line) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: line.clean.score, y1: line.clean.score,
        line: { dash: "dot", width: 1, color: colourOf(line.model) } })) },
  }));
}

for (const target of document.querySelectorAll("[data-others]")) {
  const one = data.robustness[target.dataset.others];
  chart(target, () => ({
    traces: one.others.map((bars) => ({ type: "bar", x: bars.points.map((point) => plain(point.name)), y: bars.points.map((point) => point.score),
      error_y: errors(bars.points), name: plain(cut(bars.model)), marker: { color: colourOf(bars.model) } })),
    layout: { title: { text: plain(`${one.task}, ${one.protocol}`), font: { size: 14 } }, barmode: "group", showlegend: true },
  }));
}

for (const target of document.querySelectorAll("[data-layers]")) {
  const one = data.layers[target.dataset.layers];
  chart(target, () => ({
    traces: one.lines.map((line) => ({ x: line.points.map((point) => point.x), y: line.points.map((point) => point.score),
      error_y: errors(line.points), name: plain(cut(line.model)), line: { color: colourOf(line.model) } })),
    layout: { title: { text: plain(`${one.task}, ${one.protocol}`), font: { size: 14 } }, xaxis: { title: { text: "layer" }, type: "category" },
      yaxis: { title: { text: "score" } }, showlegend: true },
  }));
}

// ---- The chosen clip.

function listen(media, text) {
  const box = byId("listen"), clip = media == null ? null : data.clips[media];
  box.hidden = false;
  byId("listen-text").textContent = clip ? text : `${text} (this clip is not on the page)`;
  byId("listen-image").hidden = byId("listen-audio").hidden = !clip;
  if (!clip) return byId("listen-audio").pause();
  Object.assign(byId("listen-image"), { src: clip.image, alt: `Spectrogram of ${text}` });
  byId("listen-audio").src = clip.audio;
  byId("listen-audio").play().catch(() => {});
}
byId("listen-close").addEventListener("click", () => {
  byId("listen-audio").pause();
  byId("listen").hidden = true;
});

// ---- Masks, similarity, attention.

if (data.views.length) {
  const canvas = byId("view-grid"), slider = byId("view-place");
  let drawn = 0, patch = 0;
  const view = () => data.views[byId("view-clip").value];
  const mode = () => document.querySelector("#view-mode input:checked").value;
  const bytes = new Map();
  const matrix = (one, name) => {
    if (!one[name]) return null;
    if (!bytes.has(one[name])) bytes.set(one[name], Uint8Array.from(atob(one[name]), (letter) => letter.charCodeAt(0)));
    return bytes.get(one[name]);
  };
  const SHADES = ["", "rgba(120,190,255,.45)", "rgba(255,140,40,.75)", "rgba(20,20,24,.85)"];
  const NAMES = ["context", "visible, left out by the budget", "target", "hidden"];

  const paint = () => {
    const one = view(), [time, freq] = mode() === "masks" ? one.grid : one.tokens ?? one.grid;
    const masks = data.masks[one.run] ?? [], place = masks[slider.value];
    const box = canvas.getBoundingClientRect(), scale = devicePixelRatio || 1;
    canvas.width = Math.max(1, box.width * scale); canvas.height = Math.max(1, box.height * scale);
    const brush = canvas.getContext("2d"), width = canvas.width / time, height = canvas.height / freq;
    const codes = mode() === "masks" && place ? place.draws[drawn % place.draws.length] : null;
    const values = mode() === "masks" ? null : matrix(one, mode());
    patch = Math.min(patch, time * freq - 1);
    for (let t = 0; t < time; t++) for (let f = 0; f < freq; f++) {
      const token = t * freq + f, x = t * width, y = (freq - 1 - f) * height;
      if (codes) brush.fillStyle = SHADES[codes[token]] || "rgba(0,0,0,0)";
      else brush.fillStyle = values ? `rgba(10,10,14,${(.92 * (1 - values[patch * time * freq + token] / 255)).toFixed(3)})` : "rgba(0,0,0,0)";
      brush.fillRect(x, y, width, height);
      brush.strokeStyle = "rgba(255,255,255,.22)"; brush.lineWidth = scale / 2;
      brush.strokeRect(x, y, width, height);
    }
    if (values) {
      brush.strokeStyle = "#40ff80"; brush.lineWidth = 2.5 * scale;
      brush.strokeRect(Math.floor(patch / freq) * width, (freq - 1 - patch % freq) * height, width, height);
    }
    slider.closest("label").hidden = mode() !== "masks" || masks.length < 2;
    byId("view-again").hidden = mode() !== "masks" || masks.length === 0;
    const [t, f] = [Math.floor(patch / freq), patch % freq];
    const where = `patch at ${number(t / time * one.seconds, 2)} s, ${f + 1} of ${freq} from below`;
    const text = codes ? place.title : values ? `${mode()} to the ${where}` : mode() === "masks" ? "this system hides no patches" : `no ${mode()} is kept for this clip`;
    byId("view-text").textContent = text;
    canvas.setAttribute("aria-label", `Patches of ${one.name}: ${text}`);
    byId("view-legend").replaceChildren(...(codes ? NAMES.flatMap((name, code) => {
      const swatch = element("span", { className: "swatch" });
      swatch.style.background = SHADES[code] || "transparent";
      return [element("span", { className: "key" }, swatch, name), " "];
    }) : values ? ["Bright: alike or attended to; dark: not."] : []));
  };
  const choose = () => {
    const one = view();
    Object.assign(byId("view-image"), { src: one.image, alt: `Log-mel spectrogram of ${one.name}` });
    byId("view-audio").src = one.audio;
    slider.max = Math.max(0, (data.masks[one.run] ?? []).length - 1);
    paint();
  };
  const move = (event) => {
    const one = view(), [time, freq] = one.tokens ?? one.grid;
    const step = { ArrowRight: freq, ArrowLeft: -freq, ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    if (patch + step >= 0 && patch + step < time * freq) patch += step;
    paint();
  };
  options(byId("view-clip"), data.views.map((one, index) => [index, `${one.run}: ${one.name}`]));
  byId("view-clip").addEventListener("change", choose);
  byId("view-mode").addEventListener("change", paint);
  slider.addEventListener("input", paint);
  byId("view-again").addEventListener("click", () => { drawn += 1; paint(); });
  canvas.addEventListener("keydown", move);
  canvas.addEventListener("click", (event) => {
    const one = view(), [time, freq] = one.tokens ?? one.grid, box = canvas.getBoundingClientRect();
    const t = Math.floor((event.clientX - box.left) / box.width * time), f = freq - 1 - Math.floor((event.clientY - box.top) / box.height * freq);
    patch = Math.max(0, Math.min(time - 1, t)) * freq + Math.max(0, Math.min(freq - 1, f));
    if (mode() === "masks" && one.similarity) document.querySelector("#view-mode input[value=similarity]").checked = true;
    paint();
  });
  new ResizeObserver(paint).observe(canvas);
  choose();
}

// ---- The table of scores.

if (data.rows.length) {
  const span = (interval) => interval ? `${number(interval[0])} to ${number(interval[1])}` : "";
  const COLUMNS = [
    ["Task", (row) => row.task], ["Protocol", (row) => row.protocol],
    ["Model", (row) => row.layer && row.layer !== "last" && data.layers.length ? `${row.model} (${row.layer})` : row.model],
    ["Score", (row) => row.score, "number"], ["95 % interval", (row) => row.interval?.[0] ?? -1, "number"],
    ["Over the baseline", (row) => row.baseline?.difference ?? -9, "number"],
    ["Seeds", (row) => row.seeds ?? 0, "number"], ["Clips", (row) => row.clips ?? 0, "number"], ["Remarks", (row) => (row.notes ?? []).join("; ")],
  ];
  let sorted = null, rising = true;
  const cell = (row, index) => {
    if (index === 3) return [number(row.score) + (row.best ? " ★" : ""), row.best ? "number best" : "number", row.best ? "best beyond the interval" : row.metric];
    if (index === 4) return [row.interval ? span(row.interval) : row.spread != null ? `± ${number(row.spread)}` : "", "number", row.method ?? ""];
    if (index === 5) return [row.baseline ? `${row.baseline.difference >= 0 ? "+" : ""}${number(row.baseline.difference)} (${span(row.baseline.interval)})` : "", "number",
      row.baseline ? `over ${row.baseline.name}, p = ${row.baseline.p.toPrecision(2)}` : ""];
    if (index === 8) return [row.published ? `published: ${row.published}` : (row.notes ?? []).join("; "), "", ""];
    const value = COLUMNS[index][1](row);
    return [value === 0 ? "" : value.toLocaleString?.("en") ?? value, COLUMNS[index][2] ?? "", ""];
  };
  const show = () => {
    const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const task = byId("filter-task").value, protocol = byId("filter-protocol").value;
    let rows = data.rows.filter((row) => (!task || row.task === task) && (!protocol || row.protocol === protocol)
      && (!row.published || byId("filter-published").checked)
      && words.every((word) => `${row.task} ${row.protocol} ${row.model}`.toLowerCase().includes(word)));
    if (sorted !== null) {
      const value = COLUMNS[sorted][1];
      rows = rows.map((row, place) => [row, place]).sort(([one, a], [two, b]) => {
        const [first, second] = [value(one), value(two)];
        const order = typeof first === "number" ? first - second : String(first).localeCompare(String(second));
        return (rising ? order : -order) || a - b;
      }).map(([row]) => row);
    }
    document.querySelector("#table tbody").replaceChildren(...rows.map((row) => element("tr", { className: row.published ? "published" : "" },
      ...COLUMNS.map((_, index) => {
        const [text, className, title] = cell(row, index);
        return element("td", { textContent: text, className, title });
      }))));
    document.querySelectorAll("#table thead th").forEach((head, index) => head.setAttribute("aria-sort", index !== sorted ? "none" : rising ? "ascending" : "descending"));
    byId("table-count").textContent = `${rows.length} of ${data.rows.length} rows`;
  };
  document.querySelector("#table thead").append(element("tr", {}, ...COLUMNS.map(([title], index) => {
    const button = element("button", { type: "button", textContent: title });
    button.addEventListener("click", () => {
      rising = sorted === index ? !rising : !COLUMNS[index][2];
      sorted = index;
      show();
    });
    return element("th", { scope: "col", className: COLUMNS[index][2] ?? "" }, button);
  })));
  const all = (name) => [["", "all"], ...[...new Set(data.rows.map((row) => row[name]))].map((value) => [value, value])];
  options(byId("filter-task"), all("task"));
  options(byId("filter-protocol"), all("protocol"));
  for (const id of ["filter", "filter-task", "filter-protocol", "filter-published"]) byId(id).addEventListener("input", show);
  show();
}

// ---- Classes and clips.

if (data.tasks.length) {
  const MOST_ROWS = 300;
  const section = () => data.tasks[byId("task").value];
  const model = () => section().models[byId("model").value];
  const names = (one, labels) => labels.map((label) => one.classes[label]).join(", ");

  const list = () => {
    const one = section(), chosen = model(), which = byId("clips-which").value;
    const truth = byId("clips-truth").value, answer = byId("clips-answer").value;
    const pair = which.startsWith("pair ") ? which.slice(5).split(" ").map(Number) : null;
    const places = one.clips.map((_, place) => place).filter((place) =>
      (truth === "" || one.truth[place].includes(Number(truth))) && (answer === "" || chosen.answers[place] === Number(answer))
      && (which !== "errors" || !chosen.right[place]) && (which !== "right" || chosen.right[place])
      && (!pair || one.models[pair[0]].right[place] !== one.models[pair[1]].right[place]));
    const models = pair ? pair.map((index) => one.models[index]) : [chosen];
    document.querySelector("#clips thead").replaceChildren(element("tr", {}, ...["Listen", "Clip", "Truth", ...models.map((its) => its.name), "Split"].map((text) => element("th", { scope: "col", textContent: text }))));
    document.querySelector("#clips tbody").replaceChildren(...places.slice(0, MOST_ROWS).map((place) => {
      const text = `${one.clips[place]}: ${names(one, one.truth[place])}; ${models.map((its) => `${its.name} says ${one.classes[its.answers[place]]}`).join(", ")}`;
      const button = element("button", { type: "button", textContent: one.media[place] == null ? "–" : "▶", title: one.media[place] == null ? "not on the page" : "listen" });
      button.setAttribute("aria-label", `Listen to ${one.clips[place]}`);
      button.addEventListener("click", () => listen(one.media[place], text));
      return element("tr", {}, element("td", {}, button), element("td", { textContent: one.clips[place] }), element("td", { textContent: names(one, one.truth[place]) }),
        ...models.map((its) => element("td", { textContent: one.classes[its.answers[place]], className: its.right[place] ? "" : "best" })), element("td", { textContent: one.splits[place] }));
    }));
    byId("clips-count").textContent = `${places.length} of ${one.clips.length} clips` + (places.length > MOST_ROWS ? `; the first ${MOST_ROWS} are listed` : "");
  };

  const matrix = () => {
    const one = section(), chosen = model(), count = one.classes.length;
    if (!one.matrix) return null;
    const counts = one.classes.map(() => new Array(count).fill(0));
    one.truth.forEach((labels, place) => { counts[labels[0]][chosen.answers[place]] += 1; });
    const shares = counts.map((row) => { const sum = row.reduce((a, b) => a + b, 0); return row.map((value) => sum ? value / sum : 0); });
    const labels = one.classes.map((name) => plain(cut(name, 18)));
    const style = getComputedStyle(document.documentElement);
    const shades = [[0, style.getPropertyValue("--card").trim()], [1, style.getPropertyValue("--accent").trim()]];
    return {
      traces: [{ type: "heatmap", z: shares, x: one.classes.map((_, index) => index), y: one.classes.map((_, index) => index), colorscale: shades, zmin: 0, zmax: 1, text: counts,
        hovertext: counts.map((row, t) => row.map((value, a) => `${plain(one.classes[t])} heard as ${plain(one.classes[a])}: ${value}`)), hoverinfo: "text",
        ...(count <= 12 ? { texttemplate: "%{text}" } : {}), colorbar: { thickness: 10 } }],
      layout: { title: { text: plain(`${chosen.name}: ${one.task}`), font: { size: 14 } },
        xaxis: { title: { text: "answer" }, tickvals: one.classes.map((_, index) => index), ticktext: labels, tickangle: -60, tickfont: { size: count > 25 ? 8 : 11 } },
        yaxis: { title: { text: "truth" }, tickvals: one.classes.map((_, index) => index), ticktext: labels, autorange: "reversed", tickfont: { size: count > 25 ? 8 : 11 } } },
      click: (point) => { byId("clips-which").value = "all"; byId("clips-truth").value = point.y; byId("clips-answer").value = point.x; list(); byId("clips").scrollIntoView({ block: "nearest" }); },
    };
  };

  const classes = () => {
    const one = section(), most = 60;
    const order = one.classes.map((_, index) => index).filter((index) => model().classes[index].clips)
      .sort((a, b) => model().classes[a].f1 - model().classes[b].f1).slice(0, most);
    return {
      traces: one.models.map((its, place) => ({ type: "bar", orientation: "h", x: order.map((index) => its.classes[index].f1), y: order.map((_, place) => place), name: plain(cut(its.name)),
        visible: one.models.length > 3 && place !== Number(byId("model").value) ? "legendonly" : true, marker: { color: colour(place, one.models.length) },
        text: order.map((index) => `${plain(one.classes[index])}: F1 ${number(its.classes[index].f1)}, precision ${number(its.classes[index].precision)}, recall ${number(its.classes[index].recall)}, ${its.classes[index].clips} clips`), hoverinfo: "text+name", textposition: "none" })),
      layout: { title: { text: "F1 by class, the hardest first", font: { size: 14 } }, xaxis: { range: [0, 1] }, bargap: 0.15,
        yaxis: { tickvals: order.map((_, place) => place), ticktext: order.map((index) => plain(cut(one.classes[index], 22))), autorange: "reversed", tickfont: { size: order.length > 25 ? 8 : 11 } }, showlegend: one.models.length > 1 },
    };
  };

  const pairs = () => {
    const one = section();
    byId("pairs").replaceChildren();
    if (!one.pairs.length) return;
    const rows = one.pairs.map((pair) => {
      const [first, second] = pair.models.map((index) => one.models[index].name);
      const button = element("button", { type: "button", textContent: "list clips" });
      button.setAttribute("aria-label", `List clips on which ${first} and ${second} differ`);
      button.addEventListener("click", () => { byId("clips-which").value = `pair ${pair.models.join(" ")}`; byId("clips-truth").value = byId("clips-answer").value = ""; list(); });
      return element("tr", {}, element("td", { textContent: first }), element("td", { textContent: pair.first, className: "number" }), element("td", { textContent: second }), element("td", { textContent: pair.second, className: "number" }),
        element("td", { textContent: pair.p < .001 ? "< 0.001" : number(pair.p), className: "number" }), element("td", {}, button));
    });
    const head = element("tr", {}, ...["Model", "only it is right", "Model", "only it is right", "McNemar's p", "Clips"].map((text) => element("th", { scope: "col", textContent: text, className: /right|p$/.test(text) ? "number" : "" })));
    const seeds = one.models.some((its) => its.seeds > 1) ? " Of models with several seeds, the first is shown." : "";
    const box = element("div", { className: "scroll short", tabIndex: 0 }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
    box.setAttribute("role", "region"); box.setAttribute("aria-label", "Models in pairs");
    byId("pairs").append(element("h3", { textContent: "Models in pairs" }), element("p", { className: "quiet", textContent: `Clips on which the two differ, and the exact test that such a split is chance.${seeds}` }), box);
  };

  const choose = () => {
    const one = section();
    const show = [["errors", "errors"], ["all", "all clips"], ["right", "right answers"],
      ...one.pairs.map((pair) => [`pair ${pair.models.join(" ")}`, `where ${pair.models.map((index) => one.models[index].name).join(" and ")} differ`])];
    options(byId("model"), one.models.map((its, index) => [index, `${its.name} (${number(its.score)})`]), one.models.length - 1);
    options(byId("clips-which"), show);
    const labels = [["", "any"], ...one.classes.map((name, index) => [index, name])];
    options(byId("clips-truth"), labels);
    options(byId("clips-answer"), labels);
    byId("matrix-figure").hidden = !one.matrix;
    pairs();
    update();
  };
  const update = () => { chart(byId("matrix"), matrix); chart(byId("classes"), classes); list(); };
  options(byId("task"), data.tasks.map((one, index) => [index, `${one.task}, ${one.protocol}`]));
  byId("task").addEventListener("change", choose);
  byId("model").addEventListener("change", update);
  for (const id of ["clips-which", "clips-truth", "clips-answer"]) byId(id).addEventListener("change", list);
  choose();
}

// ---- The map.

if (data.maps.length) {
  const show = () => {
    const one = data.maps[byId("map-which").value], by = byId("map-colour").value;
    const value = (place) => by === "right" ? { true: "right", false: "wrong" }[one.right[place]] ?? "not tested" : one[by][place] || "no label";
    const groups = new Map();
    one.x.forEach((_, place) => { const name = value(place); groups.has(name) ? groups.get(name).push(place) : groups.set(name, [place]); });
    const names = [...groups.keys()].sort();
    const fixed = { right: "#0072b2", wrong: "#d55e00", "not tested": "#9a9a9a" };
    return {
      traces: names.map((name, index) => { const places = groups.get(name); return { type: "scattergl", mode: "markers", name: plain(cut(name, 24)), customdata: places,
        x: places.map((place) => one.x[place]), y: places.map((place) => one.y[place]), hoverinfo: "text", text: places.map((place) => plain(`${one.names[place]}: ${one.label[place]}`)),
        marker: { size: one.x.length > 3000 ? 4 : 6, opacity: .8, color: by === "right" ? fixed[name] : colour(index, names.length) } }; }),
      layout: { title: { text: plain(`${one.model}, ${one.task}`), font: { size: 14 } }, xaxis: { visible: false }, yaxis: { visible: false, scaleanchor: "x" }, showlegend: names.length <= 60,
        legend: innerWidth < 700 ? { orientation: "h", y: -0.02, font: { size: 10 } } : { orientation: "v", x: 1.01, y: 1, font: { size: 11 } }, margin: { l: 8, r: 8, t: 36, b: 8 }, dragmode: "pan" },
      config: { scrollZoom: true },
      click: (point) => { const place = point.customdata; listen(one.media[place], `${one.names[place]}: ${one.label[place]} (${one.split[place]})`); },
    };
  };
  const update = () => chart(byId("map"), show);
  options(byId("map-which"), data.maps.map((one, index) => [index, `${one.task}, ${one.model}`]), data.maps.length - 1);
  byId("map-which").addEventListener("change", update);
  byId("map-colour").addEventListener("change", update);
  update();
}
