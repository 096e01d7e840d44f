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
  const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
  const percent = (x) => (x === null || x === undefined ? "–" : `${(100 * x).toFixed(1)} %`);
  const number = (x) => (x === null || x === undefined ? "–" : x.toFixed(3));

  const outcome = (row) => (row.first_error === null ? "open" : row.first_error < 0 ? "right" : "wrong");
  const firstError = (index) =>
    index === null || index === undefined ? "undecided" : index < 0 ? "no error" : `error at step ${index}`;
  const disagrees = (row) => row.label !== null && row.label !== row.first_error;
  const threshold = Number(metrics.processbench?.threshold ?? info.config.threshold ?? 0.5);
  const stepClass = (score, limit = threshold) => (score === null ? "open" : score < limit ? "wrong" : "right");

  // ---- head -------------------------------------------------------------------------------------------------------
  const files = [].concat(info.config.files ?? []);
  byId("title").textContent = `${info.command} ${files.join(" ")}`;
  byId("subtitle").textContent = [info.config.model, info.facts.engine, info.facts.sandbox, info.started]
    .filter((part) => typeof part === "string" && part).join(" · ");
  byId("config").textContent = JSON.stringify(
    { config: info.config, facts: info.facts, versions: info.versions, platform: info.platform }, null, 2);
  const fact = (name, value, detail) =>
    byId("facts").append(make("div", "", make("dt", "", name), make("dd", "", value, detail ? make("small", "", ` ${detail}`) : null)));
  fact("rows", metrics.rows.toLocaleString("en"), metrics.interrupted ? "stopped early" : "");
  fact("without an error", metrics.judged_right.toLocaleString("en"));
  fact("with an error", metrics.judged_wrong.toLocaleString("en"));
  if (metrics.undecided) fact("undecided", metrics.undecided.toLocaleString("en"));
  if (metrics.failed) fact("failed", metrics.failed.toLocaleString("en"));
  if (metrics.labels && !metrics.processbench) {
    const { f1, error_accuracy, correct_accuracy, errors, correct } = metrics.labels;
    fact("F1", percent(f1), `${count(errors + correct, "label")}`);
    fact("first error found", percent(error_accuracy), `of ${errors}`);
    fact("no error confirmed", percent(correct_accuracy), `of ${correct}`);
  }
  for (const subset of metrics.processbench?.subsets ?? []) {
    fact(`F1 ${subset.name}`, percent(subset.f1), subset.low === null ? "" : `${(100 * subset.low).toFixed(1)} to ${(100 * subset.high).toFixed(1)}`);
  }
  if (metrics.prmbench) fact("PRMScore", percent(metrics.prmbench.total.prm_score));
  const snippets = Object.values(metrics.code).reduce((sum, n) => sum + n, 0);
  if (snippets) fact("snippets", snippets.toLocaleString("en"), Object.entries(metrics.code).map(([k, n]) => `${n.toLocaleString("en")} ${k}`).join(", "));
  fact("generated tokens", metrics.tokens.generated.toLocaleString("en"),
    metrics.session ? `${Math.round(metrics.session.generated_per_s).toLocaleString("en")} a second` : "");

  // ---- list -------------------------------------------------------------------------------------------------------
  const rows = index.map((row, number) => ({ ...row, number }));
  const failed = failures.map((failure, number) => ({ failure, number, id: failure.id ?? `line ${failure.line}` }));
  const filters = [
    ["All", rows],
    ["Error found", rows.filter((row) => outcome(row) === "wrong")],
    ["No error", rows.filter((row) => outcome(row) === "right")],
    ["Differs from label", rows.filter(disagrees)],
    ["Undecided", rows.filter((row) => outcome(row) === "open")],
    ["Failed", failed],
  ].filter(([name, found]) => name === "All" || found.length);
  let filter = filters[0];
  let shown = [];
  let current = null;
  const anchor = (row) => (row.failure ? `failure-${row.number}` : `row-${row.number}`);

  const strip = (scores) => {
    const node = make("div", "strip");
    for (const score of scores.slice(0, 60)) node.append(make("i", stepClass(score)));
    return node;
  };
  const listEntry = (row) => {
    const link = make("a", "");
    link.href = `#${anchor(row)}`;
    if (row.failure) {
      link.append(make("div", "entry", make("span", "", row.id), make("span", "word open", row.failure.kind)),
        make("div", "excerpt", row.failure.reason));
    } else {
      const word = firstError(row.first_error) + (disagrees(row) ? " ≠ label" : "");
      link.append(make("div", "entry", make("span", "", row.id), make("span", `word ${outcome(row)}`, word)),
        strip(row.scores), make("div", "excerpt", row.excerpt));
    }
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
    byId("more").textContent = `Show more (${rest.toLocaleString("en")} left)`;
    mark();
  };
  const refresh = () => {
    const wanted = byId("search").value.trim().toLowerCase();
    shown = filter[1].filter((row) => !wanted || `${row.id} ${row.excerpt ?? ""} ${row.failure?.reason ?? ""}`.toLowerCase().includes(wanted));
    byId("list").replaceChildren();
    if (!shown.length) byId("list").append(make("li", "none", "No such row."));
    showMore();
  };
  for (const entry of filters) {
    const button = make("button", "", `${entry[0]} ${entry[1].length.toLocaleString("en")}`);
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

  // ---- a row ------------------------------------------------------------------------------------------------------
  const PYTHON = /(#[^\n]*)|([rbfuRBFU]{0,2}(?:"""[\s\S]*?"""|'''[\s\S]*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))|\b(False|None|True|and|as|assert|async|await|break|class|continue|def|del|elif|else|except|finally|for|from|global|if|import|in|is|lambda|nonlocal|not|or|pass|raise|return|try|while|with|yield)\b|(?<![\w.])(\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)/g;
  const python = (source) => {
    const pre = make("pre", "");
    let from = 0;
    for (const match of source.matchAll(PYTHON)) {
      pre.append(source.slice(from, match.index));
      pre.append(make("span", ["c", "s", "k", "n"][match.slice(1).findIndex((group) => group !== undefined)], match[0]));
      from = match.index + match[0].length;
    }
    pre.append(source.slice(from));
    return pre;
  };
  const label = (text, badge) => make("p", "label", text, badge ?? null);

  const SECTION = /<\/?(analyze|verify|output|think)>\n?/g;
  const NAMES = { analyze: "Rationale", verify: "Check", think: "Thinking" };
  const FENCE = /```(\w*)\n([\s\S]*?)(?:\n```|$)/g;
  const VERDICT = /^\*\*Judgement\*\*: \$\\boxed\{(Yes|No)\}\$$/;
  const prose = (parent, text) => {
    let from = 0;
    const plain = (end) => {
      const part = text.slice(from, end).trim();
      if (part && !VERDICT.test(part)) parent.append(make("p", "prose", part));
    };
    for (const match of text.matchAll(SECTION)) {
      plain(match.index);
      if (!match[0].startsWith("</") && NAMES[match[1]]) parent.append(label(NAMES[match[1]]));
      from = match.index + match[0].length;
    }
    plain(text.length);
  };
  const proseAndFences = (parent, text) => {
    let from = 0;
    for (const match of text.matchAll(FENCE)) {
      prose(parent, text.slice(from, match.index));
      parent.append(match[1] === "python" ? python(match[2]) : make("pre", "", match[2]));
      from = match.index + match[0].length;
    }
    prose(parent, text.slice(from));
  };
  // What ran is shown from what the sandbox reported, never from the model's text: a model can write an output of its own.
  const OUTPUT = /^\s*(?:```\s*)?\[Code Output\]\s*```\n[\s\S]*?\n?```\n?/;
  const ran = (parent, run) => {
    const ok = run.status === "ok";
    parent.append(label("Code"), python(run.source));
    const seconds = run.duration_s >= 1 ? `${run.duration_s.toFixed(1)} s` : `${Math.round(1000 * run.duration_s)} ms`;
    const badge = make("span", `badge ${ok ? "right" : run.status === "not_run" ? "open" : "wrong"}`, run.status.replaceAll("_", " "));
    if (run.status === "not_run") return parent.append(label("Not executed", badge));
    parent.append(label(`Output after ${seconds}`, badge));
    const text = [run.stdout.replace(/\n$/, ""), run.error].filter(Boolean).join("\n");
    parent.append(make("pre", ok ? "" : "failed", text || "(nothing printed)"));
  };
  const chainNode = (chain, limit) => {
    const node = make("div", "chain");
    let text = chain.text;
    for (const run of chain.code) {
      const source = run.source.trim();
      const at = source ? text.indexOf(source) : -1;
      if (at >= 0) {
        proseAndFences(node, text.slice(0, at).replace(/```\w*\s*$/, ""));
        text = text.slice(at + source.length).replace(/^\s*```[ \t]*\n?/, "");
        if (run.status !== "not_run") text = text.replace(OUTPUT, "");
      }
      ran(node, run);
    }
    proseAndFences(node, text);
    const kind = stepClass(chain.score, limit);
    node.append(label("Verdict", make("span", `badge ${kind}`, chain.verdict === null ? "none" : `${chain.verdict} ${number(chain.score)}`)));
    if (chain.finish !== "verdict") node.append(make("p", "label", `This chain ended as: ${chain.finish.replaceAll("_", " ")}`));
    const raw = make("details", "raw", make("summary", "", "Raw text"));
    raw.addEventListener("toggle", () => { if (raw.open && raw.children.length === 1) raw.append(make("pre", "", chain.text)); });
    node.append(raw);
    return node;
  };
  const votes = (parent, chains, limit) => {
    if (chains.length === 1) return parent.append(chainNode(chains[0], limit));
    const bar = make("div", "votes");
    const place = make("div", "");
    chains.forEach((chain, number_) => {
      const button = make("button", "", `${number_ + 1}: `, make("span", `word ${stepClass(chain.score, limit)}`, number(chain.score)));
      button.type = "button";
      button.addEventListener("click", () => {
        for (const other of bar.children) other.setAttribute("aria-pressed", "false");
        button.setAttribute("aria-pressed", "true");
        place.replaceChildren(chainNode(chain, limit));
      });
      bar.append(button);
    });
    parent.append(bar, place);
    bar.children[0].click();
  };
  const stepNode = (row, step, position) => {
    const whole = position < 0;
    const verdict = whole ? (step.score === null ? null : step.score < row.threshold ? "No" : "Yes") : row.verdicts[position];
    const kind = stepClass(step.score, row.threshold);
    const badge = make("span", `badge ${kind}`, verdict === null ? "no score" : `${verdict} ${number(step.score)}`);
    const node = make("section", `step${!whole && position === row.first_error ? " first" : ""}`,
      make("div", "head", make("span", "number", whole ? "" : String(position)), make("span", "text", step.step ?? "(text not kept)"), badge));
    if (step.reason) node.append(make("p", "notice", step.reason));
    if (step.chains.some((chain) => chain.text || chain.code.length)) {
      const details = make("details", "", make("summary", "", step.chains.length === 1 ? "How it was judged" : `How ${step.chains.length} chains judged it`));
      const fill = () => { if (details.children.length === 1) votes(details, step.chains, row.threshold); };
      details.addEventListener("toggle", () => { if (details.open) fill(); });
      if (whole || position === row.first_error || row.steps.length <= 3) { fill(); details.open = true; }
      node.append(details);
    }
    return node;
  };
  const showRow = (entry) => {
    const article = byId("row");
    const source = byId(`row-${entry.number}`);
    article.replaceChildren(make("h2", "", entry.id));
    if (!source) {
      return article.append(make("p", "notice", `This page has no room for the row. It is in rows.jsonl under the key ${entry.key}.`));
    }
    const row = JSON.parse(source.textContent);
    const parts = [firstError(row.first_error)];
    if (row.label !== null) parts.push(`label: ${firstError(row.label)}`);
    if (row.answer !== null) parts.push(`reference answer: ${row.answer}`);
    parts.push(count(row.tokens.generated, "generated token"), `${row.seconds.toFixed(1)} s`);
    article.append(make("p", "meta", parts.join(" · ")));
    if (row.problem !== null) article.append(make("p", "problem", row.problem));
    row.steps.forEach((step, position) => article.append(stepNode(row, step, position)));
    if (row.solution) article.append(stepNode(row, { ...row.solution, step: "The solution as a whole" }, -1));
    if (row.solution) {
      const { score, reason, chains } = row.solution;
      const node = make("section", "step", make("div", "head", make("span", "text", "The solution as a whole"),
        make("span", `badge ${stepClass(score, row.threshold)}`, score === null ? "no score" : number(score))));
      if (reason) node.append(make("p", "notice", reason));
      if (chains.length) {
        const details = make("details", "", make("summary", "", "How it was judged"));
        details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) votes(details, chains, row.threshold); });
        node.append(details);
      }
      article.append(node);
    }
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
    mark();
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
