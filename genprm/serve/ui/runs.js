"use strict";
// The runs in the service's folder: their rows, and comparison of two runs.
const SHOWN = 100;
const FILTERS = [
  ["All rows", () => true],
  ["No error", (row) => row.first_error !== null && row.first_error < 0],
  ["With an error", (row) => row.first_error !== null && row.first_error >= 0],
  ["Undecided", (row) => row.first_error === null],
  ["Other than the label", (row) => row.label !== null && row.label !== row.first_error],
];
const rowsOf = new Map();
const load = async (name) => {
  if (!rowsOf.has(name)) rowsOf.set(name, (await ask(`/v1/runs/${encodeURIComponent(name)}`)).json());
  return rowsOf.get(name);
};
const cells = (tag, ...contents) => make("tr", "", ...contents.map((one) => make(tag, "", one)));
const word = (index) => make("span", `word ${outcome(index)}`, firstError(index));

// ---- one run --------------------------------------------------------------------------------------------------------
let run = null;
let most = SHOWN;
const histogram = (rows) => {
  const bins = Array.from({ length: 20 }, () => 0);
  for (const row of rows) for (const score of row.scores) if (score !== null) bins[Math.min(19, Math.floor(score * 20))] += 1;
  const top = Math.max(...bins, 1);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 320 130");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Step scores from 0 to 1 in twenty bins: ${bins.join(", ")}`);
  const draw = (tag, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text) node.textContent = text;
    svg.append(node);
  };
  bins.forEach((count, bin) => draw("rect", {
    x: bin * 16 + 1, y: 105 - 95 * count / top, width: 14, height: 95 * count / top, class: bin < 10 ? "wrong" : "right",
  }));
  draw("text", { x: 0, y: 122 }, "0");
  draw("text", { x: 120, y: 122 }, "score of a step");
  draw("text", { x: 312, y: 122 }, "1");
  draw("text", { x: 0, y: 9 }, `${top}`);
  return svg;
};
// Of several answers under way, only that to the last request is shown.
const lastOf = () => {
  let last = 0;
  return () => { const mine = ++last; return () => mine === last; };
};
const opening = lastOf(), showing = lastOf(), comparing = lastOf();
const matching = () => {
  const belongs = FILTERS[Number(byId("filter").value)][1];
  const wanted = byId("search").value.trim().toLowerCase();
  return run.rows.filter((row) => belongs(row) && (!wanted || `${row.id} ${row.excerpt}`.toLowerCase().includes(wanted)));
};
const list = () => {
  const rows = matching();
  const table = make("tbody", "");
  for (const row of rows.slice(0, most)) {
    const button = make("button", "", row.id);
    button.type = "button";
    button.addEventListener("click", () => show(row));
    table.append(cells("td", button, word(row.first_error), row.label === null ? "–" : firstError(row.label), row.excerpt));
  }
  byId("rows").replaceChildren(byId("rows").caption, make("thead", "", cells("th", "Row", "Judged", "Label", "Problem")), table);
  byId("more").hidden = rows.length <= most;
  byId("run-status").textContent = `${rows.length} of ${run.rows.length} rows`;
};
const show = async (entry) => {
  const isLast = showing();
  const article = byId("row");
  let row;
  try {
    row = await (await ask(`/v1/runs/${encodeURIComponent(run.name)}/rows/${entry.number}`)).json();
  } catch (error) {
    if (isLast()) article.replaceChildren(make("p", "notice", error.message));
    return;
  }
  if (!isLast()) return;
  article.replaceChildren(make("h2", "", row.id ?? row.key), rich(make("p", "problem"), row.problem ?? ""));
  row.steps.forEach((step, place) => article.append(stepNode(step, place, row.threshold, place === row.first_error, place === row.first_error)));
  article.focus();
  article.scrollIntoView({ block: "start" });
};
const open = async (name) => {
  const isLast = opening();
  let found;
  try {
    found = await load(name);
  } catch (error) {
    if (isLast()) byId("run-status").textContent = error.message;
    return;
  }
  if (!isLast()) return;
  run = found;
  showing();  // a row of the run before does not come any more
  most = SHOWN;
  byId("row").replaceChildren();
  const facts = { command: run.command, model: run.model, rows: run.rows.length, started: run.started };
  byId("run-facts").replaceChildren(...Object.entries(facts).map(([name_, value]) =>
    make("div", "", make("dt", "", name_), make("dd", "", String(value ?? "–")))));
  byId("plot").replaceChildren(histogram(run.rows));
  list();
};

// ---- two runs -------------------------------------------------------------------------------------------------------
const compare = async () => {
  const [one, other] = [byId("run-a").value, byId("run-b").value];
  if (!one || !other) return;
  const isLast = comparing();
  let a, b;
  try {
    [a, b] = await Promise.all([load(one), load(other)]);
  } catch (error) {
    if (isLast()) byId("compare-status").textContent = error.message;
    return;
  }
  if (!isLast()) return;
  const second = new Map(b.rows.map((row) => [row.match, row]));
  const pairs = a.rows.filter((row) => second.has(row.match)).map((row) => [row, second.get(row.match)]);
  const shown = byId("differ").checked ? pairs.filter(([x, y]) => x.first_error !== y.first_error) : pairs;
  const table = make("tbody", "", ...shown.slice(0, 1000).map(([x, y]) =>
    cells("td", x.id, word(x.first_error), word(y.first_error), x.label === null ? "–" : firstError(x.label), x.excerpt)));
  byId("pairs").replaceChildren(byId("pairs").caption, make("thead", "", cells("th", "Row", one, other, "Label", "Problem")), table);
  const labelled = pairs.filter(([x]) => x.label !== null);
  const right = (place) => labelled.filter((pair) => pair[place].first_error === pair[0].label).length;
  const agreed = pairs.filter(([x, y]) => x.first_error === y.first_error).length;
  const labels = labelled.length ? ` As labelled: ${right(0)} and ${right(1)} of ${labelled.length}.` : "";
  byId("compare-status").textContent = `${pairs.length} rows in both, ${agreed} judged alike.${labels}`;
};

// ---- sections -------------------------------------------------------------------------------------------------------
const SECTIONS = ["judge", "runs", "compare"];
const turn = () => {
  const wanted = SECTIONS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "judge";
  for (const name of SECTIONS) byId(name).hidden = name !== wanted;
  for (const link of byId("tabs").children) {
    if (link.hash === `#${wanted}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  scrollTo(0, 0);
};
addEventListener("hashchange", turn);
turn();
for (const [place, [name]] of FILTERS.entries()) {
  const option = make("option", "", name);
  option.value = String(place);
  byId("filter").append(option);
}
byId("filter").addEventListener("change", () => { most = SHOWN; list(); });
byId("search").addEventListener("input", () => { most = SHOWN; list(); });
byId("more").addEventListener("click", () => { most += SHOWN; list(); });
byId("run").addEventListener("change", (event) => open(event.target.value));
for (const id of ["run-a", "run-b", "differ"]) byId(id).addEventListener("change", compare);
ask("/v1/runs").then((response) => response.json()).then(({ runs }) => {
  if (!runs.length) return;
  byId("runs-tab").hidden = byId("compare-tab").hidden = false;
  for (const id of ["run", "run-a", "run-b"]) byId(id).append(...runs.map((one) => make("option", "", one)));
  if (runs.length > 1) byId("run-b").value = runs[1];
  open(runs[0]);
  compare();
}).catch(() => undefined);
