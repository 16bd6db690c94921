"use strict";
// Small drawing kit: elements, scales, line charts with labels beside the lines, bars, and SVG files.

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 8, DASHES = ["", "7 3", "2 3", "9 3 2 3"];

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
const sv = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

const colour = (n) => `var(--c${n % COLOURS})`;
const dash = (n) => DASHES[(Math.floor(n / 2)) % DASHES.length];

// A scale maps numbers to pixels; its ticks are round numbers.
function scale(low, high, from, to, log) {
  const f = log ? Math.log : (x) => x;
  const a = f(low), b = f(high) === f(low) ? f(low) + 1 : f(high);
  const map = (x) => from + ((f(x) - a) / (b - a)) * (to - from);
  map.ticks = log ? logTicks(low, high, log) : linearTicks(low, high);
  return map;
}
function linearTicks(low, high) {
  const raw = (high - low) / 4 || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const ticks = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) ticks.push(n * step);
  return ticks;
}
function logTicks(low, high, base) {
  const first = Math.ceil(Math.log(low) / Math.log(base) - 1e-9), last = Math.floor(Math.log(high) / Math.log(base) + 1e-9);
  const every = Math.max(1, Math.ceil((last - first + 1) / 8));
  const ticks = [];
  for (let n = first; n <= last; n += every) ticks.push(base ** n);
  if (ticks.length < 2 && base === 10) return [low, high].map((x) => Number(x.toPrecision(2)));
  return ticks;
}

// Labels beside line ends, moved apart so that none covers another; those without a place are left out.
function apart(labels, top, bottom) {
  const gap = 14;
  const placed = labels.sort((p, q) => p.y - q.y).slice(0, Math.max(1, Math.floor((bottom - top) / gap)));
  placed.forEach((label, n) => { label.at = Math.max(label.y, n ? placed[n - 1].at + gap : top); });
  for (let n = placed.length - 1, limit = bottom; n >= 0; n--, limit -= gap) placed[n].at = Math.min(placed[n].at, limit);
  return placed;
}
const textWidth = (text) => text.length * 6.4;

// lines: {name, points: [[x, y]], n: number of its colour, width}; x and y: {low, high, log, label, format}
function lineChart(width, { x, y, lines, cursor, limits = [], fronts = [], dots = [], height = 300, title }) {
  const beside = width >= 430;
  const widest = Math.max(...lines.filter((line) => !line.unnamed).map((line) => textWidth(line.name)), 0);
  const right = beside && widest ? Math.min(widest + 30, width * 0.42) : 14;
  const box = { left: 46, right: width - right, top: 26, bottom: height - 40 };
  const sx = scale(x.low, x.high, box.left, box.right, x.log), sy = scale(y.low, y.high, box.bottom, box.top, y.log);
  const inside = ([a, b]) => a !== null && b !== null && a >= x.low * 0.999999 && (!y.log || b > 0);
  const path = (points) => points.filter(inside).map(([a, b], n) => `${n ? "L" : "M"}${sx(a).toFixed(1)} ${sy(b).toFixed(1)}`).join("");
  const stairs = (points) => points.map(([a, b], n) => `${n ? "H" : "M"}${sx(a).toFixed(1)} ${n ? `V${sy(b).toFixed(1)}` : sy(b).toFixed(1)}`).join("");
  const svg = sv("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": title });
  for (const t of sy.ticks) svg.append(
    sv("line", { class: "grid", x1: box.left, x2: box.right, y1: sy(t), y2: sy(t) }),
    sv("text", { class: "tick", x: box.left - 6, y: sy(t) + 4, "text-anchor": "end" }, y.format(t)));
  for (const t of sx.ticks) svg.append(
    sv("line", { class: "grid", x1: sx(t), x2: sx(t), y1: box.bottom, y2: box.bottom + 4 }),
    sv("text", { class: "tick", x: sx(t), y: box.bottom + 18, "text-anchor": "middle" }, x.format(t)));
  svg.append(
    sv("text", { class: "tick", x: 0, y: 12 }, y.label),
    sv("text", { class: "tick", x: (box.left + box.right) / 2, y: height - 4, "text-anchor": "middle" }, x.label));
  for (const front of fronts) svg.append(sv("path", { class: "front", d: stairs(front.filter(inside)) }));
  for (const limit of limits) svg.append(
    sv("line", { class: "limit", x1: sx(limit.x), x2: sx(limit.x), y1: box.top, y2: box.bottom }),
    sv("text", { class: "tick", x: sx(limit.x), y: box.top - 6, "text-anchor": "middle" }, limit.name));
  if (cursor) svg.append(sv("line", { class: "cursor", x1: sx(cursor), x2: sx(cursor), y1: box.top, y2: box.bottom }));
  const labels = [];
  for (const line of lines) {
    const stroke = line.stroke || colour(line.n), points = line.points.filter(inside);
    if (!points.length) continue;
    svg.append(sv("path", { class: "line", d: path(points), stroke, "stroke-dasharray": line.dash ?? dash(line.n), style: line.width ? `stroke-width: ${line.width}` : null },
      sv("title", {}, line.about ?? line.name)));
    for (const [p, q] of points) svg.append(sv("circle", { class: "hit", cx: sx(p), cy: sy(q), r: 6 }, sv("title", {}, `${line.about ?? line.name}: ${y.format(q)} at ${x.format(p)}`)));
    const [a, b] = points[points.length - 1];
    if (!line.unnamed) labels.push({ name: line.name, x: sx(a), y: sy(b), stroke });
  }
  for (const dot of dots) if (inside(dot.point)) svg.append(
    sv("circle", { cx: sx(dot.point[0]), cy: sy(dot.point[1]), r: dot.r || 5, fill: dot.stroke || colour(dot.n), "fill-opacity": dot.r ? 0.55 : null, stroke: dot.r ? "none" : "var(--paper)", "stroke-width": 1.5 },
      sv("title", {}, dot.name)));
  const room = Math.floor((right - 28) / 6.4);
  if (beside) for (const label of apart(labels, box.top + 4, box.bottom)) {
    const short = label.name.length > room ? `${label.name.slice(0, room - 1)}…` : label.name;
    svg.append(
      sv("path", { d: `M${label.x + 3} ${label.y}L${box.right + 14} ${label.at}H${box.right + 20}`, fill: "none", stroke: label.stroke, "stroke-opacity": 0.6 }),
      sv("text", { x: box.right + 24, y: label.at + 4 }, short, sv("title", {}, label.name)));
  }
  const named = lines.filter((line) => !line.unnamed);
  return { svg, legend: beside || !named.length ? null : legend(named) };
}

