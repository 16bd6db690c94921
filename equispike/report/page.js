"use strict";
// The page: all numbers come from the data block; the slider says after which step.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.runs, STEPS = DATA.steps, LAST = STEPS[STEPS.length - 1];
RUNS.forEach((run, n) => { run.n = n; });
const shortest = Math.min(...RUNS.map((run) => run.steps[run.steps.length - 1]));
const SPLIT = [...new Set(RUNS.map((run) => run.split))].join(" and ");
// Of many runs, lines have the colour of a setting, and charts stand side by side for the values of another.
const MANY = RUNS.length > 8 && DATA.settings.length > 0, SETTINGS = DATA.settings;
const state = { at: STEPS.indexOf(shortest), run: 0, cost: 0, colours: 0, beside: SETTINGS.length > 1 ? 1 : -1 };
const updates = []; // called when the step, the run or the costs change
const T = () => STEPS[state.at];
const find = document.getElementById("find");
// Runs whose names hold every word of the filter; all of them where none does.
function visible() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = RUNS.filter((run) => words.every((word) => run.label.toLowerCase().includes(word)));
  return found.length ? found : RUNS;
}

// A run's number after step T: null behind its last step; between two of its steps, that of the earlier one.
function place(run, t = T()) {
  if (t > run.steps[run.steps.length - 1]) return -1;
  let n = -1;
  while (n + 1 < run.steps.length && run.steps[n + 1] <= t) n++;
  return n;
}
const now = (run, series) => { const n = place(run); return n < 0 || !series ? null : series[n]; };
const series = (run, values) => run.steps.map((t, n) => [t, values[n]]);

