"use strict";
// Small charts, drawn as SVG: lines with intervals, and bars.
const SVG = "http://www.w3.org/2000/svg";
const draw = (tag, attributes, ...children) => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
};
const W = 340, H = 210, LEFT = 40, RIGHT = 12, TOP = 10, BOTTOM = 36;
const short = (x) => (x >= 10000 ? `${Math.round(x / 1000)}k` : x >= 1000 ? `${(x / 1000).toFixed(1)}k` : String(x >= 10 ? Math.round(x) : Math.round(x * 100) / 100));
// x, y: functions from values to pixels; ticks: [value, text].
const frame = (title, { x, y, xTicks, yTicks, xLabel }) => {
  const svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, class: "chart", role: "img", "aria-label": title });
  for (const [value, text] of yTicks) {
    svg.append(draw("line", { x1: LEFT, x2: W - RIGHT, y1: y(value), y2: y(value), class: "grid" }),
      draw("text", { x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" }, text));
  }
  for (const [value, text] of xTicks) svg.append(draw("text", { x: x(value), y: H - BOTTOM + 15, "text-anchor": "middle" }, text));
  svg.append(draw("text", { x: (LEFT + W - RIGHT) / 2, y: H - 5, "text-anchor": "middle", class: "axis" }, xLabel));
  return svg;
};
const figure = (title, svg, legend) => {
  const names = legend.map(([name, style]) => make("span", `key ${style}`, name));
  byId("figures").append(make("figure", "", make("figcaption", "", title), svg, legend.length > 1 ? make("div", "legend", ...names) : null));
  byId("charts").hidden = false;
};
const span = (low, high) => (value) => (high === low ? 0.5 : (value - low) / (high - low));
// series: [{ name, style, points: [{ x, y, low, high }] }], with y in [0, 1]; the x axis is logarithmic.
const lines = (title, xLabel, series) => {
  const all = series.flatMap((one) => one.points).filter((point) => point.x > 0);
  if (all.length < 2) return;
  const logs = all.map((point) => Math.log2(point.x));
  const at = span(Math.min(...logs), Math.max(...logs));
  const x = (value) => LEFT + 6 + at(Math.log2(value)) * (W - LEFT - RIGHT - 12);
  const least = Math.min(...all.map((point) => point.low ?? point.y));
  const low = Math.max(0, Math.floor(5 * least - 0.001) / 5);
  const high = Math.min(1, Math.ceil(10 * Math.max(...all.map((point) => point.high ?? point.y)) + 0.001) / 10);
  const up = span(low, high);
  const y = (value) => H - BOTTOM - up(value) * (H - TOP - BOTTOM);
  const step = high - low > 0.5 ? 0.2 : 0.1;
  const yTicks = [];
  for (let value = low; value <= high + 0.001; value += step) yTicks.push([value, `${Math.round(100 * value)} %`]);
  const distinct = [...new Set(all.map((point) => point.x))].sort((a, b) => a - b);
  const every = Math.ceil(distinct.length / 6);
  const svg = frame(title, { x, y, yTicks, xLabel, xTicks: distinct.filter((_, i) => i % every === 0).map((value) => [value, short(value)]) });
  for (const { points, style } of series) {
    const banded = points.filter((point) => point.low !== undefined && point.low !== null);
    if (banded.length > 1) {
      const edge = [...banded.map((p) => `${x(p.x)},${y(p.high)}`), ...banded.toReversed().map((p) => `${x(p.x)},${y(p.low)}`)];
      svg.append(draw("polygon", { points: edge.join(" "), class: `band ${style}` }));
    }
    svg.append(draw("polyline", { points: points.map((p) => `${x(p.x)},${y(p.y)}`).join(" "), class: `line ${style}` }));
    for (const p of points) svg.append(draw("circle", { cx: x(p.x), cy: y(p.y), r: 2.6, class: `dot ${style}` }));
  }
  figure(title, svg, series.map((one) => [one.name, one.style]));
};
// series: [{ name, style, values }], stacked; one value per bar.
const bars = (title, xLabel, names, series, every = 1) => {
  const totals = names.map((_, i) => series.reduce((sum, one) => sum + one.values[i], 0));
  const most = Math.max(...totals);
  if (!most) return;
  const wide = (W - LEFT - RIGHT) / names.length;
  const x = (i) => LEFT + (i + 0.5) * wide;
  const y = (value) => H - BOTTOM - (value / most) * (H - TOP - BOTTOM);
  const svg = frame(title, { x, y, xLabel, yTicks: [[0, "0"], [most, short(most)]], xTicks: names.map((name, i) => [i, name]).filter((_, i) => i % every === 0) });
  const base = names.map(() => 0);
  for (const { values, style } of series) {
    values.forEach((value, i) => {
      if (value) svg.append(draw("rect", { x: x(i) - 0.42 * wide, width: 0.84 * wide, y: y(base[i] + value), height: y(base[i]) - y(base[i] + value), class: `bar ${style}` }));
      base[i] += value;
    });
  }
  figure(title, svg, series.map((one) => [one.name, one.style]));
};
// points: [{ x, y, n }], both in [0, 1]; calibrated scores are on the diagonal.
const reliability = (title, xLabel, points) => {
  if (points.length < 2) return;
  const x = (value) => LEFT + value * (W - LEFT - RIGHT);
  const y = (value) => H - BOTTOM - value * (H - TOP - BOTTOM);
  const fifths = [0, 0.2, 0.4, 0.6, 0.8, 1];
  const svg = frame(title, { x, y, xLabel, yTicks: fifths.map((v) => [v, `${Math.round(100 * v)} %`]), xTicks: fifths.map((v) => [v, String(v)]) });
  svg.append(draw("line", { x1: x(0), y1: y(0), x2: x(1), y2: y(1), class: "line bound" }));
  svg.append(draw("polyline", { points: points.map((p) => `${x(p.x)},${y(p.y)}`).join(" "), class: "line one" }));
  const most = Math.max(...points.map((p) => p.n));
  for (const p of points) {
    svg.append(draw("circle", { cx: x(p.x), cy: y(p.y), r: 2 + 4 * Math.sqrt(p.n / most), class: "dot one" }, draw("title", {}, `${whole(p.n)} steps`)));
  }
  figure(title, svg, []);
};