// Charts side by side in one drawing, so many to a row as are at least `least` wide; each of them from draw(width, item).
function grid(width, items, least, title, draw) {
  const gap = 18, across = Math.max(1, Math.min(items.length, Math.floor((width + gap) / (least + gap))));
  const cell = Math.floor((width - gap * (across - 1)) / across);
  const charts = items.map((item) => draw(cell, item).svg), high = Math.max(...charts.map((svg) => Number(svg.getAttribute("height")))) + 8;
  const height = high * Math.ceil(items.length / across);
  const whole = sv("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": title });
  charts.forEach((svg, n) => {
    svg.removeAttribute("role");
    svg.setAttribute("x", (n % across) * (cell + gap));
    svg.setAttribute("y", Math.floor(n / across) * high);
    whole.append(svg);
  });
  return whole;
}

// rows and columns: names; cells: [row][column] numbers; about(row, column) is what the pointer shows.
function matrix(width, { names, cells, about, title, across, down }) {
  const count = names.length, left = Math.min(Math.max(...names.map(textWidth)) + 4, width * 0.3) + 28, top = 34;
  const size = Math.max(3, Math.min(34, Math.floor((width - left) / count))), height = top + size * count + 8;
  const wrong = Math.max(...cells.flatMap((row, r) => row.filter((_, c) => c !== r)), 1);
  const svg = sv("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": title });
  const room = Math.floor((left - 28) / 6.4), short = (name, most) => (name.length > most ? `${name.slice(0, Math.max(most - 1, 1))}…` : name);
  svg.append(sv("text", { class: "tick", x: left, y: 12 }, across), sv("text", { class: "tick", x: 10, y: top + (size * count) / 2, "text-anchor": "middle", transform: `rotate(-90 10 ${top + (size * count) / 2})` }, down));
  names.forEach((name, r) => {
    if (size >= 12) svg.append(
      sv("text", { x: left - 6, y: top + r * size + size / 2 + 4, "text-anchor": "end" }, short(name, room)),
      sv("text", { class: "tick", x: left + r * size + size / 2, y: top - 6, "text-anchor": "middle" }, short(name, Math.floor(size / 6.8))));
    cells[r].forEach((n, c) => {
      const fill = r === c ? "var(--c0)" : "var(--c1)", strength = r === c ? 0.35 : n / wrong;
      svg.append(sv("rect", { x: left + c * size, y: top + r * size, width: size - 1, height: size - 1, fill: n ? fill : "var(--panel)", "fill-opacity": n ? Math.max(0.1, 0.75 * strength) : 1 }, sv("title", {}, about(r, c))));
      if (n && size >= 24) svg.append(sv("text", { x: left + c * size + size / 2 - 0.5, y: top + r * size + size / 2 + 4, "text-anchor": "middle", "pointer-events": "none" }, digits(n)));
    });
  });
  return { svg, legend: null };
}
function legend(lines) {
  return el("ul", { class: "legend" }, lines.map((line) => el("li", {}, sv("svg", { viewBox: "0 0 26 10" },
    sv("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: line.stroke || colour(line.n), "stroke-width": 2.5, "stroke-dasharray": line.dash ?? dash(line.n) })), line.name)));
}

// rows: {name, values: [number or null, one per series]}; series: {name, n}
function barChart(width, { rows, series, format, title, mark }) {
  const thick = series.length > 2 ? 7 : 13, pad = 9, each = thick * series.length + pad, top = 4;
  const left = Math.min(Math.max(...rows.map((row) => textWidth(row.name))) + 8, width * 0.4), right = 58;
  const most = scaleOf(rows.map((row) => Math.max(...row.values.map((v) => v ?? 0))));
  const height = top + rows.length * each + 4, sx = (v) => Math.min(v / most, 1) * (width - left - right);
  const room = Math.floor((left - 8) / 6.4);
  const svg = sv("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": title });
  rows.forEach((row, r) => {
    const y = top + r * each;
    const name = row.name.length > room ? `…${row.name.slice(1 - room)}` : row.name;
    svg.append(sv("text", { x: left - 8, y: y + (each - pad) / 2 + 4, "text-anchor": "end" }, name, sv("title", {}, row.name)));
    row.values.forEach((v, k) => {
      if (v === null || v === undefined) return;
      svg.append(sv("rect", { x: left, y: y + k * thick, width: Math.max(sx(v), v > 0 ? 1 : 0), height: thick - 1, fill: colour(series[k].n) },
        sv("title", {}, `${row.name}, ${series[k].name}: ${format(v)}`)));
      const cut = v > most, end = left + sx(v);
      if (cut) svg.append(sv("path", { class: "cut", d: `M${end - 14},${y + (k + 1) * thick}l5,${-thick - 1}h4l-5,${thick + 1}z` }));
      if (series.length < 3 || cut || k === mark(row)) svg.append(
        sv("text", { class: "tick", x: left + sx(v) + 5, y: y + k * thick + thick / 2 + 4 }, format(v)));
    });
    svg.append(sv("line", { class: "grid", x1: left, x2: left, y1: y - 2, y2: y + each - pad + 2 }));
  });
  return { svg, legend: series.length > 1 ? squares(series) : null };
}
// The value at the end of the axis. A few bars, one row in ten, that would leave the others no length are cut.
function scaleOf(tops) {
  const sorted = [...tops].sort((a, b) => b - a), rest = sorted[Math.ceil(tops.length / 10)] ?? 0;
  const usual = tops.length >= 5 && rest > 0 ? 3 * rest : Infinity;
  return Math.max(Math.min(sorted[0], usual), 1e-300);
}
function squares(series) {
  return el("ul", { class: "legend" }, series.map((one) => el("li", {},
    sv("svg", { viewBox: "0 0 26 10" }, sv("rect", { x: 8, width: 10, height: 10, fill: colour(one.n) })), one.name)));
}

// The drawn figure as a file of its own: what style sheets say is written into it.
function saveSvg(svg, name) {
  const copy = svg.cloneNode(true), from = [svg, ...svg.querySelectorAll("*")], to = [copy, ...copy.querySelectorAll("*")];
  const kept = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity", "stroke-linejoin", "font-family", "font-size"];
  from.forEach((node, n) => {
    const style = getComputedStyle(node);
    to[n].setAttribute("style", kept.map((key) => `${key}:${style.getPropertyValue(key)}`).join(";"));
    to[n].removeAttribute("class");
  });
  copy.setAttribute("xmlns", SVG);
  copy.style.background = getComputedStyle(document.body).backgroundColor;
  const url = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" }));
  el("a", { href: url, download: `${name}.svg` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
