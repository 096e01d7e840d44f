"use strict";
// Shared by the pages of all kinds of runs: data, elements, and the list with its detail view.
const PAGE = 200;
const data = JSON.parse(document.getElementById("data").textContent);
const { info, metrics, failures, index } = data;
const byId = (id) => document.getElementById(id);

// Everything shown goes through here: text is never interpreted as HTML.
const make = (tag, className, ...children) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
};
const whole = (x) => x.toLocaleString("en");
const percent = (x) => (x === null || x === undefined ? "–" : `${(100 * x).toFixed(1)} %`);
const number = (x) => (x === null || x === undefined ? "–" : x.toFixed(3));
const range = (row) => `${(100 * row.low).toFixed(1)} to ${(100 * row.high).toFixed(1)}`;

const head = (title, parts) => {
  byId("title").textContent = title;
  byId("subtitle").textContent = [...parts, info.started].filter((part) => typeof part === "string" && part).join(" · ");
  byId("config").textContent = JSON.stringify(
    { config: info.config, facts: info.facts, versions: info.versions, platform: info.platform }, null, 2);
};
const fact = (name, value, detail) =>
  byId("facts").append(make("div", "", make("dt", "", name), make("dd", "", value, detail ? make("small", "", ` ${detail}`) : null)));

// filters: [name, predicate]; entry: a row's list entry, without the link; show: fills the article with a row.
// isError: rows at which the key `e` stops.
const browse = ({ filters: wanted, entry: entryOf, show, none, isError = () => false }) => {
  const rows = index.map((row, place) => ({ ...row, number: place }));
  const failed = failures.map((failure, place) => ({ failure, number: place, id: failure.id ?? `line ${failure.line}` }));
  const filters = [["All", rows], ...wanted.map(([name, belongs]) => [name, rows.filter(belongs)]), ["Failed", failed]]
    .filter(([name, found]) => name === "All" || found.length);
  let filter = filters[0];
  let shown = [];
  let current = null;
  const anchor = (row) => (row.failure ? `failure-${row.number}` : `row-${row.number}`);
  const listEntry = (row) => {
    const link = make("a", "");
    link.href = `#${anchor(row)}`;
    link.append(...(row.failure
      ? [make("div", "entry", make("span", "", row.id), make("span", "word open", row.failure.kind)), make("div", "excerpt", row.failure.reason)]
      : entryOf(row)));
    return make("li", "", link);
  };
  // scrollIntoView would also move the page.
  const reveal = (link) => {
    const list = document.querySelector("nav");
    const [outer, inner] = [list.getBoundingClientRect(), link.getBoundingClientRect()];
    if (inner.top < outer.top) list.scrollTop -= outer.top - inner.top + 8;
    else if (inner.bottom > outer.bottom) list.scrollTop += inner.bottom - outer.bottom + 8;
  };
  const mark = () => {
    for (const link of byId("list").querySelectorAll("a")) {
      const here = current !== null && link.hash === `#${anchor(current)}`;
      link.setAttribute("aria-current", String(here));
      if (here) reveal(link);
    }
  };
  const showMore = () => {
    const list = byId("list");
    const from = list.querySelectorAll("a").length;
    list.append(...shown.slice(from, from + PAGE).map(listEntry));
    const rest = shown.length - Math.min(shown.length, from + PAGE);
    byId("more").hidden = rest === 0;
    byId("more").textContent = `Show more (${whole(rest)} left)`;
    mark();
  };
  const refresh = () => {
    const text = byId("search").value.trim().toLowerCase();
    shown = filter[1].filter((row) => !text || `${row.id} ${row.excerpt ?? ""} ${row.failure?.reason ?? ""}`.toLowerCase().includes(text));
    byId("list").replaceChildren();
    if (!shown.length) byId("list").append(make("li", "none", none));
    showMore();
  };
  for (const entry of filters) {
    const button = make("button", "", `${entry[0]} ${whole(entry[1].length)}`);
    button.type = "button";
    button.addEventListener("click", () => {
      filter = entry;
      for (const other of byId("filters").children) other.setAttribute("aria-pressed", String(other === button));
      refresh();
    });
    button.setAttribute("aria-pressed", String(entry === filter));
    byId("filters").append(button);
  }
  byId("search").addEventListener("input", refresh);
  byId("more").addEventListener("click", showMore);

  const showRow = (row) => {
    const article = byId("row");
    const source = byId(`row-${row.number}`);
    article.replaceChildren(make("h2", "", row.id));
    if (source) show(article, JSON.parse(source.textContent));
    else article.append(make("p", "notice", `The row does not fit into this page. It is in rows.jsonl under the key ${row.key}.`));
  };
  const showFailure = ({ id, failure }) =>
    byId("row").replaceChildren(make("h2", "", id), make("p", "meta", `${failure.file}, line ${failure.line} · ${failure.kind}`),
      make("p", "notice", failure.reason));
  const open = (event) => {
    const match = location.hash.match(/^#(row|failure)-(\d+)$/);
    const found = match ? (match[1] === "row" ? rows : failed)[Number(match[2])] : undefined;
    current = found ?? shown[0] ?? null;
    if (current === null) return byId("row").replaceChildren(make("p", "none", "This run has no rows yet."));
    if (current.failure) showFailure(current); else showRow(current);
    // A row opened by its address may be beyond the part of the list that is built.
    const place = shown.indexOf(current);
    while (byId("list").querySelectorAll("a").length <= place) showMore();
    mark();
    byId("row").scrollTop = 0;
    if (event && document.body.classList.contains("closed")) document.querySelector("main").scrollIntoView({ block: "start" });
  };
  window.addEventListener("hashchange", open);
  const narrow = window.matchMedia("(max-width: 800px)");
  const fold = (closed) => {
    document.body.classList.toggle("closed", closed);
    byId("toggle").setAttribute("aria-expanded", String(!closed));
  };
  byId("toggle").addEventListener("click", () => fold(!document.body.classList.contains("closed")));
  byId("list").addEventListener("click", (event) => { if (narrow.matches && event.target.closest("a")) fold(true); });
  fold(narrow.matches);
  const go = (row) => { if (row) location.hash = anchor(row); };
  const move = (by) => { if (shown.length) go(shown[Math.min(shown.length - 1, Math.max(0, shown.indexOf(current) + by))]); };
  // Goes to the next row with an error, wrapping around, and to its first error.
  const nextError = () => {
    const place = shown.indexOf(current);
    const found = [...shown.slice(place + 1), ...shown.slice(0, Math.max(0, place) + 1)].find((row) => row.failure || isError(row));
    if (!found) return;
    go(found);
    requestAnimationFrame(() => requestAnimationFrame(() => byId("row").querySelector(".first")?.scrollIntoView({ block: "nearest" })));
  };
  const keys = { j: () => move(1), k: () => move(-1), e: nextError };
  document.addEventListener("keydown", (event) => {
    if (event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey || event.altKey) return;
    keys[event.key]?.();
  });
  byId("next").addEventListener("click", keys.j);
  byId("previous").addEventListener("click", keys.k);
  byId("error").addEventListener("click", nextError);
  byId("error").hidden = !rows.some(isError) && !failed.length;
  if (!rows.length && failed.length) filter = filters[filters.length - 1];
  refresh();
  open();
};