const fixed = (digits) => (v) => v.toFixed(digits);
const integer = (v) => Math.round(v).toLocaleString("en");
const percent = (v) => (100 * v).toFixed(1);
const signed = (v) => (Math.abs(v) < 0.005 ? "0.00" : (v > 0 ? "+" : "−") + Math.abs(v).toFixed(2));
const digits = (v) => (v === 0 ? "0" : Math.abs(v) >= 1e4 || Math.abs(v) < 1e-3 ? v.toExponential(1).replace("e+", "e") : String(Number(v.toPrecision(3))));
const prefixes = [[1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"], [1e-12, "p"]];
const joules = (v) => { const [size, name] = prefixes.find(([s]) => v >= s) || prefixes[4]; return `${Number((v / size).toPrecision(3))} ${name}J`; };
const counted = (v) => { const [size, name] = [[1e9, " G"], [1e6, " M"], [1e3, " k"], [1, ""]].find(([s]) => v >= s) || [1, ""]; return `${Number((v / size).toPrecision(3))}${name}`; };
const plural = (n, word) => `${integer(n)} ${word}${n === 1 ? "" : "s"}`;
const lost = (run) => { const a = now(run, run.accuracy); return a === null ? null : 100 * (a - run.trained); };

function bestNow() {
  const here = RUNS.filter((run) => place(run) >= 0);
  // of those that keep as much, the one that arrives first
  const better = (run, best) => lost(run) > lost(best) + 1e-9 || (lost(run) > lost(best) - 1e-9 && (run.latency ?? Infinity) < (best.latency ?? Infinity));
  return here.reduce((best, run) => (better(run, best) ? run : best), here[0]);
}
const soonest = () => RUNS.reduce((best, run) => ((run.latency ?? Infinity) < (best.latency ?? Infinity) ? run : best), bestNow());

function sentence() {
  const best = bestNow(), first = RUNS[0], change = lost(best);
  const same = RUNS.every((run) => run.network === first.network);
  const what = RUNS.length === 1 ? `The trained network ${first.network} was converted to spikes with ${first.label}.`
    : same ? `The trained network ${first.network} was converted to spikes in ${RUNS.length} ways.`
      : `Trained networks were converted to spikes in ${RUNS.length} ways.`;
  const who = RUNS.length === 1 ? "it" : `the one that keeps most, ${best.label},`;
  const images = Math.round((Math.abs(change) * best.images) / 100), more = change < 0 ? "fewer" : "more";
  const verdict = images === 0 ? "nothing is lost" : `${plural(images, "image")} ${more}, a ${change < 0 ? "loss" : "gain"} of ${Math.abs(change).toFixed(1)} points`;
  return `${what} After ${plural(T(), "step")} ${who} is right on ${percent(now(best, best.accuracy))}\u00a0% of ` +
    `${plural(best.images, `${SPLIT} image`)} (${best.data}); the trained network is right on ${percent(best.trained)}\u00a0%: ${verdict}.`;
}

// A figure that is drawn again whenever its width or the state changes.
function figure(title, caption, draw, file) {
  const holder = el("div"), text = el("span", {}, caption);
  const node = el("figure", {}, el("div", { class: "head" }, el("h3", {}, title),
    el("button", { type: "button", class: "quiet", onclick: () => saveSvg(holder.querySelector("svg"), file), "aria-label": `Save SVG: ${title}` }, "Save SVG")), holder, el("figcaption", {}, text));
  let width = 0;
  const update = () => {
    if (!width) return;
    const { svg, legend: below } = draw(width, title);
    holder.replaceChildren(...[svg, below].filter(Boolean));
  };
  new ResizeObserver(([entry]) => {
    const wide = Math.floor(entry.contentRect.width);
    if (wide && wide !== width) { width = wide; update(); }
  }).observe(holder);
  updates.push(update);
  return node;
}
const addTable = (options) => { const made = sortable(options); updates.push(made.update); return made.node; };
const slug = (title) => title.toLowerCase().replace(/[^a-z0-9]+/g, "-");
const section = (title, ...children) => el("section", { id: slug(title) }, el("h2", {}, title), children);
// The lines of some runs: each by its name, or, of many runs, by the setting that gives the colour.
function runLines(runs, points) {
  const by = SETTINGS[state.colours];
  return runs.map((run) => (MANY
    ? { name: run.settings[by.name], about: run.label, n: by.values.indexOf(run.settings[by.name]), dash: "", unnamed: true, width: 1.5, points: points(run) }
    : { name: run.label, n: run.n, points: points(run) }));
}
// One chart of all visible runs, or, of many, one for each value of a setting. draw(width, runs, heading) gives a chart.
function ofRuns(width, title, draw) {
  if (!MANY) return draw(width, visible(), "");
  const by = SETTINGS[state.colours], apart = SETTINGS[state.beside], runs = visible();
  const below = legend(by.values.map((value, n) => ({ name: `${by.name} ${value}`, n, dash: "" })));
  if (!apart) return { svg: draw(width, runs, "").svg, legend: below };
  const shown = apart.values.filter((value) => runs.some((run) => run.settings[apart.name] === value));
  const chart = (cell, value) => draw(cell, runs.filter((run) => run.settings[apart.name] === value), `${apart.name} ${value}: `);
  return { svg: grid(width, shown, 300, title, chart), legend: below };
}
function settingChoices() {
  if (!MANY) return null;
  const names = SETTINGS.map((setting) => setting.name);
  const colours = choice("Colours show", names, (n) => { state.colours = n; });
  const beside = choice("Side by side:", [...names, "all in one"], (n) => { state.beside = n; });
  beside.select.value = state.beside < 0 ? names.length : state.beside;
  return el("div", { class: "row" }, colours.node, beside.node, el("span", { class: "note" }, "Point at a line for its name and values."));
}
const stepsAxis = () => ({ low: 1, high: Math.max(LAST, 2), log: 2, label: "time-steps T", format: String });

function choice(label, options, pick) {
  const select = el("select", { onchange: (event) => { pick(Number(event.target.value)); refresh(); } },
    options.map((name, n) => el("option", { value: n }, name)));
  return { node: el("label", {}, `${label} `, select), select };
}
const runChoices = [];
function chooseRun(label, candidates) {
  const { node, select } = choice(label, RUNS.map((run) => run.label), (n) => { state.run = n; });
  [...select.options].forEach((option, n) => { option.disabled = !candidates(RUNS[n]); });
  runChoices.push(select);
  return node;
}

function summary() {
  const mixed = DATA.mixed.length > 0, many = RUNS.some((run) => run.top5);
  const columns = [
    { name: "conversion", word: true, value: (run) => run.label },
    ...(mixed ? [{ name: "data", word: true, value: (run) => run.data }, { name: "images", value: (run) => run.images, format: integer }] : []),
    { name: "reset", word: true, value: (run) => ({ subtract: "soft", zero: "hard" })[run.reset] || run.reset },
    { name: "trained, %", value: (run) => run.trained, format: (v) => (100 * v).toFixed(2) },
    { name: "as spikes, %", value: (run) => now(run, run.accuracy), format: (v) => (100 * v).toFixed(2) },
    { name: "95 % interval, %", value: (run) => now(run, run.interval)?.[0] ?? null, format: (v, run) => now(run, run.interval).map((end) => (100 * end).toFixed(1)).join(" to ") },
    ...(RUNS.some((run) => run.seeds.length > 1) ? [{ name: "± over seeds", value: (run) => (run.seeds.length > 1 ? now(run, run.std) : null), format: (v) => (100 * v).toFixed(2) }] : []),
    ...(many ? [{ name: "top 5, %", value: (run) => now(run, run.top5), format: (v) => (100 * v).toFixed(2) }] : []),
    { name: "change, points", value: lost, format: signed },
    { name: "spike rate, %", value: (run) => now(run, run.rate), format: fixed(2) },
    { name: "spikes per image", value: (run) => now(run, run.spikes), format: integer },
    { name: "within 1 point from step", value: (run) => run.latency },
  ];
  const notes = [];
  if (mixed) notes.push(el("p", { class: "warn" }, `These runs are of different ${DATA.mixed.join(", ")}. Compare their changes, not their accuracies.`));
  const left = RUNS.filter((run) => run.steps[run.steps.length - 1] < LAST);
  if (left.length) notes.push(el("p", { class: "note" }, `${plural(left.length, "run")} ended before step ${LAST}; behind its end a run shows –.`));
  const images = RUNS[0].images;
  return section("What was kept, and what was lost", notes,
    addTable({ columns, rows: visible, caption: "After T steps. Sort by any column.", best: (run) => RUNS.length > 1 && run === bestNow() }),
    el("p", { class: "note" }, `${mixed ? "" : `One image of ${integer(images)} is ${(100 / images).toFixed(2)} points; a few images more or fewer are chance. `}The interval is Wilson's, of the share of images that are right. The spike rate is the share of neurons that spike in a step. `,
      "Within 1 point: the first step after which the accuracy stays so close to the trained network's.",
      RUNS.length > 1 ? ` The row in bold keeps most at this T; it was picked on these ${SPLIT} images.` : null));
}

function curves() {
  const trained = [...new Set(RUNS.map((run) => run.trained))];
  const ceilings = trained.length > 3 ? [] : trained.map((a) => ({ name: `trained, ${percent(a)} %`, stroke: "var(--soft)", dash: "6 4", width: 1.5, points: [[1, 100 * a], [LAST, 100 * a]] }));
  const chart = (values, label, high, extra) => (width, title) => ofRuns(width, title, (wide, runs, heading) => lineChart(wide, {
    title, cursor: T(), x: stepsAxis(), y: { low: 0, high, label: heading + label, format: digits },
    lines: [...(MANY ? extra.map((line) => ({ ...line, unnamed: true })) : extra), ...runLines(runs, (run) => series(run, values(run)))],
    dots: MANY ? [] : runs.map((run) => ({ name: run.label, n: run.n, point: [T(), now(run, values(run))] })),
  }));
  const most = Math.max(...RUNS.flatMap((run) => run.rate)) * 1.08 || 1;
  return section("Accuracy and spikes after each step", settingChoices(), el("div", { class: MANY ? null : "figures" },
    figure("Accuracy", `Share of ${SPLIT} images whose highest score is that of their class, if the network is stopped after T steps.`,
      chart((run) => run.accuracy.map((a) => 100 * a), "accuracy, %", 100, ceilings), "accuracy"),
    figure("Spike rate", "Spikes up to step T, as a share of all neurons and steps. Lower thresholds spike more and answer sooner.",
      chart((run) => run.rate, "spike rate, %", most, []), "spike-rate")));
}

const CAUSES = ["inherited", "clipping", "quantisation", "unevenness"];
function layers() {
  const chosen = () => RUNS[state.run];
  const bars = (names, value, format) => (width, title) => barChart(width, {
    title, format, series: names.map((name, n) => ({ name, n: names.length > 2 ? [5, 1, 0, 2][n] : n })),
    rows: chosen().layers.map((layer) => ({ name: layer.name, values: names.map((name) => value(layer, name)) })),
    mark: (row) => row.values.indexOf(Math.max(...row.values)),
  });
  const looked = RUNS.some((run) => run.looked_at);
  const theta = (layer) => layer.threshold[1];
  const figures = [
    figure("Threshold", `What a neuron collects before it spikes, in ${[...new Set(RUNS.map((run) => run.unit))].join(" or ")}; of several per layer, the largest.`, bars(["threshold"], theta, digits), "thresholds"),
    figure("Spike rate of each layer", "Spikes up to step T, in percent of the layer's neurons and steps.", bars(["spike rate"], (layer) => now(chosen(), layer.rate), (v) => `${digits(v)} %`), "layer-rates"),
    looked ? figure("Error of the rates, by cause", "How far rates are from the trained network's, in percent of them: inherited from earlier layers; clipping, more came than one spike a step can tell; quantisation, spikes are whole; unevenness, they came at the wrong time. The largest of each layer is written out; parts can cancel. A bar with a gap goes on beyond the axis.",
      bars(CAUSES, (layer, cause) => (layer[cause] ? 100 * (now(chosen(), layer[cause]) ?? 0) : null), (v) => `${digits(v)} %`), "errors-by-cause") : null,
    figure("Operations of each layer", "Additions that spikes ask for up to step T, against what the trained network does once. Where the image comes in as numbers, the spiking network multiplies too, once.",
      (width, title) => barChart(width, { title, format: counted, series: [{ name: "trained: multiply and add", n: 6 }, { name: "spiking: add", n: 0 }],
        rows: chosen().operations.map((row) => ({ name: row.layer, values: [row.macs, now(chosen(), row.additions.map((n) => n + row.analog_macs))] })), mark: () => 0 }), "operations"),
  ];
  const value = (key, times = 100) => (layer) => { const v = now(chosen(), layer[key]); return v === null ? null : times * v; };
  const table = addTable({ caption: "Layers of the chosen conversion after T steps; silent neurons and errors in percent.", rows: () => chosen().layers, columns: [
    { name: "layer", word: true, value: (layer) => layer.name },
    { name: "neurons", value: (layer) => layer.neurons, format: integer },
    { name: "threshold", value: theta, format: digits },
    { name: "rate, %", value: value("rate", 1), format: fixed(2) },
    { name: "spikes", value: value("spikes", 1), format: integer },
    ...(looked ? [{ name: "silent", value: value("silent"), format: fixed(1) },
      ...CAUSES.map((cause) => ({ name: cause, value: value(cause), format: fixed(1) })),
      { name: "in all", value: value("total"), format: fixed(1) }, { name: "K", value: value("k", 1), format: digits }] : [])] });
  return section("Layer by layer", el("div", { class: "row" }, chooseRun("Conversion:", () => true)),
    el("div", { class: "figures" }, figures), table,
    looked ? el("p", { class: "note" }, `Errors, K and silent neurons (no spike yet) are means over the first ${plural(Math.max(...RUNS.map((run) => run.looked_at)), `${SPLIT} image`)}; the rest over all of them.`) : null);
}

function fit() {
  const chosen = () => RUNS[state.run];
  if (!RUNS.some((run) => run.looked_at)) return null;
  const draw = (width, title) => {
    const run = chosen(), all = run.layers.filter((layer) => layer.k);
    const shade = (n) => `color-mix(in srgb, var(--c0) ${Math.round(100 - (100 * n) / Math.max(all.length - 1, 1))}%, var(--c1))`;
    const named = (n) => all.length < 10 || n % Math.ceil(all.length / 8) === 0 || n === all.length - 1;
    const lines = all.map((layer, n) => ({ name: layer.name, stroke: shade(n), dash: "", unnamed: !named(n), points: series(run, layer.k) }));
    if (all.length) lines.push({ name: `bound of ${all[0].name}`, stroke: "var(--soft)", dash: "5 4", width: 1.5, points: series(run, all[0].bound) });
    const values = lines.flatMap((line) => line.points.map(([, k]) => k)).filter((k) => k > 0);
    return lineChart(width, { title, lines, cursor: T(), height: 340, x: { ...stepsAxis(), high: Math.max(run.steps[run.steps.length - 1], 2) },
      y: { low: Math.min(...values, 1), high: Math.max(...values, 2), log: 10, label: "K", format: digits } });
  };
  return section("How well rates fit", figure("K of each layer",
    "K(t) is the squared distance between a layer's rates after t steps and the rates that the trained network asks for, over their squared size: 0 is a perfect fit, 1 is as bad as silence. First layers are drawn in blue, last ones in orange. The dashed line is 2Ω/t, which the first layer stays below under constant input and soft reset (Ding et al., 2021, theorem 2).", draw, "fit"));
}

function rates() {
  if (!RUNS.some((run) => run.layers.some((layer) => layer.pairs))) return null;
  const chosen = () => RUNS[state.run];
  const draw = (width, title) => {
    const layers = chosen().layers.filter((layer) => layer.pairs && layer.pairs.length);
    if (!layers.length) return { svg: sv("svg", { width, height: 1, role: "img", "aria-label": title }), legend: el("p", { class: "note" }, "Nobody looked closer at this run.") };
    return { legend: null, svg: grid(width, layers, 220, title, (cell, layer) => {
      const most = Math.max(1.1, ...layer.pairs.map(([wanted]) => wanted));
      return lineChart(cell, { title: layer.name, height: 200, x: { low: 0, high: most, label: "activation / threshold", format: digits }, y: { low: 0, high: 1.05, label: `${layer.name}: rate`, format: digits },
        lines: [{ name: "what one spike a step can say", unnamed: true, stroke: "var(--soft)", dash: "5 4", width: 1.5, points: [[0, 0], [1, 1], [most, 1]] }],
        dots: layer.pairs.map((point) => ({ name: `${digits(point[0])} became ${digits(point[1])}`, n: 0, r: 2.5, point })) });
    }) };
  };
  return section("Activations and rates", el("div", { class: "row" }, chooseRun("Conversion:", () => true)), figure("Trained activation against rate, layer by layer",
    "Each dot is a neuron on an image, after the last step: across, the trained activation in units of the threshold; up, the share of steps in which it spiked. On the dashed line nothing is lost below the threshold; dots below it spiked too seldom, those above too often. Neurons that are silent in both are left out.", draw, "rates"));
}

function confusions() {
  if (!RUNS.some((run) => run.confusion)) return null;
  const chosen = () => RUNS[state.run];
  const draw = (width, title) => {
    const run = chosen(), found = run.confusion;
    if (!found) return { svg: sv("svg", { width, height: 1, role: "img", "aria-label": title }), legend: el("p", { class: "note" }, "This run's file does not hold it.") };
    const names = found.spiking.map((_, n) => run.classes[n] ?? String(n));
    return matrix(width, { title, names, cells: found.spiking, across: "answer", down: "class",
      about: (r, c) => `${names[r]}, answered ${names[c]}: ${digits(found.spiking[r][c])} as spikes, ${digits(found.trained[r][c])} by the trained network` });
  };
  return section("Which classes are taken for which", el("div", { class: "row" }, chooseRun("Conversion:", (run) => Boolean(run.confusion))), figure("Confusion matrix",
    `${SPLIT[0].toUpperCase()}${SPLIT.slice(1)} images after the last step, by class and answer; mean over seeds. Point at a cell for the trained network's number.`, draw, "confusion"));
}

function energy() {
  const { node } = choice("Cost of an operation:", DATA.costs.map((cost) => cost.name.split(":")[0]), (n) => { state.cost = n; });
  const of = (run) => run.energy[state.cost];
  const points = (run) => run.steps.map((t, n) => [of(run).spiking[n], 100 * run.accuracy[n]]);
  const draw = (wide, title) => ofRuns(wide, title, (width, runs, heading) => {
    const lines = runLines(runs, points);
    const trained = [...new Set(RUNS.map((run) => of(run).trained))];
    const values = [...RUNS.flatMap((run) => points(run).map(([j]) => j)), ...trained].filter((j) => j > 0);
    return lineChart(width, { title, lines, height: MANY ? 320 : 380,
      x: { low: Math.min(...values) * 0.9, high: Math.max(...values) * 1.1, log: 10, label: "energy of one image", format: joules },
      y: { low: 0, high: 100, label: `${heading}accuracy, %`, format: digits },
      fronts: DATA.fronts[state.cost].map((front) => front.map(([r, s]) => [of(RUNS[r]).spiking[s], 100 * RUNS[r].accuracy[s]])),
      limits: trained.length > 1 ? [] : [{ x: trained[0], name: `trained ${joules(trained[0])}` }],
      dots: MANY ? [] : runs.map((run) => ({ name: run.label, n: run.n, point: [now(run, of(run).spiking), place(run) < 0 ? null : 100 * now(run, run.accuracy)] })) });
  });
  const assumption = el("p", { class: "note" });
  updates.push(() => { assumption.textContent = `Assumed: ${DATA.costs[state.cost].name}. These are estimates from counted operations, not measurements of a chip.`; });
  const table = addTable({ rows: visible, caption: "Energy of one image after T steps, and until the answer is good enough.", columns: [
    { name: "conversion", word: true, value: (run) => run.label },
    { name: "energy", value: (run) => now(run, of(run).spiking), format: joules },
    { name: "trained network", value: (run) => of(run).trained, format: joules },
    { name: "× trained", value: (run) => { const e = now(run, of(run).spiking); return e === null ? null : e / of(run).trained; }, format: digits },
    { name: "energy within 1 point", value: (run) => of(run).until, format: joules },
    { name: "spikes until then", value: (run) => run.spikes_until, format: integer },
    { name: "spike rate at end, %", value: (run) => run.rate[run.rate.length - 1], format: fixed(2) },
    { name: "break-even rate, %", value: (run) => of(run).break_even, format: fixed(2) },
    { name: "against 8 bits, %", value: (run) => of(run).break_even_int8, format: fixed(2) },
    { name: "additions per MAC", value: (run) => run.additions_per_mac, format: digits } ] });
  return section("Energy against accuracy", el("div", { class: "row" }, node),
    figure("From the first step to the last", `Each line is one conversion; it starts after the first step and ends after the last${MANY ? "" : "; the dot is where T is now"}. The grey band is the Pareto front: no conversion here is as accurate for less.`, draw, "energy"), assumption, table,
    el("p", { class: "note" }, "Break-even: the spike rate at which as many steps would cost what the trained network does, or an 8-bit version of it; 0 means that the multiplications left for numbers at the input alone cost more. Additions per MAC leave the input's layer out (Sengupta et al., 2019, section 7.4). Spikes until then, times the joules of a spike, are the energy of Ding et al. (2021, equation 14)."));
}

function deciding() {
  if (!RUNS.some((run) => run.examples.length)) return null;
  const chosen = () => RUNS[state.run], cards = el("div", { class: "examples" });
  let shown = null, parts = [];
  const picture = (source, frames, about) => {
    const image = el("img", { src: source, alt: about });
    return { node: el("div", {}, image, about), update: () => { image.style.objectPosition = `0 ${frames > 1 ? (100 * Math.max(place(chosen()), 0)) / (frames - 1) : 0}%`; } };
  };
  function card(run, example) {
    const name = (c) => run.classes[c] ?? String(c), frames = run.steps.length, verdict = el("p", {}), holder = el("div");
    const pictures = [picture(example.image, 1, "the image")].filter(() => example.image);
    if (example.inputs) pictures.push(picture(example.inputs, frames, "input spikes so far"));
    if (example.first) pictures.push(picture(example.first, frames, "first layer's spikes so far"));
    const draw = () => {
      pictures.forEach((one) => one.update());
      const n = place(run);
      if (n < 0) { verdict.textContent = "This run ended before."; return; }
      const said = example.predictions[n], right = said === example.label, tie = example.scores[n].every((s) => s === example.scores[n][0]);
      verdict.replaceChildren(`After ${plural(run.steps[n], "step")}: `, el("span", { class: right && !tie ? "right" : "wrong" },
        tie ? "undecided, all scores are equal" : `${name(said)}, ${right ? "right ✓" : "wrong ✗"}`));
      const width = holder.clientWidth;
      if (!width) return;
      const until = (c, k) => run.steps.slice(0, n + 1).map((t, i) => [t, example.scores[i][k]]);
      const ends = example.classes.map((c, k) => ({ c, k, score: example.scores[n][k] })).sort((p, q) => q.score - p.score);
      const labelled = new Set([...ends.slice(0, 2).map((end) => end.c), example.label]);
      const all = example.scores.slice(0, n + 1).flat(), low = Math.min(0, ...all), high = Math.max(...all, low + 1e-9);
      const { svg, legend: below } = lineChart(width, { title: `Class scores of ${SPLIT} image ${example.index}`, height: 190,
        x: { low: 1, high: Math.max(run.steps[run.steps.length - 1], 2), label: "time-steps", format: String },
        y: { low, high, label: "score of each class so far", format: digits },
        lines: ends.reverse().map(({ c, k }) => ({ name: `${name(c)}${c === example.label ? " (true)" : c === said ? " (answer)" : ""}`, unnamed: !labelled.has(c), points: until(c, k), dash: "",
          stroke: c === example.label ? "var(--good)" : c === said ? "var(--bad)" : "var(--soft)", width: c === example.label || c === said ? 2.5 : 1 })) });
      holder.replaceChildren(...[svg, below].filter(Boolean));
    };
    const others = example.trained === example.label ? "" : `; the trained network says ${name(example.trained)}`;
    const node = el("article", { class: "example" }, el("h3", {}, `${SPLIT[0].toUpperCase()}${SPLIT.slice(1)} image ${example.index}: ${name(example.label)}${others}`),
      el("div", { class: "pictures" }, pictures.map((one) => one.node)), verdict, holder);
    new ResizeObserver(draw).observe(node);
    return { node, draw };
  }
  updates.push(() => {
    if (shown !== state.run) {
      shown = state.run;
      parts = chosen().examples.map((example) => card(chosen(), example));
      cards.replaceChildren(...parts.map((part) => part.node), ...(chosen().examples_left_out ? [el("p", { class: "note" }, "Left out of this page to keep it small; report on fewer runs to see them.")] : []));
    }
    parts.forEach((part) => part.draw());
  });
  const images = RUNS.map((run) => run.examples.length);
  return section("Watch it decide", el("p", {}, `A few ${SPLIT} images that end right, then those that end wrong, with what conversion alone got wrong first. The highest score is the answer. Move T, or press Play.`),
    el("div", { class: "row" }, chooseRun("Conversion:", (run) => images[run.n] > 0)), cards);
}

function made() {
  const facts = [];
  const add = (name, ...text) => facts.push(el("dt", {}, name), el("dd", {}, ...text));
  const unique = (values) => [...new Set(values)].join("; ");
  add("Networks", unique(RUNS.map((run) => run.network)));
  add("Images", unique(RUNS.map((run) => `${run.data}, the first ${integer(run.images)}`)));
  add("Seeds", unique(RUNS.map((run) => run.seeds.join(", "))), ". Constant input draws nothing: one run is all there is.");
  add("Steps", `up to ${unique(RUNS.map((run) => run.steps[run.steps.length - 1]))}. Numbers are for T = ${STEPS.join(", ")}.`);
  add("Files", unique(DATA.made.map((file) => file.file)));
  add("Made with", unique(DATA.made.map((file) => [...Object.entries(file.versions || {}).map(([k, v]) => `${k} ${v}`), file.device].filter(Boolean).join(", "))));
  add("Computed", unique(DATA.made.map((file) => [file.date, file.processor, file.threads && plural(file.threads, "thread"), file.command].filter(Boolean).join(", "))));
  add("Not counted", unique(RUNS.flatMap((run) => run.not_counted)));
  const told = [...new Set(RUNS.flatMap((run) => Object.keys(run.provenance)))];
  const same = told.filter((name) => new Set(RUNS.map((run) => run.provenance[name])).size === 1), other = told.filter((name) => !same.includes(name));
  if (same.length) add(RUNS.length > 1 ? "Conversion, all runs" : "Conversion", same.map((name) => `${name} ${RUNS[0].provenance[name]}`).join("; "));
  const how = other.length ? addTable({ rows: visible, caption: "How each network was converted, where it differs.", columns: [
    { name: "run", value: (run) => run.label, word: true },
    ...other.map((name) => ({ name, value: (run) => run.provenance[name] ?? null, word: true })),
  ] }) : null;
  return section("How this was made", el("dl", {}, facts), how);
}

const slider = document.getElementById("steps"), output = document.getElementById("step"), play = document.getElementById("play");
function refresh() {
  output.textContent = T();
  slider.value = state.at;
  slider.setAttribute("aria-valuetext", plural(T(), "step"));
  document.getElementById("sentence").textContent = sentence();
  runChoices.forEach((select) => { select.value = state.run; });
  updates.forEach((update) => update());
}
let timer = null;
function stop() { clearInterval(timer); timer = null; play.textContent = "Play"; play.setAttribute("aria-pressed", "false"); }
play.addEventListener("click", () => {
  if (timer) { stop(); return; }
  if (state.at === STEPS.length - 1) { state.at = 0; refresh(); }
  play.textContent = "Stop";
  play.setAttribute("aria-pressed", "true");
  timer = setInterval(() => {
    if (state.at >= STEPS.length - 1) { stop(); return; }
    state.at++;
    refresh();
  }, 350);
});
find.closest("label").hidden = RUNS.length <= 8;
find.addEventListener("input", refresh);
document.getElementById("control").addEventListener("submit", (event) => event.preventDefault());
slider.max = STEPS.length - 1;
output.style.minWidth = `${String(LAST).length}ch`;
slider.addEventListener("input", () => { stop(); state.at = Number(slider.value); refresh(); });
state.run = soonest().n;
document.getElementById("main").append(...[summary(), curves(), deciding(), confusions(), layers(), rates(), fit(), energy(), made()].filter(Boolean));
document.getElementById("contents").append(...[...document.querySelectorAll("section")].map((part) => el("a", { href: `#${part.id}` }, part.querySelector("h2").textContent)));
refresh();
