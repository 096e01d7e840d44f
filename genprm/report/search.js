"use strict";
(() => {
  const PAGE = 200;
  const data = JSON.parse(document.getElementById("data").textContent);
  const { info, metrics, failures, index } = data;
  const byId = (id) => document.getElementById(id);

  // Everything that is shown goes through here: text is only ever text.
  const make = (tag, className, ...children) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return node;
  };
  const percent = (x) => (x === null || x === undefined ? "–" : `${(100 * x).toFixed(1)} %`);
  const number = (x) => (x === null || x === undefined ? "–" : x.toFixed(3));
  const whole = (x) => x.toLocaleString("en");
  const mark = (correct) => (correct === true ? "right" : correct === false ? "wrong" : "open");
  const word = (correct) => (correct === true ? "right" : correct === false ? "wrong" : "not compared");
  const threshold = Number(info.config["prm.threshold"] ?? info.config.threshold ?? 0.5);
  const shade = (score) => (score === null || score === undefined ? "open" : score < threshold ? "wrong" : "right");

  // ---- head -------------------------------------------------------------------------------------------------------
  byId("title").textContent = `${info.command} ${info.config.description || info.config.method || ""}`;
  byId("subtitle").textContent = [info.facts.policy, info.facts.model, info.facts.sandbox, info.started]
    .filter((part) => typeof part === "string" && part).join(" · ");
  byId("config").textContent = JSON.stringify(
    { config: info.config, facts: info.facts, versions: info.versions, platform: info.platform }, null, 2);
  const fact = (name, value, detail) =>
    byId("facts").append(make("div", "", make("dt", "", name), make("dd", "", value, detail ? make("small", "", ` ${detail}`) : null)));
  fact("problems", whole(metrics.rows), metrics.interrupted ? "stopped early" : "");
  const range = (row) => `${(100 * row.low).toFixed(1)} to ${(100 * row.high).toFixed(1)}`;
  if (metrics.accuracy !== null && metrics.accuracy !== undefined) fact("accuracy of the choice", percent(metrics.accuracy), range(metrics));
  const largest = {};
  for (const row of metrics.best_of_n?.methods ?? []) largest[row.method] = row;
  for (const [name, row] of Object.entries(largest)) fact(`${name}, n = ${row.n}`, percent(row.accuracy), range(row));
  if (metrics.failed) fact("failed", whole(metrics.failed));
  for (const [name, tokens] of Object.entries(metrics.tokens ?? {})) fact(`tokens, ${name}`, whole(tokens.generated));

  // ---- list -------------------------------------------------------------------------------------------------------
  const rows = index.map((row, number_) => ({ ...row, number: number_ }));
  const failed = failures.map((failure, number_) => ({ failure, number: number_, id: failure.id ?? `line ${failure.line}` }));
  const filters = [
    ["All", rows],
    ["Right", rows.filter((row) => row.correct === true)],
    ["Wrong", rows.filter((row) => row.correct === false)],
    ["Right one passed over", rows.filter((row) => row.possible && row.correct !== true)],
    ["No answer", rows.filter((row) => row.prediction === null)],
    ["Failed", failed],
  ].filter(([name, found]) => name === "All" || found.length);
  let filter = filters[0];
  let shown = [];
  let current = null;
  const anchor = (row) => (row.failure ? `failure-${row.number}` : `row-${row.number}`);
  const listEntry = (row) => {
    const link = make("a", "");
    link.href = `#${anchor(row)}`;
    const label = row.failure ? row.failure.kind : row.prediction ?? "no answer";
    link.append(
      make("div", "entry", make("span", "", row.id), make("span", `word ${row.failure ? "open" : mark(row.correct)}`, label)),
      make("div", "excerpt", row.failure ? row.failure.reason : row.excerpt));
    return make("li", "", link);
  };
  const markCurrent = () => {
    for (const link of byId("list").querySelectorAll("a")) {
      link.setAttribute("aria-current", String(current !== null && link.getAttribute("href") === `#${anchor(current)}`));
    }
  };
  const showMore = () => {
    const from = byId("list").querySelectorAll("a").length;
    byId("list").append(...shown.slice(from, from + PAGE).map(listEntry));
    const rest = shown.length - Math.min(shown.length, from + PAGE);
    byId("more").hidden = rest === 0;
    byId("more").textContent = `Show more (${whole(rest)} left)`;
    markCurrent();
  };
  const refresh = () => {
    const wanted = byId("search").value.trim().toLowerCase();
    shown = filter[1].filter((row) => !wanted || `${row.id} ${row.excerpt ?? ""} ${row.failure?.reason ?? ""}`.toLowerCase().includes(wanted));
    byId("list").replaceChildren();
    if (!shown.length) byId("list").append(make("li", "none", "No such problem."));
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

  // ---- a problem --------------------------------------------------------------------------------------------------
  const chains = (judged) => {
    const texts = judged.flatMap((step) => step.chains ?? []).filter((chain) => chain.text);
    if (!texts.length) return null;
    const details = make("details", "", make("summary", "", "How it was judged"));
    details.addEventListener("toggle", () => {
      if (!details.open || details.children.length > 1) return;
      for (const chain of texts) {
        details.append(make("div", "chain", make("pre", "", chain.text)));
      }
    });
    return details;
  };
  const stepLine = (text, score, position) => make("div", "head", make("span", "number", String(position)),
    make("span", "text plain", text), score === undefined ? null : make("span", `badge ${shade(score)}`, number(score)));
  const candidateNode = (one, title, badge, kind, judged) => {
    const node = make("section", "step candidate",
      make("div", "head", make("span", "number", title), make("span", "text", one.answer === null ? "no answer" : one.answer),
        make("span", `badge ${kind}`, badge)));
    const details = make("details", "", make("summary", "", `${one.steps.length} steps${one.finished ? "" : ", never ended"}`));
    details.addEventListener("toggle", () => {
      if (!details.open || details.children.length > 1) return;
      one.steps.forEach((step, position) => details.append(stepLine(step, one.scores[position], position)));
    });
    node.append(details);
    if (one.reason) node.append(make("p", "notice", one.reason));
    const how = chains(judged ?? one.judged ?? []);
    if (how) node.append(how);
    return node;
  };
  const ranked = (row) => {
    const rank = (one) => (one.finished ? 1e6 : 0) + (one.reward === null ? -1e5 : one.reward);
    return row.candidates.map((one, place) => ({ one, place })).sort((a, b) => rank(b.one) - rank(a.one) || a.place - b.place);
  };
  const tree = (row) => {
    const children = new Map();
    row.nodes.forEach((node, place) => {
      if (!children.has(node.parent)) children.set(node.parent, []);
      children.get(node.parent).push(place);
    });
    const answers = new Map(row.candidates.filter((one) => one.node !== null).map((one) => [one.node, one]));
    const branch = (parent) => {
      const list = make("ul", "tree");
      for (const place of children.get(parent) ?? []) {
        const node = row.nodes[place];
        const ended = answers.get(place);
        const text = node.steps.join("\n\n") || "(nothing)";
        const line = make("div", `node ${node.state}`, make("span", `badge ${shade(node.score)}`, number(node.score)),
          make("span", "text plain", text), make("span", `word ${ended ? mark(ended.correct) : ""}`, ended && ended.finished ? ended.answer ?? "no answer" : node.state));
        const item = make("li", "", line);
        if (children.has(place)) item.append(branch(place));
        list.append(item);
      }
      return list;
    };
    return branch(-1);
  };
  const showSearch = (article, row) => {
    article.append(make("h3", "", "Solutions, best first"));
    for (const { one, place } of ranked(row)) {
      const chosen = place === row.chosen;
      const badge = `${number(one.score)} · ${one.finished ? word(one.correct) : "unfinished"}${chosen ? " · chosen" : ""}`;
      const node = candidateNode(one, `${place + 1}`, badge, one.finished ? mark(one.correct) : "open");
      if (chosen) node.className += " chosen";
      article.append(node);
    }
    if (row.nodes.length) article.append(make("h3", "", "Tree"), tree(row));
  };
  const showTurns = (article, row) => {
    row.turns.forEach((turn, place) => {
      const said = turn.accepted ? "accepted" : turn.first_error === null ? "undecided" : `step ${turn.first_error} rejected`;
      const node = candidateNode(turn, `turn ${place}`, `${word(turn.correct)} · ${said}${place === row.chosen ? " · kept" : ""}`, mark(turn.correct));
      if (place === row.chosen) node.className += " chosen";
      if (turn.message) node.append(make("div", "chain", make("p", "label", "What the policy was told"), make("p", "prose", turn.message)));
      article.append(node);
    });
  };
  const showRow = (entry) => {
    const article = byId("row");
    const source = byId(`row-${entry.number}`);
    article.replaceChildren(make("h2", "", entry.id));
    if (!source) {
      return article.append(make("p", "notice", `This page has no room for the row. It is in rows.jsonl under the key ${entry.key}.`));
    }
    const row = JSON.parse(source.textContent);
    const parts = [`answer: ${row.prediction ?? "none"}`];
    if (row.answer !== null) parts.push(`reference: ${row.answer}`);
    parts.push(`tokens: policy ${whole(row.policy.generated)}, PRM ${whole(row.prm.generated)}`, `${row.seconds.toFixed(1)} s`);
    article.append(make("p", "meta", parts.join(" · ")), make("p", "problem", row.problem));
    if (row.turns) showTurns(article, row); else showSearch(article, row);
  };
  const showFailure = ({ id, failure }) =>
    byId("row").replaceChildren(make("h2", "", id), make("p", "meta", `${failure.file}, line ${failure.line} · ${failure.kind}`),
      make("p", "notice", failure.reason));

  const open = () => {
    const match = location.hash.match(/^#(row|failure)-(\d+)$/);
    const found = match ? (match[1] === "row" ? rows : failed)[Number(match[2])] : undefined;
    current = found ?? shown[0] ?? null;
    if (current === null) return byId("row").replaceChildren(make("p", "none", "This run has no rows yet."));
    if (current.failure) showFailure(current); else showRow(current);
    // A row further down the list than is built yet, reached by its address.
    const place = shown.indexOf(current);
    while (byId("list").querySelectorAll("a").length <= place) showMore();
    markCurrent();
    byId("row").scrollTop = 0;
  };
  window.addEventListener("hashchange", open);
  document.addEventListener("keydown", (event) => {
    if (event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey || event.altKey) return;
    const move = { j: 1, k: -1 }[event.key];
    if (!move || !shown.length) return;
    const next = shown[Math.min(shown.length - 1, Math.max(0, shown.indexOf(current) + move))];
    location.hash = anchor(next);
  });
  if (!rows.length && failed.length) filter = filters[filters.length - 1];
  refresh();
  open();
})();
